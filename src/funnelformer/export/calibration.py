"""The examples that an int8 graph is calibrated and judged on: read as `evaluate` and `predict` read a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..data.example_rows import Rows
from ..data.padding import pad_batch
from ..data.tables import guess_columns, read_text_table
from ..data.values import load_task
from ..inference.engines import open_session
from ..inference.evaluate import score
from ..inference.examples import read_examples
from ..inference.onnx_model import OnnxModel
from ..inference.predictor import Predictor
from ..tasks.kind import Kind
from ..tasks.scores import DEFAULT_SCORES
from .int8 import Batch

__all__ = ["Calibration", "read_calibration"]

# Texts that sensitivities are measured on, and static ranges taken from.
_NUM_TEXTS, _BATCH_SIZE = 256, 16
# What int8 may cost: points of the score over 100, or the share of the answers that change.
_MOST_LOST, _MOST_CHANGED = 0.005, 0.01


@dataclass(frozen=True)
class Calibration:
    """batches: inputs of the graph. kind, examples: of a labelled file, else None. num_examples: of the file."""

    predictor: Predictor
    batches: list[Batch]
    kind: Kind | None
    examples: Rows | None
    num_examples: int

    def scores(self, model: Any) -> dict[str, float] | None:
        """The scores of a model, PyTorch's or an `OnnxModel`, on all examples; None if they have no labels."""
        if self.kind is None or self.examples is None:
            return None
        predictor = Predictor(model, self.predictor.tokenizer, self.predictor.task)
        return score(predictor, self.kind, self.examples, 32)

    def judge(self, folder: Path, file: Path) -> tuple[str, Callable[[Path], float], float]:
        """What is judged, a function that judges a graph, and the lowest value to accept, from the float32 graph."""
        before = self.scores(OnnxModel(folder, file))
        if before is not None:
            assert self.kind is not None
            wanted = (*DEFAULT_SCORES.get(self.kind.task.kind, ()), *self.kind.task.scores)
            name = next(name for name in wanted if name in before and name != "error_percent")

            def judged(path: Path) -> float:
                after = self.scores(OnnxModel(folder, path))
                assert after is not None
                return after[name]

            return name, judged, before[name] - _MOST_LOST
        expected = self._answers(file)

        def agreement(path: Path) -> float:
            return float(np.mean(self._answers(path) == expected))

        return "share of the same answers", agreement, 1 - _MOST_CHANGED

    def _answers(self, file: Path) -> np.ndarray:
        """The largest output of each text or token, or the sign of a single one against the mean."""
        session = open_session(file)
        answers = []
        for batch in self.batches:
            output = next(iter(session.run(batch).values()))
            best = output.argmax(-1) if output.shape[-1] > 1 else output[..., 0] > 0
            answers.append(best.ravel())
        return np.concatenate(answers)


def read_calibration(predictor: Predictor, data: str, input_names: list[str]) -> Calibration:
    """Read a file of texts (txt, csv, tsv, jsonl, parquet), with labels or without.

    Models without a fine-tuned head read plain texts. Raises UserError for a file that cannot be used.
    """
    kind, examples = None, None
    if predictor.has_kind:
        try:
            kind, examples = read_examples(predictor, data, labelled=True)
        except UserError:
            kind, unlabelled = read_examples(predictor, data, labelled=False)
        chosen = unlabelled if examples is None else examples
        head = chosen.select(range(min(len(chosen), _NUM_TEXTS)))
        features = kind.encode(head, predictor.tokenizer, predictor.task["max_length"]).features
    else:
        table = read_text_table(data)
        columns, _ = guess_columns(table, need_label=False)
        chosen = load_task(table, columns)
        head = chosen.select(range(min(len(chosen), _NUM_TEXTS)))
        pairs = list(head["text_pair"]) if columns.text_pair else None
        encoded = predictor.tokenizer(
            list(head["text"]), pairs, truncation=True, max_length=predictor.task["max_length"]
        )
        features = Rows(dict(encoded))
    batches: list[Batch] = []
    rows = [{name: row[name] for name in input_names if name in row} for row in features]
    for start in range(0, len(rows), _BATCH_SIZE):
        part = rows[start : start + _BATCH_SIZE]
        batch = pad_batch(predictor.tokenizer, part) if kind is None else kind.pad(predictor.tokenizer, part)
        # A text of its own is no passage: an answer may be anywhere.
        batch.setdefault("answer_mask", batch["attention_mask"])
        batches.append({name: batch[name] for name in input_names})
    return Calibration(predictor, batches, kind if examples is not None else None, examples, len(chosen))
