"""`evaluate`: score a model on labelled data, a file or a part of a task's release."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from ..base.errors import UserError
from ..base.files import atomic_writer, check_output
from ..base.options import takes
from ..base.processes import rank, start_processes
from ..base.strict_json import dump_json
from ..base.version import stamped
from ..data.bad_rows import BadRows, OnBadRow
from ..data.data_source import DataFile, find_data
from ..data.example_rows import Examples
from ..data.tables import Table, read_table
from ..tasks.kind import Kind
from ..tasks.spans import Questions
from ..tasks.task import Task, read_part
from .answer import answer_all
from .config import EvaluateConfig
from .examples import check_part, columns_of, kind_on, named_task, say_messages
from .predictor import Predictor, load_predictor

__all__ = ["evaluate", "score"]


@takes(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a model on labelled data; return the metrics, and write them to `out` (JSON) when given.

    task: read `data` as the release of this task; by default the model's own task, if `data` is a folder or the task's
        name on the Hub.
    part: part of the release, such as dev-matched; by default the dev parts, or the test part if there are none.
        Without a task it is a split of a folder or a data set; by default test.
    Under torchrun every process calls this and returns the same; the first process writes and prints.
    Raises UserError for data that does not fit the model, including labels that training did not have.
    """
    check_output(config.out, config.model, config.data)
    start_processes(cpu=config.device == "cpu")
    predictor = load_predictor(config.model, config.max_length, config.device, config.backend, config)
    named = named_task(predictor, config.model, config.task, config.data)
    bad = BadRows(config.skip_bad_rows)
    messages: list[str] = []
    parts: dict[str, Examples] = {}
    kind: Kind
    if named is not None:
        kind = kind_on(predictor, named.columns, named)
        for variant, table in _labelled_parts(named, config.data, config.part, bad).items():
            parts[variant] = kind.examples(table, bad)
    else:
        check_part(config.data, config.part)
        table = read_table(
            config.data,
            split=None if isinstance(find_data(config.data), DataFile) else config.part or "test",
            bad=bad,
        )
        columns, messages = columns_of(
            predictor, table, config.text, config.text_pair, config.label, labelled=True
        )
        kind = kind_on(predictor, columns, None)
        parts[""] = kind.examples(table, bad)
    with nullcontext() if config.out is None or rank() else atomic_writer(config.out) as file:
        say_messages([*messages, *filter(None, [bad.report()])])
        metrics: dict[str, Any] = {"data": config.data, "examples": sum(len(rows) for rows in parts.values())}
        if config.skip_bad_rows:
            metrics["skipped_rows"] = len(bad.problems)
        for variant, examples in parts.items():
            scores = score(predictor, kind, examples, config.batch_size)
            metrics |= {f"{variant}_{name}" if variant else name: value for name, value in scores.items()}
        if file is not None:
            dump_json(stamped(metrics), file)
    return metrics


def score(predictor: Predictor, kind: Kind, examples: Examples, batch_size: int = 32) -> dict[str, float]:
    """The scores of a model on labelled examples."""
    if isinstance(kind, Questions):
        return kind.score_answers(
            answer_all(predictor, kind, examples, batch_size, "evaluate"), examples["texts"][:]
        )
    encoded = kind.encode(examples, predictor.tokenizer, predictor.task["max_length"])
    outputs = predictor.outputs(encoded.features, kind, batch_size, "evaluate")
    return kind.score(outputs, encoded.features["labels"][:], encoded)


def _labelled_parts(task: Task, data: str, part: str | None, bad: OnBadRow) -> Mapping[str, Table]:
    if part is not None:
        chosen = task.part(part)
        if not chosen.is_labelled:
            raise UserError(
                f"the {part} part of {task.name} has no labels; predict --submit writes its submission"
            )
        return {"": read_part(task, data, chosen, bad)}
    parts = [entry for entry in task.of_role("dev") or task.of_role("test") if entry.is_labelled]
    if len(parts) > 1 and isinstance(find_data(data), DataFile):
        known = ", ".join(entry.name for entry in parts)
        raise UserError(
            f"{data}: is one file, but {task.name} has several parts; name one with --part: {known}"
        )
    return {entry.variant: read_part(task, data, entry, bad) for entry in parts}
