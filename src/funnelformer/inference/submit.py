"""Predictions for a leaderboard, from the parts of a task whose labels it keeps to itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.processes import rank
from ..data.tables import Table, TaskColumns
from ..data.values import load_task
from ..tasks.releases import TASKS
from ..tasks.releases.submission import read_submission, submission_text, write_submission
from ..tasks.task import Part, Task, find_part, read_part
from .predictor import Predictor

__all__ = ["submit"]

# The diagnostic of GLUE is answered by the model of MNLI.
_ANSWERED_TOO = {"mnli": ("ax",)}
_STSB_RANGE = (0.0, 5.0)


def submit(predictor: Predictor, task: Task, data: str, file: Path, batch_size: int = 32) -> int:
    """Add the predictions for all test parts of a task to a submission of GLUE; return their number.

    data: the folder of the task's files, or a `datasets` name. A model of MNLI also answers the diagnostic, where
        `data` is a folder that has it. Every row of a test file is answered, also one with an empty text.
    Raises UserError when the task has no leaderboard or a part is missing; then nothing is written.
    """
    parts = [(task, part) for part in task.of_role("test") if part.submission is not None]
    if not parts:
        known = ", ".join(
            name for name, other in TASKS.items() if any(part.submission for part in other.parts)
        )
        raise UserError(f"--submit: {task.name} has no submission; these have one: {known}")
    if Path(data).is_file() and len(parts) > 1:
        raise UserError(f"{data}: {task.name} has {len(parts)} test parts; name the folder that holds them")
    if Path(data).is_dir():
        for name in _ANSWERED_TOO.get(task.name, ()):
            other = TASKS[name]
            parts += [
                (other, part) for part in other.of_role("test") if find_part(other, data, part) is not None
            ]
    tables = [(owner, part, read_part(owner, data, part)) for owner, part in parts]
    files = read_submission(file)
    for owner, part, table in tables:
        assert part.submission is not None
        files[part.submission] = submission_text(_answers(predictor, owner, part, table, batch_size))
    if rank():
        return sum(len(table) for _, _, table in tables)
    missing = write_submission(file, files)
    print(f"{file}: wrote {', '.join(str(part.submission) for _, part in parts)}", file=sys.stderr)
    if missing:
        print(f"{file}: the leaderboard also wants {', '.join(missing)}", file=sys.stderr)
    return sum(len(table) for _, _, table in tables)


def _answers(predictor: Predictor, task: Task, part: Part, table: Table, batch_size: int) -> list[str]:
    """The predictions of one part, as the leaderboard writes them."""
    columns = TaskColumns(task.columns.text, task.columns.text_pair)
    examples = load_task(table, columns, may_be_empty=True)
    pairs = list(examples["text_pair"]) if columns.text_pair is not None else None
    logits = predictor.logits(examples["text"], pairs, batch_size, f"predict {part.submission}")
    if predictor.kind == "regression":
        return [f"{score:.3f}" for score in np.clip(logits[:, 0], *_STSB_RANGE)]
    assert task.release is not None
    names = [predictor.labels[best] for best in logits.argmax(-1)]
    unknown = sorted(set(predictor.labels) - task.release.submitted.keys())
    if unknown:
        raise UserError(f"--submit: the model's label {unknown[0]!r} is not a label of {task.name}")
    return [task.release.submitted[name] for name in names]
