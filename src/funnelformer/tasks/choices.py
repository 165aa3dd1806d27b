"""One of several answers to a question on a passage: the question with each answer, and the passage."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..config.head_table import HEADS
from ..data.bad_rows import OnBadRow, refuse
from ..data.example_rows import Examples, Rows
from ..data.padding import pad_batch
from ..data.tables import Table
from ..data.values import Labels, text_problem
from .kind import Encoded, Kind
from .releases.race import level_of
from .scores import classification_metrics

__all__ = ["Choices"]

# Tokens of question and answer, of which the last are kept. Source: Dai et al. 2020, as XLNet.
_QUESTION_TOKENS = 128
_NUM_SPECIAL = 3


class Choices(Kind, names=("choice",)):
    """`FunnelformerForMultipleChoice` on `[CLS] question answer [SEP] passage [SEP]`, one sequence an answer."""

    head = HEADS["multiple_choice"]

    def examples(self, table: Table, bad: OnBadRow = refuse) -> Rows:
        """Rows with article, question, options, label (the answer's number; 0 without a column of answers), level."""
        num_options = None if self.task.labels is None else len(self.task.labels)
        rows: list[dict[str, Any]] = []
        for index, (_, row) in enumerate(table.rows()):
            if num_options is None and isinstance(row["options"], list):
                num_options = len(row["options"])
            if self.task.columns.label is None:
                row["answer"] = "A"
            problem = _problem(row, num_options)
            if problem is None:
                rows.append(
                    {
                        "article": row["article"],
                        "question": row["question"],
                        "options": row["options"],
                        "label": string.ascii_uppercase.index(row["answer"]),
                        "level": row.get("level") or level_of(row),
                    }
                )
            else:
                bad(f"{row.get('where') or table.where(index)}: {problem}")
        if not rows:
            raise UserError(f"{table.name}: none of its {len(table)} rows can be used")
        return Rows.from_list(rows)

    def label_names(self, examples: Examples) -> tuple[str, ...]:
        return tuple(string.ascii_uppercase[: len(examples[0]["options"])])

    def settings(self) -> dict[str, Any]:
        assert self.task.labels is not None
        return Labels(self.task.labels).settings()

    def lengths(self, examples: Examples, tokenizer: Any) -> np.ndarray:
        encoded = self.encode(examples, tokenizer, max_length=1 << 30)
        return np.asarray(encoded.features["length"][:])

    def encode(self, examples: Examples, tokenizer: Any, max_length: int) -> Encoded:
        backend = tokenizer.backend_tokenizer

        def tokenise(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            backend.no_truncation()
            backend.no_padding()
            names = ("input_ids", "token_type_ids", "attention_mask", "length", "cut")
            result: dict[str, list[Any]] = {name: [] for name in names}
            columns = (rows[name] for name in ("article", "question", "options"))
            for article, question, options in zip(*columns, strict=True):
                asked = [f"{question} {option}" for option in options]
                questions = backend.encode_batch(asked, add_special_tokens=False)
                passages = backend.encode_batch([article] * len(options), add_special_tokens=False)
                pairs = [_pair(backend, *pair, max_length) for pair in zip(questions, passages, strict=True)]
                result["input_ids"].append([pair.ids for pair in pairs])
                result["token_type_ids"].append([pair.type_ids for pair in pairs])
                result["attention_mask"].append([pair.attention_mask for pair in pairs])
                # By which batches are grouped; the Trainer would count the options.
                result["length"].append(max(len(pair) for pair in pairs))
                result["cut"].append(any(part.overflowing for part in (*questions, *passages)))
            return {**result, "labels": rows["label"]}

        encoded = examples.map(tokenise, batched=True, remove_columns=examples.column_names, desc="tokenise")
        return Encoded(encoded.remove_columns("cut"), examples, sum(encoded["cut"]))

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Any]:
        return _ChoiceCollator(tokenizer)

    def score(self, predictions: Any, gold: Any, encoded: Encoded) -> dict[str, float]:
        """Accuracy, and that of each level that is there and asked for."""
        said, right = np.asarray(predictions).argmax(-1), np.asarray(gold)
        levels = np.asarray(encoded.examples["level"])
        scores = classification_metrics(said.tolist(), right.tolist(), ("accuracy",))
        for name in self.task.scores:
            of_level = levels == name.removesuffix("_accuracy")
            if name not in scores and of_level.any():
                scores[name] = float(np.mean(said[of_level] == right[of_level]))
        return scores


def _problem(row: dict[str, Any], num_options: int | None) -> str | None:
    """What is wrong with a question, in a few words."""
    for name in ("article", "question"):
        if problem := text_problem(row[name]):
            return f"{name} {problem}"
    options = row["options"]
    if not isinstance(options, list):
        return "options is no list"
    if len(options) != num_options or not 2 <= len(options) <= len(string.ascii_uppercase):
        return f"{len(options)} options, {num_options} are needed"
    for option in options:
        if problem := text_problem(option):
            return f"an option {problem}"
    letters = string.ascii_uppercase[: len(options)]
    if not isinstance(row["answer"], str) or len(row["answer"]) != 1 or row["answer"] not in letters:
        return f"the answer is {row['answer']!r}, not one of {', '.join(letters)}"
    return None


def _pair(backend: Any, question: Any, passage: Any, max_length: int) -> Any:
    """One sequence: the end of the question, the beginning of the passage, and the tokenizer's special tokens."""
    question.truncate(min(_QUESTION_TOKENS, max_length - _NUM_SPECIAL), direction="left")
    passage.truncate(max(0, max_length - _NUM_SPECIAL - len(question)))
    return backend.post_process(question, passage, add_special_tokens=True)


@dataclass(frozen=True)
class _ChoiceCollator:
    """Pads the sequences of all answers alike: [B, C, T]."""

    tokenizer: Any

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        names = [name for name in self.tokenizer.model_input_names if name in features[0]]
        rows = [{name: feature[name] for name in names} for feature in features]
        padded = pad_batch(self.tokenizer, rows)
        batch = {name: torch.from_numpy(array) for name, array in padded.items()}
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features])
        return batch
