"""One run of setfit, in an environment that has it and not us; few_shot.py calls it with the run as JSON on stdin.

pip install setfit        # in a virtual environment of its own
python benchmarks/few_shot.py --peer-python ENVIRONMENT/bin/python ...
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time

import datasets
import sentence_transformers
import setfit
import torch
import transformers


def main() -> None:
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    parts = {
        name: datasets.Dataset.from_dict({"text": asked[name]["text"], "label": asked[name]["label"]})
        for name in ("train", "test")
    }
    begin, begin_cpu = time.perf_counter(), time.process_time()
    model = setfit.SetFitModel.from_pretrained(asked["source"])
    model.model_body.max_seq_length = asked["max_length"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = setfit.Trainer(
            model=model,
            args=setfit.TrainingArguments(
                output_dir=folder,
                batch_size=asked["batch_size"],
                num_epochs=1,
                num_iterations=asked["iterations"],
                seed=asked["seed"],
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=parts["train"],
        )
        trainer.train()
    said = model.predict(parts["test"]["text"][:])
    right = sum(str(one) == str(other) for one, other in zip(said, parts["test"]["label"], strict=True))
    found = {
        "accuracy": right / len(parts["test"]),
        "cpu_seconds": time.process_time() - begin_cpu,
        "seconds": time.perf_counter() - begin,
        "peer_versions": {
            "python": platform.python_version(),
            "setfit": setfit.__version__,
            "sentence_transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
