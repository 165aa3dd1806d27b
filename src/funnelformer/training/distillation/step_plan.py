"""Which texts each step of a run is made with: a function of the seed and the step, which a resumed run repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ...base.errors import UserError
from ...corpus.counter_random import row_keys

__all__ = ["Micro", "StepPlan", "check_enough", "in_random_order"]

# Steps whose texts are sorted by length together.
_SORTED_STEPS = 64


@dataclass(frozen=True)
class Micro:
    """The texts of a micro-batch; with_states: whether the teacher's states are learned of them."""

    rows: np.ndarray
    with_states: bool


def check_enough(num_texts: int, per_step: int) -> None:
    """Raise UserError for fewer texts to learn from than a step has."""
    if num_texts < per_step:
        raise UserError(
            f"--train: there are {num_texts} texts to learn from, too few for a step of {per_step}; give more, or a "
            "smaller --batch-size"
        )


class StepPlan(Dataset[Micro]):
    """The micro-batches of a run, in their order: item i is of step i // micro_per_step.

    The texts of a step are of similar length, so that little is padding: pass after pass over the texts, in an order
    that is drawn anew, neighbours of `_SORTED_STEPS` steps are sorted by length and cut into steps, and the steps of
    the pass are shuffled. What is left over of a pass, less than a step, waits for another one. A step has the same
    texts however it is cut into micro-batches.
    lengths: [N] tokens of each text. rows: the texts to learn from. state_rows: those of the first `state_steps` steps.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        rows: np.ndarray,
        *,
        steps: int,
        per_step: int,
        micro_per_step: int,
        seed: int,
        state_rows: np.ndarray | None = None,
        state_steps: int = 0,
    ) -> None:
        self._lengths, self._rows = lengths, rows
        self._steps, self._per_step, self._micro = steps, per_step, micro_per_step
        self._seed = seed
        self._state_rows, self._state_steps = state_rows, state_steps if state_rows is not None else 0
        self._passes: dict[bool, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._steps * self._micro

    def __getitem__(self, index: int) -> Micro:
        step, part = divmod(index, self._micro)
        with_states = step < self._state_steps
        rows = self.step_rows(step)
        size = self._per_step // self._micro
        return Micro(rows[part * size : (part + 1) * size], with_states)

    def step_rows(self, step: int) -> np.ndarray:
        """The texts of a step, longest first."""
        with_states = step < self._state_steps
        if with_states:
            assert self._state_rows is not None
            rows, number = self._state_rows, step
        else:
            rows, number = self._rows, step - self._state_steps
        steps_per_pass = len(rows) // self._per_step
        which, place = divmod(number, steps_per_pass)
        found = self._passes.get(with_states)
        if found is None or found[0] != which:
            found = (which, self._pass(rows, which, with_states))
            self._passes[with_states] = found
        return found[1][place]

    def _pass(self, rows: np.ndarray, which: int, with_states: bool) -> np.ndarray:
        """The steps [S, per_step] of a pass over these texts."""
        drawn = in_random_order(rows, self._seed, 2 * which + with_states)
        drawn = drawn[: len(drawn) // self._per_step * self._per_step]
        together = _SORTED_STEPS * self._per_step
        steps = []
        for start in range(0, len(drawn), together):
            part = drawn[start : start + together]
            part = part[np.argsort(-self._lengths[part], kind="stable")]
            steps.append(part.reshape(-1, self._per_step))
        whole = np.concatenate(steps)
        return whole[in_random_order(np.arange(len(whole)), self._seed, 2 * which + with_states)]


def in_random_order(rows: np.ndarray, seed: int, number: int) -> np.ndarray:
    """The rows in an order that is a function of the seed and the number."""
    return rows[np.argsort(row_keys(seed, number, rows), kind="stable")]


def one_item(items: list[Any]) -> Any:
    """A micro-batch is one item of the plan."""
    (item,) = items
    return item
