"""Folders as finished runs leave them, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w


def write_run(
    folder: Path,
    command: str = "finetune",
    metrics: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    log: list[dict[str, Any]] | None = None,
) -> Path:
    """A run of `command`; metrics, config: in place of, or beside, those of a fine-tuning."""
    folder.mkdir(parents=True)
    own = finetuned() if command == "finetune" else {}
    (folder / "metrics.json").write_text(json.dumps({**own, **(metrics or {})}))
    (folder / "run.json").write_text(json.dumps({"command": command}))
    settings = {
        "model": "L1H16",
        "train": "animals.tsv",
        "learning-rate": 0.001,
        "out": str(folder),
        "seed": 42,
    }
    (folder / "run_config.toml").write_text(tomli_w.dumps({**settings, **(config or {})}))
    entries = [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 0.5},
        {"step": 20, "eval_accuracy": 0.75, "eval_loss": 0.6},
        {"step": 20, "train_runtime": 12.5, "train_loss": 0.75},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log or entries))
    return folder


def finetuned(score: float = 0.75, **cost: float) -> dict[str, Any]:
    """Metrics of a fine-tuning."""
    return {
        "model": "L1H16",
        "kind": "classification",
        "metric": "dev_accuracy",
        "dev_loss": 1 - score,
        "dev_accuracy": score,
        "num_parameters": 5186,
        "cost": {"train_seconds": 2.5, "train_flops": 1.5e9, "peak_memory_bytes": 3 * 2**20, **cost},
        "data": {"train": {"source": "data/animals.tsv", "rows": 9, "rows_sha256": "ab"}},
    }
