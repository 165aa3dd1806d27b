"""`predict`: label the texts of a file, or of a part of a task's release."""

from __future__ import annotations

import csv
import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, TextIO

from ..base.errors import UserError
from ..base.files import check_output
from ..base.options import takes
from ..base.processes import num_processes, rank, start_processes
from ..base.streams import output
from ..base.strict_json import json_line
from ..data.example_rows import Examples
from ..data.tables import Table, read_table, read_texts
from ..tasks.judge import answers
from ..tasks.kind import Kind
from ..tasks.releases.squad import WHERE
from ..tasks.spans import Questions
from ..tasks.task import read_part
from .answer import answer_all, write_answers
from .config import PredictConfig
from .examples import check_part, columns_of, kind_on, named_task, say_messages, split_at_spaces
from .predictor import Predictor, load_predictor
from .submit import submit

__all__ = ["predict"]


Format = Literal["jsonl", "csv"]


@takes(PredictConfig)
def predict(config: PredictConfig) -> int:
    """Label the texts of a file (or of stdin, "-") and write them with labels and probabilities.

    Every column of the input stays; `prediction` and, for classes, `probability` and `probabilities` come
    with it (in csv one column a class, as `probability_yes`). Of several labels `prediction` is a list, in csv
    a text with "|" between them. A model of tokens answers a list of tags for `tokens`, the text cut at white space; a
    model of spans `prediction`, a text of the passage or the empty one, its `probability` and, of squad2, `null_odds`.
    task, part: read that part of a task's release, by default the first test part; without a task that split.
    submit_to: a zip; the predictions for all test parts of the task are added to it in the leaderboard's form, and
        nothing else is written. Of squad and squad2 a folder, for the files of `write_answers`.
    out: a file, or None for stdout. format: by default that of `out`'s suffix, else jsonl.
    Returns the number of texts. Raises UserError for input that cannot be used; then nothing is written.
    """
    format: Format = config.format or (
        "csv" if config.out is not None and config.out.suffix == ".csv" else "jsonl"
    )
    if num_processes() > 1 and config.data == "-":
        raise UserError("several processes cannot share stdin; name a file")
    check_output(config.out, config.model, config.data)
    start_processes(cpu=config.device == "cpu")
    predictor = load_predictor(config.model, config.max_length, config.device, config.backend, config)
    named = named_task(predictor, config.model, config.task, config.data)
    if config.submit_to is not None and predictor.kind != "span":
        if config.part is not None:
            raise UserError(
                f"--part {config.part} and --submit exclude each other: a submission has all test parts"
            )
        if named is None:
            raise UserError(
                "--submit needs the folder of the task's files as data, and --task where the model has none"
            )
        return submit(predictor, named, config.data, config.submit_to, config.batch_size)
    messages: list[str] = []
    if named is not None:
        chosen = named.part(config.part) if config.part is not None else named.of_role("test")[0]
        table = read_part(named, config.data, chosen)
        columns = dataclasses.replace(named.columns, label=None)
    else:
        check_part(config.data, config.part)
        table = read_texts(config.data) if config.part is None else read_table(config.data, split=config.part)
        columns, messages = columns_of(predictor, table, config.text, config.text_pair, None, labelled=False)
        if predictor.kind == "tokens":
            table, columns = split_at_spaces(table, columns)
    kind = kind_on(predictor, columns, named)
    examples = kind.examples(table)
    if config.submit_to is not None:
        assert isinstance(kind, Questions)
        return write_answers(
            answer_all(predictor, kind, examples, config.batch_size, "predict"), config.submit_to
        )
    shown = {name: values for name, values in table.columns.items() if name != WHERE}
    table = dataclasses.replace(table, columns=shown)
    for name in _answer_columns(predictor, format):
        if name in table.columns:
            raise UserError(f"{table.name}: has a column {name!r}, which the predictions need; rename it")
    answered = _answers(predictor, kind, examples, config.batch_size)
    if rank():  # it has its part in them, and the first process writes
        deque(answered, maxlen=0)
        return len(table)
    with output(config.out) as file:
        say_messages(messages)
        _write(file, format, table, answered)
    return len(table)


def _answers(
    predictor: Predictor, kind: Kind, examples: Examples, batch_size: int
) -> Iterator[dict[str, Any]]:
    """What a row of the output has beside the input's columns."""
    if isinstance(kind, Questions):
        for found in answer_all(predictor, kind, examples, batch_size, "predict"):
            odds = {} if found.null_odds is None else {"null_odds": found.null_odds}
            yield {"prediction": found.text, "probability": round(found.probability, 6), **odds}
        return
    encoded = kind.encode(examples, predictor.tokenizer, predictor.task["max_length"])
    outputs = predictor.outputs(encoded.features, kind, batch_size, "predict")
    gold = encoded.features["labels"][:] if "labels" in encoded.features.column_names else None
    yield from answers(kind, outputs, gold, encoded)


def _answer_columns(predictor: Predictor, format: Format) -> list[str]:
    if predictor.kind in ("regression", "tokens"):
        return ["prediction"]
    if predictor.kind == "span":
        return ["prediction", "probability", "null_odds"]
    one = ["probability"] if predictor.kind == "classification" else []
    if format == "jsonl":
        return ["prediction", *one, "probabilities"]
    return ["prediction", *one, *(f"probability_{name}" for name in predictor.labels)]


def _write(file: TextIO, format: Format, table: Table, answers: Iterator[dict[str, Any]]) -> None:
    writer: Any = None
    for index, answer in enumerate(answers):
        row = {name: values[index] for name, values in table.columns.items()} | answer
        if format == "jsonl":
            file.write(json_line(row))
            continue
        probabilities = row.pop("probabilities", {})
        row |= {f"probability_{name}": value for name, value in probabilities.items()}
        for name in ("prediction", "tokens", "tags"):
            if isinstance(row.get(name), list):
                row[name] = ("|" if probabilities else " ").join(row[name])
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
