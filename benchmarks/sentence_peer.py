"""One backend of sentence-transformers in a process of its own: lines of texts in, lines of seconds out.

    python benchmarks/sentence_peer.py FOLDER torch|onnx|openvino THREADS TOKENS

`engines.py` starts it. Nothing of ours is imported, so that it may run with the older transformers that optimum needs.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any


def main() -> None:
    folder, backend, threads, tokens = sys.argv[1:]
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(int(threads))
    options: dict[str, Any] = {}
    if backend == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = int(threads)
        options = {"provider": "CPUExecutionProvider", "session_options": session}
    elif backend == "openvino":
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
        options = {"ov_config": settings}
    known: Any = backend
    model = SentenceTransformer(
        folder, backend=known, model_kwargs=options, device="cpu", local_files_only=True
    )
    model.max_seq_length = int(tokens)
    names = ("sentence-transformers", "transformers", *(("optimum",) if backend != "torch" else ()))
    print(json.dumps({name: version(name) for name in names}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        start = time.perf_counter()
        model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
