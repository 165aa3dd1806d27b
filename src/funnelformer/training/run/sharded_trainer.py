"""The Trainer on models that are copied to every process, or sharded over them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.options import Parallel
from .folder import saved_for_all
from .sharding import load_model, load_optimizer, save_shards, shard, whole_state
from .trainer import RunTrainer

__all__ = ["ShardedTrainer"]


class ShardedTrainer(RunTrainer):
    """A `RunTrainer` that may shard its model, with checkpoints that any number of processes can load.

    Not through the Trainer's own `fsdp`: it takes neither one process nor processes without accelerators, where tests
    run.

    parallel: "ddp" copies the model to every process. "fsdp" shards it; in a run of one process only the checkpoints
        differ.
    """

    def __init__(self, model: Any, *args: Any, parallel: Parallel = "ddp", **kwargs: Any) -> None:
        self._shards = parallel == "fsdp"
        if self._shards:
            shard(model)
        super().__init__(model, *args, **kwargs)
        if self._shards:
            # What it does of a model "for evaluation": autocast and compilation, and not DistributedDataParallel.
            accelerator: Any = self.accelerator
            accelerator.prepare_model = functools.partial(accelerator.prepare_model, evaluation_mode=True)

    def whole_state(self) -> dict[str, Tensor] | None:
        return whole_state(self._bare_model) if self._shards else None

    @property
    def _bare_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    @property
    def _bare_optimizer(self) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self._shards:
            with saved_for_all(self._bare_model):
                super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._shards:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self._bare_model, self._bare_optimizer, Path(output_dir))
        if self.args.should_save:
            scheduler: Any = self.lr_scheduler
            torch.save(scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._shards:
            load_model(self._bare_model, Path(resume_from_checkpoint))
        else:
            self._load_whole(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._shards:
            super()._load_best_model()
            return
        best = self.state.best_model_checkpoint
        assert best is not None
        load_model(self._bare_model, Path(best))

    def _load_whole(self, checkpoint: str, model: Any) -> None:
        super()._load_from_checkpoint(checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._shards:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_optimizer(self._bare_model, self._bare_optimizer, Path(checkpoint))
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(
            torch.load(Path(checkpoint) / "scheduler.pt", map_location="cpu", weights_only=True)
        )
