"""Graphs that are kept: what was traced for a model is not traced again for the same one, in another process either."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from funnelformer.base.sentence_modules import SentenceEmbedding
from funnelformer.export.graph import export_graph

# Of the config what a graph does not depend on.
_NAMES = ("_name_or_path", "architectures", "id2label", "label2id")


def keeping(folder: Path) -> Callable[..., None]:
    """`export_graph`, which takes the file of an equal model from a folder, or leaves it there."""
    folder.mkdir(exist_ok=True)

    def kept(model: Any, target: Any, file: Path, **options: Any) -> None:
        config = {name: value for name, value in model.config.to_dict().items() if name not in _NAMES}
        vectors = model.config.vectors or SentenceEmbedding()
        config["sentence_embedding"] = vectors.pooling, vectors.normalize
        digest = hashlib.sha256(
            json.dumps([config, target.outputs, options], default=str, sort_keys=True).encode()
        )
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        held = folder / f"{digest.hexdigest()}.onnx"
        if held.exists():
            shutil.copy(held, file)
            return
        export_graph(model, target, file, **options)
        copy = held.with_suffix(f".{os.getpid()}")
        shutil.copy(file, copy)
        copy.replace(held)  # whole, whenever another process looks

    return kept
