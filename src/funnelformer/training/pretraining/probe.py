"""How good the encoder is so far: a short fine-tuning of a copy of the model during pretraining."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.json_toml import read_json
from ..finetuning.config import FinetuneConfig
from ..finetuning.task_data import load_task_data
from ..run.folder import METRICS_FILE, resolved, save_final

__all__ = ["Probe"]

# How torchrun and accelerate tell a process that it is one of several.
_OF_PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "ACCELERATE_")


@dataclass(frozen=True)
class Probe:
    """`finetune` with its defaults, in a process of its own: it shares no random state and no device's settings.

    settings: the options of `finetune`, except its model and its folder.
    tokenizer: of the model.
    out: folder of the run, in which temporary ones are made.
    """

    settings: dict[str, Any]
    tokenizer: Any
    out: Path

    def check(self) -> None:
        """Read the tables. Raises UserError as `finetune` does if one cannot be used."""
        load_task_data(self._config(self.out))

    def measure(self, model: Any, state: dict[str, Tensor] | None) -> dict[str, float]:
        """The dev metrics under names such as probe_accuracy; if the fine-tuning fails, none and a warning.

        state: whole weights, where those of the model are not.
        """
        for left in self.out.glob(".probe-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = self.out / f".probe-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            save_final(model, self.tokenizer, folder / "model", state)
            done = subprocess.run(
                [sys.executable, "-m", "funnelformer", "finetune", *_flags(self._config(folder))],
                capture_output=True,
                text=True,
                env=_environment(),
            )
            if done.returncode:
                reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
                print(f"warning: no probe, its fine-tuning failed: {reason}", file=sys.stderr)
                return {}
            metrics = read_json(folder / "run" / METRICS_FILE)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {
            f"probe_{key.removeprefix('dev_')}": value
            for key, value in metrics.items()
            if key.startswith("dev_")
        }

    def _config(self, folder: Path) -> FinetuneConfig:
        return FinetuneConfig(model=str(folder / "model"), out=folder / "run", **self.settings)


def _flags(config: FinetuneConfig) -> list[str]:
    values = {key: value for key, value in resolved(config).items() if value is not False and value != {}}
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def _environment() -> dict[str, str]:
    """The environment of a single process that sees only process 0's accelerator."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OF_PROCESSES)}
    if torch.cuda.is_available():
        kept["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return kept
