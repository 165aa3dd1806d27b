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
from ..data.tables import Table, read_table, read_text_table
from ..spread.table_parts import make_parts
from ..tasks.releases.squad import WHERE
from ..tasks.spans import Questions
from ..tasks.task import Task, TaskColumns, read_part
from .answer import answer_all, say_all, write_answers
from .config import PredictConfig
from .examples import check_part, columns_of, kind_on, named_task, say_messages, split_at_spaces
from .part_jobs import PredictJob
from .predictor import Predictor, load_predictor
from .submit import submit

__all__ = ["predict"]


Format = Literal["jsonl", "csv"]


@takes(PredictConfig)
def predict(config: PredictConfig) -> int:
    """Label the texts of a file (or of stdin, "-") and write them with labels and probabilities.

    Every column of the input stays. `prediction` is added and, for classes, `probability` and `probabilities` (in csv
    one column for each class, such as `probability_yes`). If a text can have several labels, `prediction` is a list; in
    csv "|" stands between them. A model of tokens gives `tokens`, the text split at white space, and a list of tags. A
    model of spans gives as `prediction` a piece of the passage or the empty text, its `probability` and, for squad2,
    `null_odds`.
    task, part: read this part of the task's release, by default the first test part; without a task, this split.
    submit_to: zip file; the predictions for all test parts of the task are added to it in the leaderboard's form, and
        nothing else is written. For squad and squad2 it is a folder for the files of `write_answers`.
    engine: "ray" reads files, patterns or folders, here or on S3, and makes `out` a folder of parts with a manifest,
        see `make_parts`.
    out: file to write, or None for stdout. format: by default what the suffix of `out` says, otherwise jsonl.
    Returns the number of texts. Raises UserError for input that cannot be used; then nothing is written.
    """
    if config.engine == "ray":
        return _predict_on_ray(config)
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
    table, columns, messages = _read(config, predictor, named)
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
    answered = say_all(predictor, kind, examples, config.batch_size)
    if rank():  # it has its part in them, and the first process writes
        deque(answered, maxlen=0)
        return len(table)
    with output(config.out) as file:
        say_messages(messages)
        _write(file, format, table, answered)
    return len(table)


def _read(
    config: PredictConfig, predictor: Predictor, named: Task | None
) -> tuple[Table, TaskColumns, list[str]]:
    """The table, its columns, and what is to be said of the choice of these."""
    if named is not None:
        chosen = named.part(config.part) if config.part is not None else named.of_role("test")[0]
        return read_part(named, config.data, chosen), dataclasses.replace(named.columns, label=None), []
    check_part(config.data, config.part)
    table = (
        read_text_table(config.data) if config.part is None else read_table(config.data, split=config.part)
    )
    columns, messages = columns_of(predictor, table, config.text, config.text_pair, None, labelled=False)
    if predictor.kind == "tokens":
        table, columns = split_at_spaces(table, columns)
    return table, columns, messages


def _predict_on_ray(config: PredictConfig) -> int:
    if config.out is None or config.data == "-":
        raise UserError("--engine ray reads files, not stdin, and writes a folder: name --out")
    names = ("model", "task", "max_length", "doc_stride", "windows", "text", "text_pair", "backend")
    settings = {
        "command": "predict",
        **{name: getattr(config, name) for name in (*names, "rows_per_part")},
    }
    return make_parts(PredictJob(config), config.data, str(config.out), config, settings)["rows"]


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
