"""GLUE (Wang et al. 2019, arXiv:1804.07461): ten tasks from the files of its release, and the leaderboard's zip.

The columns and the numbers of labels are those of the release's tsv files, which have no quoting: a quotation mark is a
character. The labels are called as in the data set `nyu-mll/glue` on the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...data.bad_rows import OnBadRow
from ...data.formats import iter_rows
from ...data.tables import Table, TaskColumns, collect
from ..task import Part, Release, Task

__all__ = ["GLUE", "SUBMISSION_FILES"]

_HUB = "nyu-mll/glue"
# CoLA's files have no header, but its test file has one.
_COLA_COLUMNS = ("source", "label", "original_label", "sentence")
# How the files of MRPC, MNLI, QQP, STS-B and the diagnostic name what we name as the Hub does.
_RENAMED = {
    "#1 String": "sentence1",
    "#2 String": "sentence2",
    "Quality": "label",
    "gold_label": "label",
    "score": "label",
    "is_duplicate": "label",
    "Premise": "premise",
    "Hypothesis": "hypothesis",
    "Label": "label",
}
_OF_SENTENCES = {"sentence1": "premise", "sentence2": "hypothesis"}


def _read(file: Path, part: Part, bad: OnBadRow) -> Table:
    return collect(iter_rows(file, bad=bad), str(file))


def _read_cola(file: Path, part: Part, bad: OnBadRow) -> Table:
    columns = None if part.role == "test" else _COLA_COLUMNS
    return collect(iter_rows(file, columns=columns, bad=bad), str(file))


def _parts(folder: str) -> tuple[Part, ...]:
    """One file a role, of which the test file has no labels."""
    return (
        Part("train", ("train.tsv",), "train"),
        Part("dev", ("dev.tsv",), "validation"),
        Part("test", ("test.tsv",), "test", is_labelled=False, submission=f"{folder}.tsv"),
    )


def _task(
    name: str,
    folder: str,
    columns: TaskColumns,
    labels: tuple[str, ...] | None,
    scores: tuple[str, ...],
    *,
    numbered: bool,
    parts: tuple[Part, ...] | None = None,
    folders: tuple[str, ...] = (),
    renamed: Mapping[str, str] = _RENAMED,
) -> Task:
    """numbered: whether files and leaderboard write the labels as their ids."""
    names = labels or ()
    release = Release(
        parts=parts or _parts(folder),
        folders=(folder, *folders),
        read=_read_cola if name == "cola" else _read,
        hub=f"{_HUB}:{name}",
        renamed=renamed,
        written={str(number): label for number, label in enumerate(names)} if numbered else {},
        submitted={label: str(number) if numbered else label for number, label in enumerate(names)},
    )
    return Task(name, "regression" if labels is None else "classification", columns, labels, scores, release)


_PAIR = TaskColumns("sentence1", "sentence2", "label")
_NLI = TaskColumns("premise", "hypothesis", "label")
_NLI_LABELS = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
_ACCURACY = ("accuracy",)

GLUE = (
    _task(
        "cola",
        "CoLA",
        TaskColumns("sentence", None, "label"),
        ("unacceptable", "acceptable"),
        ("matthews", "accuracy"),
        numbered=True,
    ),
    _task(
        "sst2",
        "SST-2",
        TaskColumns("sentence", None, "label"),
        ("negative", "positive"),
        _ACCURACY,
        numbered=True,
    ),
    _task("mrpc", "MRPC", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1"), numbered=True),
    _task("stsb", "STS-B", _PAIR, None, ("pearson", "spearman"), numbered=False),
    _task(
        "qqp",
        "QQP",
        TaskColumns("question1", "question2", "label"),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        numbered=True,
    ),
    _task(
        "mnli",
        "MNLI",
        _NLI,
        _NLI_LABELS,
        _ACCURACY,
        numbered=False,
        parts=(
            Part("train", ("train.tsv",), "train"),
            Part("dev", ("dev_matched.tsv",), "validation_matched", "matched"),
            Part("dev", ("dev_mismatched.tsv",), "validation_mismatched", "mismatched"),
            Part("test", ("test_matched.tsv",), "test_matched", "matched", False, "MNLI-m.tsv"),
            Part("test", ("test_mismatched.tsv",), "test_mismatched", "mismatched", False, "MNLI-mm.tsv"),
        ),
        renamed=_RENAMED | _OF_SENTENCES,
    ),
    _task(
        "qnli",
        "QNLI",
        TaskColumns("question", "sentence", "label"),
        _ENTAILMENT,
        _ACCURACY,
        numbered=False,
    ),
    _task("rte", "RTE", _PAIR, _ENTAILMENT, _ACCURACY, numbered=False),
    _task("wnli", "WNLI", _PAIR, ("not_entailment", "entailment"), _ACCURACY, numbered=True),
    # The diagnostic: no training data, a model of MNLI answers it. Its file with labels is a download of its own.
    _task(
        "ax",
        "AX",
        _NLI,
        _NLI_LABELS,
        ("matthews", "accuracy"),
        numbered=False,
        parts=(
            Part("dev", ("diagnostic-full.tsv",), "test"),
            Part("test", ("diagnostic.tsv", "AX.tsv"), "test", is_labelled=False, submission="AX.tsv"),
        ),
        folders=("diagnostic",),
        renamed=_RENAMED | _OF_SENTENCES,
    ),
)

SUBMISSION_FILES = tuple(part.submission for task in GLUE for part in task.parts if part.submission)
