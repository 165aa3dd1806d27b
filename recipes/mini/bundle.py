"""A distilled model as data of the package: its weights in half precision, which are read in single precision.

python recipes/mini/bundle.py runs/mini src/funnelformer/bundled/mini
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

FILES = (
    *("config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
WEIGHTS = "model.safetensors"


def main(run: Path, out: Path) -> None:
    """Write everything but the card, which is written by hand and stays."""
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (run / name).is_file():
            shutil.copyfile(run / name, out / name)
    for module in run.glob("[0-9]_*"):
        shutil.copytree(module, out / module.name, dirs_exist_ok=True)
    halves = {name: tensor.half().contiguous() for name, tensor in load_file(run / WEIGHTS).items()}
    lost = [name for name, tensor in halves.items() if not tensor.isfinite().all()]
    if lost:
        sys.exit(f"{run}: {lost[0]} does not fit half precision")
    with safe_open(run / WEIGHTS, "pt") as file:
        save_file(halves, out / WEIGHTS, metadata=file.metadata())
    config = json.loads((run / "config.json").read_text())
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
