"""What every kind of task defines: its head, what the model reads, what its answers score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..base.errors import UserError
from ..config.head_table import Head
from ..config.model_options import ModelOptions
from ..data.bad_rows import OnBadRow, refuse
from ..data.example_rows import Examples, Rows
from ..data.padding import pad_batch
from ..data.tables import Table
from .task import KindName, Task
from .windowing import Windowing
from .windows import mean_by_owner

__all__ = ["KINDS", "Encoded", "Kind"]

# Name of a kind -> its class; each class adds itself, by its `names`.
KINDS: dict[str, type[Kind]] = {}


@dataclass(frozen=True)
class Encoded:
    """What a model reads: features, one or more an example, the examples they are of, and how many texts were cut.

    owners: the example of each feature, where an example has several; they are in the order of the examples.
    """

    features: Any  # of the type of the examples
    examples: Examples
    num_cut: int
    owners: np.ndarray | None = None


class Kind(ABC):
    """How a model learns and answers the tasks of one kind. `task` has its columns and labels.

    names: of its kinds, under which a class adds itself to `KINDS`.
    head: its entry of the table of heads.
    has_class_names: its head has a row for each of the task's labels, or one for amounts.
    """

    has_class_names: ClassVar[bool] = False
    head: ClassVar[Head]

    def __init_subclass__(cls, names: tuple[KindName, ...] = (), **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        KINDS.update(dict.fromkeys(names, cls))

    def __init__(self, task: Task) -> None:
        self.task = task

    def in_windows(self, windowing: Windowing) -> Kind:
        """The kind that reads a long text in such windows.

        Raises UserError where there is no single text to cut, or their scores do not combine.
        """
        raise UserError(
            f"{windowing.option} makes windows of single texts; this is a task of {self.task.kind}"
        )

    @abstractmethod
    def examples(self, table: Table, bad: OnBadRow = refuse) -> Rows:
        """Check a table and return its examples, with their labels; tells `bad` of a row that cannot be used."""

    def label_names(self, examples: Examples) -> tuple[str, ...] | None:
        """The labels in the training examples, if the release does not name them; None for a task without any."""
        return self.task.labels

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Keys of the model's config."""

    @abstractmethod
    def lengths(self, examples: Examples, tokenizer: Any) -> np.ndarray:
        """Tokens of each example's sequence, uncut."""

    @abstractmethod
    def encode(self, examples: Examples, tokenizer: Any, max_length: int) -> Encoded:
        """Tokenise."""

    def remark(self, encoded: Encoded, max_length: int) -> str | None:
        """A remark on the encoded training data, which a run prints; None when there is none."""
        if not encoded.num_cut:
            return None
        return f"{encoded.num_cut} of {len(encoded.examples)} training texts exceed {max_length} tokens and were cut"

    @abstractmethod
    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Any]:
        """Makes a batch of features for training: tensors, with the labels."""

    def pad(self, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """A batch of features without labels, see `pad_batch`."""
        return pad_batch(tokenizer, rows)

    @abstractmethod
    def score(self, predictions: Any, gold: Any, encoded: Encoded) -> dict[str, float]:
        """The task's scores of a model's outputs for all features."""

    def reduce(self, outputs: Any, config: ModelOptions) -> Any:
        """What `score` needs of a model's outputs for a batch (one tensor, or a tuple): by default all."""
        return outputs

    def combine(self, logits: np.ndarray, owners: np.ndarray | None) -> np.ndarray:
        """The logits of each example from those of its features."""
        return mean_by_owner(logits, owners)

    def tuned(self, scores: Mapping[str, float]) -> Kind:
        """The kind with what the dev scores (by their names in metrics.json) decide, such as a threshold."""
        return self

    def saved(self) -> dict[str, Any]:
        """What `evaluate` and `predict` need to know besides the columns, see `task.json`."""
        return {}
