"""`evaluate` and `predict`: a fine-tuned model on a file, or on a part of a task's release."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TextIO

import datasets

from ..base.errors import UserError, printable
from ..base.files import atomic_writer
from ..base.options import takes
from ..base.processes import num_processes, rank, start_processes
from ..base.streams import output
from ..base.strict_json import dump_json, json_line
from ..base.version import stamped
from ..command_configs import EvaluateConfig, PredictConfig
from ..data.bad_rows import BadRows, OnBadRow
from ..data.tables import Table, TaskColumns, guess_columns, is_hub_name, read_table, read_texts
from ..data.values import load_task
from ..tasks.judge import answers
from ..tasks.kind import Kind
from ..tasks.kinds import kind_of
from ..tasks.releases import find_task
from ..tasks.releases.squad import WHERE
from ..tasks.scores import DEFAULT_SCORES
from ..tasks.spans import Questions
from ..tasks.task import Task, read_part
from .answer import answer_all, questions_of, write_answers
from .predictor import Predictor, load_predictor
from .submit import submit

__all__ = ["evaluate", "predict", "read_examples", "score"]

Format = Literal["jsonl", "csv"]


@takes(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a model on labelled data; return the metrics, and write them to `out` (JSON) when given.

    task: read `data` as the release of that task; by default the model's own where `data` is a folder, or its name on
        the Hub.
    part: of the release, as dev-matched; by default the dev parts, or the test part where there is none. Without a task
        a split of a folder or a data set; by default test.
    Under torchrun every process calls it and returns the same; the first one writes and prints.
    Raises UserError for data that does not fit the model, a label unseen in training included.
    """
    start_processes(cpu=config.device == "cpu")
    predictor = load_predictor(config.model, config.max_length, config.device, config.backend)
    named = _named_task(predictor, config.model, config.task, config.data)
    bad = BadRows(config.skip_bad_rows)
    messages: list[str] = []
    parts: dict[str, datasets.Dataset] = {}
    kind: Kind
    if named is not None:
        kind = _kind(predictor, named.columns, named)
        for variant, table in _labelled_parts(named, config.data, config.part, bad).items():
            parts[variant] = kind.examples(table, bad)
    else:
        _check_part(config.data, config.part)
        table = read_table(
            config.data, split=None if Path(config.data).is_file() else config.part or "test", bad=bad
        )
        columns, messages = _columns(
            predictor, table, config.text, config.text_pair, config.label, labelled=True
        )
        kind = _kind(predictor, columns, None)
        parts[""] = kind.examples(table, bad)
    with nullcontext() if config.out is None or rank() else atomic_writer(config.out) as file:
        _say([*messages, *filter(None, [bad.report()])])
        metrics: dict[str, Any] = {"data": config.data, "examples": sum(len(rows) for rows in parts.values())}
        if config.skip_bad_rows:
            metrics["skipped_rows"] = len(bad.problems)
        for variant, examples in parts.items():
            scores = score(predictor, kind, examples, config.batch_size)
            metrics |= {f"{variant}_{name}" if variant else name: value for name, value in scores.items()}
        if file is not None:
            dump_json(stamped(metrics), file)
    return metrics


def score(
    predictor: Predictor, kind: Kind, examples: datasets.Dataset, batch_size: int = 32
) -> dict[str, float]:
    """The scores of a model on labelled examples."""
    if isinstance(kind, Questions):
        return kind.score_answers(
            answer_all(predictor, kind, examples, batch_size, "evaluate"), examples["texts"][:]
        )
    encoded = kind.encode(examples, predictor.tokenizer, predictor.task["max_length"])
    collator = kind.collator(predictor.tokenizer)
    outputs = predictor.outputs(encoded.features, collator, batch_size, "evaluate")
    return kind.score(outputs, encoded.features["labels"][:], encoded)


def read_examples(predictor: Predictor, data: str, *, labelled: bool) -> tuple[Kind, datasets.Dataset]:
    """The examples of a file, in the columns of the training data or those that look like them, and their kind.

    Raises UserError for a file that does not fit the model.
    """
    table = read_table(data) if labelled else read_texts(data)
    columns, _ = _columns(predictor, table, None, None, None, labelled=labelled)
    if predictor.kind == "tokens" and not labelled:
        table, columns = _split_at_spaces(table, columns)
    kind = _kind(predictor, columns, None)
    return kind, kind.examples(table)


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
    start_processes(cpu=config.device == "cpu")
    predictor = load_predictor(config.model, config.max_length, config.device, config.backend)
    named = _named_task(predictor, config.model, config.task, config.data)
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
        _check_part(config.data, config.part)
        table = read_texts(config.data) if config.part is None else read_table(config.data, split=config.part)
        columns, messages = _columns(predictor, table, config.text, config.text_pair, None, labelled=False)
        if predictor.kind == "tokens":
            table, columns = _split_at_spaces(table, columns)
    kind = _kind(predictor, columns, named)
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
        _say(messages)
        _write(file, format, table, answered)
    return len(table)


def _check_part(data: str, part: str | None) -> None:
    """Raise UserError for a part where no task names any and the data have no splits."""
    has_splits = is_hub_name(data) or (Path(data).is_dir() and not (Path(data) / "state.json").exists())
    if part is not None and not has_splits:
        raise UserError(
            f"--part {part} is of a --task, or of a folder or a name with splits; {data} is neither"
        )


def _named_task(predictor: Predictor, model: str, task: str | None, data: str) -> Task | None:
    """The task that `data` is a release of: the one that is named, or of a folder the one the model learned.

    Of names on the Hub only the task's own, with or without its owner: others may be anything.
    """
    learned = predictor.task.get("task")
    release = find_task(learned).release if learned else None
    is_own = release is not None and data in (release.hub, release.hub.partition("/")[2])
    # Questions have no other form than their task's.
    by_itself = Path(data).is_dir() or is_own or predictor.kind in ("choice", "span")
    name = task or (learned if by_itself else None)
    if name is None and predictor.kind == "span":
        raise UserError(f"{model}: does not say what it was trained on; name --task squad or --task squad2")
    if name is None:
        return None
    if data == "-":
        raise UserError("stdin has texts; the questions of a task are in a file or a folder")
    named = find_task(name)
    if named.kind != predictor.kind:
        raise UserError(
            f"{model}: is a model of {predictor.kind}, but {named.name} is a task of {named.kind}"
        )
    if predictor.task.get("text_pair") is None and named.columns.text_pair and "text" in predictor.task:
        raise UserError(f"{model}: was trained on single texts, but {named.name} has pairs")
    return named


def _labelled_parts(task: Task, data: str, part: str | None, bad: OnBadRow) -> Mapping[str, Table]:
    if part is not None:
        chosen = task.part(part)
        if not chosen.is_labelled:
            raise UserError(
                f"the {part} part of {task.name} has no labels; predict --submit writes its submission"
            )
        return {"": read_part(task, data, chosen, bad)}
    parts = [entry for entry in task.of_role("dev") or task.of_role("test") if entry.is_labelled]
    if len(parts) > 1 and Path(data).is_file():
        known = ", ".join(entry.name for entry in parts)
        raise UserError(
            f"{data}: is one file, and {task.name} has several parts; say with --part which: {known}"
        )
    return {entry.variant: read_part(task, data, entry, bad) for entry in parts}


def _kind(predictor: Predictor, columns: TaskColumns, named: Task | None) -> Kind:
    """The kind of the model's task, with the model's labels, on these columns."""
    if predictor.kind == "span":
        return questions_of(predictor, named, labelled=columns.label is not None)
    if named is None and predictor.task.get("task"):
        named = find_task(predictor.task["task"])
    scores = DEFAULT_SCORES[predictor.kind] if named is None else named.scores
    labels = None if predictor.kind == "regression" else tuple(predictor.labels)
    positive = None
    if named is not None and named.labels is not None and len(named.labels) == 2 and labels is not None:
        positive = named.labels[1] if named.labels[1] in labels else None
    columns = dataclasses.replace(columns, separator=predictor.task.get("label_separator"))
    return kind_of(
        Task("", predictor.kind, columns, labels, scores, positive=positive), predictor.task.get("doc_stride")
    )


def _split_at_spaces(table: Table, columns: TaskColumns) -> tuple[Table, TaskColumns]:
    """Texts as lists of tokens, which a model of tokens reads."""
    texts = load_task(table, TaskColumns(columns.text))["text"]
    tokens = {"tokens": [text.split() for text in texts]}
    return dataclasses.replace(table, columns={**table.columns, **tokens}), TaskColumns("tokens")


def _columns(
    predictor: Predictor,
    table: Table,
    text: str | None,
    text_pair: str | None,
    label: str | None,
    labelled: bool,
) -> tuple[TaskColumns, list[str]]:
    """The columns to read, and what was guessed, in words.

    They are those the user names, else those of the training data if the table has them, else a guess.
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
    return columns, messages


def _say(messages: list[str]) -> None:
    """Tell what was guessed, once nothing can fail any more: an error is one line."""
    for message in messages if rank() == 0 else []:
        print(printable(message), file=sys.stderr)


def _answers(
    predictor: Predictor, kind: Kind, examples: datasets.Dataset, batch_size: int
) -> Iterator[dict[str, Any]]:
    """What a row of the output has beside the input's columns."""
    if isinstance(kind, Questions):
        for found in answer_all(predictor, kind, examples, batch_size, "predict"):
            odds = {} if found.null_odds is None else {"null_odds": found.null_odds}
            yield {"prediction": found.text, "probability": round(found.probability, 6), **odds}
        return
    encoded = kind.encode(examples, predictor.tokenizer, predictor.task["max_length"])
    outputs = predictor.outputs(encoded.features, kind.collator(predictor.tokenizer), batch_size, "predict")
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
