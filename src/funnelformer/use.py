"""`evaluate` and `predict`: a fine-tuned model on a file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TextIO

import datasets

from .data.files import atomic_writer
from .data.tables import Labels, Table, guess_columns, load_task, read_table, read_texts
from .errors import UserError
from .inference import Predictor, load_predictor
from .metrics import classification_metrics, regression_metrics

__all__ = ["evaluate", "predict"]

Format = Literal["jsonl", "csv"]


def evaluate(
    model: str,
    data: str,
    *,
    out: Path | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    device: Literal["auto", "cpu"] = "auto",
) -> dict[str, Any]:
    """Score a model on labelled data; return the metrics, and write them to `out` (JSON) when given.

    Raises UserError for data that does not fit the model, a label unseen in training included.
    """
    _check_batch_size(batch_size)
    predictor = load_predictor(model, max_length, device)
    table = read_table(data, split=None if Path(data).is_file() else "test")
    task, guessed = _task(predictor, table, text, text_pair, label, labelled=True)
    gold = list(task["label"])
    with nullcontext() if out is None else atomic_writer(out) as file:
        _say(guessed)
        logits = predictor.logits(task["text"], _pairs(task), batch_size, "evaluate")
        if predictor.is_regression:
            scores = regression_metrics(logits[:, 0].tolist(), gold)
        else:
            scores = classification_metrics(logits.argmax(-1).tolist(), gold)
        metrics = {"data": data, "examples": len(gold), **scores}
        if file is not None:
            json.dump(metrics, file, indent=2)
    return metrics


def predict(
    model: str,
    data: str = "-",
    *,
    out: Path | None = None,
    format: Format | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    device: Literal["auto", "cpu"] = "auto",
) -> int:
    """Label the texts of a file (or of stdin, "-") and write them with labels and probabilities.

    Every column of the input stays; `prediction` and, for classes, `probability` and `probabilities` come
    with it (in csv one column a class, as `probability_yes`).
    out: a file, or None for stdout. format: by default that of `out`'s suffix, else jsonl.
    Returns the number of texts. Raises UserError for input that cannot be used; then nothing is written.
    """
    format = format or ("csv" if out is not None and out.suffix == ".csv" else "jsonl")
    _check_batch_size(batch_size)
    predictor = load_predictor(model, max_length, device)
    table = read_texts(data)
    task, guessed = _task(predictor, table, text, text_pair, None, labelled=False)
    columns = _answer_columns(predictor, format)
    for name in table.columns:
        if name in columns:
            raise UserError(f"{table.name}: has a column {name!r}, which the predictions need; rename it")
    with nullcontext(sys.stdout) if out is None else atomic_writer(out) as file:
        _say(guessed)
        logits = predictor.logits(task["text"], _pairs(task), batch_size, "predict")
        _write(file, format, table, _answers(predictor, logits))
    return len(table)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; allowed: 1 and more")


def _task(
    predictor: Predictor,
    table: Table,
    text: str | None,
    text_pair: str | None,
    label: str | None,
    labelled: bool,
) -> tuple[datasets.Dataset, list[str]]:
    """Read what the model needs of a table; return it and what was guessed, in words.

    The columns are those the user names, else those of the training data if the file has them, else a guess.
    """
    known = {
        role: name
        for role, name in predictor.task.items()
        if role in ("text", "text_pair", "label") and name in table.columns
    }
    columns, messages = guess_columns(
        table,
        text=text or known.get("text"),
        text_pair=text_pair or known.get("text_pair"),
        label=(label or known.get("label")) if labelled else None,
        need_label=labelled,
    )
    if predictor.task.get("text_pair") and columns.text_pair is None:
        raise UserError(
            f"{table.name}: the model was trained on pairs of texts; name the second with --text-pair"
        )
    labels = None if predictor.is_regression else Labels(tuple(predictor.labels))
    return load_task(table, columns, labels=labels, regression=predictor.is_regression), messages


def _say(messages: list[str]) -> None:
    """Tell what was guessed, once nothing can fail any more: an error is one line."""
    for message in messages:
        print(message, file=sys.stderr)


def _pairs(task: Any) -> list[str] | None:
    return list(task["text_pair"]) if "text_pair" in task.column_names else None


def _answers(predictor: Predictor, logits: Any) -> Iterator[dict[str, Any]]:
    if predictor.is_regression:
        for score in logits[:, 0]:
            yield {"prediction": float(score)}
        return
    names = predictor.labels
    for row in predictor.probabilities(logits):
        best = int(row.argmax())
        yield {
            "prediction": names[best],
            "probability": round(float(row[best]), 6),
            "probabilities": {name: round(float(p), 6) for name, p in zip(names, row, strict=True)},
        }


def _answer_columns(predictor: Predictor, format: Format) -> list[str]:
    if predictor.is_regression:
        return ["prediction"]
    if format == "jsonl":
        return ["prediction", "probability", "probabilities"]
    return ["prediction", "probability", *(f"probability_{name}" for name in predictor.labels)]


def _write(file: TextIO, format: Format, table: Table, answers: Iterator[dict[str, Any]]) -> None:
    writer: Any = None
    for index, answer in enumerate(answers):
        row = {name: values[index] for name, values in table.columns.items()} | answer
        if format == "jsonl":
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            continue
        probabilities = row.pop("probabilities", {})
        row |= {f"probability_{name}": value for name, value in probabilities.items()}
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
