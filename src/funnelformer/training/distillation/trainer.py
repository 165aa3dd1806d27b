"""The Trainer of distillation: the loss of a student, its parts in the log, and its measurements."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback

from ...base.processes import num_processes
from ...inference.embedder import Embedder
from ..run.sharded_trainer import ShardedTrainer
from ..run.sharding import whole_tensor
from .held_out import Agreement, Score
from .losses import similarity_loss, states_loss, vectors_loss
from .state_windows import StateTarget
from .step_plan import Micro, one_item
from .student import Student
from .teacher_outputs import TeacherStates, TeacherVectors
from .token_rows import TokenRows

__all__ = ["Collator", "DistillTrainer", "FrozenEmbeddings"]


class Collator:
    """A micro-batch of the plan as tensors: the student's inputs, and what the teacher says of these texts."""

    def __init__(
        self, tokens: TokenRows, vectors: TeacherVectors | None, states: TeacherStates | None
    ) -> None:
        self._tokens, self._vectors, self._states = tokens, vectors, states

    def __call__(self, items: list[Micro]) -> dict[str, Any]:
        micro = one_item(items)
        batch: dict[str, Any] = self._tokens.batch(micro.rows)
        if self._vectors is not None:
            batch["teacher_vectors"] = self._vectors.take(micro.rows)
        if micro.with_states:
            assert self._states is not None
            batch["teacher_states"] = self._states.take(micro.rows)
        return batch


class FrozenEmbeddings(TrainerCallback):
    """The token embeddings do not change before a step."""

    def __init__(self, student: Student, until: int) -> None:
        self._table, self._until = student.encoder.embeddings.word_embeddings.weight, until

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._table.requires_grad_(state.global_step >= self._until)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._table.requires_grad_(True)


class DistillTrainer(ShardedTrainer):
    """A Trainer of a `Student` on a `StepPlan`.

    weights: of what is learned, by name. targets: the states, where they are learned.
    scores: measured at every evaluation, with the student as an embedder of `embedder`'s settings; the metric
    "agreement" is what the best checkpoint is chosen by: the mean of the correlations with people; without any the mean
    cosine with the teacher; else of the ranks of passages, or the accuracies.
    """

    def __init__(
        self,
        model: Student,
        *args: Any,
        weights: Mapping[str, float],
        similarity_weight: float,
        targets: Sequence[StateTarget] = (),
        scores: Sequence[Score] = (),
        embedder: Embedder,
        **kwargs: Any,
    ) -> None:
        # Shards answer only when all processes ask together, and of the texts measured each reads its own.
        shares = kwargs.get("parallel") == "fsdp" and num_processes() > 1
        self._whole = copy.deepcopy(model) if shares else None
        super().__init__(model, *args, **kwargs)
        self._weights, self._similarity_weight = dict(weights), similarity_weight
        self._targets, self._scores, self._embedder = list(targets), list(scores), embedder
        self._parts: dict[str, tuple[Tensor, int]] = {}

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """The plan has its order."""
        plan: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(plan)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        theirs, their_states = inputs.pop("teacher_vectors", None), inputs.pop("teacher_states", None)
        output = model(wants_states=their_states is not None, **inputs)
        parts: dict[str, Tensor] = {}
        loss = torch.zeros((), device=output["vectors"].device)
        if theirs is not None:
            parts["vectors_loss"] = vectors_loss(output["projected"].float(), theirs)
            parts["similarity_loss"] = similarity_loss(output["vectors"].float(), theirs)
            both = parts["vectors_loss"] + self._similarity_weight * parts["similarity_loss"]
            loss = loss + self._weights["vectors"] * both
        if their_states is not None:
            mine = [output["states"][target.student] for target in self._targets]
            parts["states_loss"] = states_loss(mine, their_states)
            loss = loss + self._weights["states"] * parts["states_loss"]
        for name, part in parts.items():
            total, number = self._parts.get(name, (0, 0))
            self._parts[name] = (total + part.detach(), number + 1)
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            parts, self._parts = self._parts, {}
            for name, (total, number) in parts.items():
                logs[name] = float(self.accelerator.reduce(total, "mean")) / number
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Every process takes part; all have the metrics."""
        with self.watch.pause():
            metrics = {f"eval_{name}": value for name, value in self.measure().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(self) -> dict[str, float]:
        """The scores of the student as it is."""
        student: Student = self._whole_student()
        embedder = replace(self._embedder, model=student.encoder)
        was_training = student.training
        student.eval()
        found: dict[str, float] = {}
        for score in self._scores:
            if isinstance(score, Agreement):
                score = replace(score, projection=student.projection)
            found |= score.measure(embedder)
        student.train(was_training)
        return {"agreement": _agreement(found), **found}

    def _whole_student(self) -> Student:
        """With all weights, on every process."""
        student: Student = self.accelerator.unwrap_model(self.model)
        if self._whole is None:
            return student
        with torch.no_grad():
            for mine, shard in zip(self._whole.parameters(), student.parameters(), strict=True):
                mine.copy_(whole_tensor(shard))
        return self._whole


def _agreement(found: Mapping[str, float]) -> float:
    """The one number that the best checkpoint has the highest of."""
    for prefix in ("spearman_", "cosine", "mrr_", "accuracy_"):
        values = [value for name, value in found.items() if name.startswith(prefix)]
        if values:
            return sum(values) / len(values)
    return math.nan
