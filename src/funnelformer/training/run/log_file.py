"""The log of a run while it grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ...base.processes import rank
from ...base.strict_json import json_text

__all__ = ["LogFile"]


class LogFile(TrainerCallback):
    """Write the log as it grows; a resumed run goes on from the log in its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_open = path, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_open = rank() == 0
        if self.is_open:
            self.path.write_text("".join(json_text(entry) + "\n" for entry in state.log_history))
        else:
            # Of its own, or its dropout would be that of process 0.
            torch.manual_seed(args.seed + rank())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.is_open:
            with self.path.open("a") as file:
                file.write(json_text(state.log_history[-1]) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_open = False
