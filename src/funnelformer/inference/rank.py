"""`rank`: the documents of a file in the order in which a model of pairs puts them for a query."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..base.errors import UserError, did_you_mean, printable
from ..base.options import takes
from ..base.streams import output
from ..base.strict_json import json_line
from ..data.tables import TaskColumns, guess_single_text, read_texts
from ..data.values import load_task, text_problem
from .config import RankConfig
from .predictor import Predictor, load_predictor

__all__ = ["rank", "scores"]


@takes(RankConfig)
def rank(config: RankConfig) -> int:
    """Score the pairs of `query` and each document with a fine-tuned model; write the best as JSON lines.

    Every column of the documents stays; `rank` (from 1), `row` (of the document, from 1) and `score` come with it.
    The score is the amount of a model of amounts, else the probability of `label`.
    documents: a file as for `predict`, or "-" for stdin. top_k: by default all. out: a file, or None for stdout.
    Returns the number that was written. Raises UserError for input that cannot be used; then nothing is written.
    """
    if problem := text_problem(config.query):
        raise UserError(f"--query {problem}")
    predictor = load_predictor(config.model, config.max_length, config.device, config.backend)
    score_column = _score_column(predictor, config.model, config.label)
    table = read_texts(config.documents)
    column, messages = guess_single_text(table, config.text)
    texts = list(load_task(table, TaskColumns(column))["text"])
    for name in ("rank", "row", "score"):
        if name in table.columns:
            raise UserError(f"{table.name}: has a column {name!r}, which the ranking needs; rename it")
    with output(config.out) as file:
        for message in messages:
            print(printable(message), file=sys.stderr)
        found = scores(predictor, config.query, texts, score_column, config.batch_size)
        best = np.argsort(-found, kind="stable")[: config.top_k]
        for place, index in enumerate(best.tolist(), start=1):
            row = {name: values[index] for name, values in table.columns.items()}
            entry = {"rank": place, "row": index + 1, "score": float(found[index]), **row}
            file.write(json_line(entry))
    return len(best)


def scores(
    predictor: Predictor, query: str, documents: list[str], label: int | None = None, batch_size: int = 32
) -> np.ndarray:
    """Scores [N] of the pairs (query, document): amounts, or the probability of the class with that id."""
    logits = predictor.logits([query] * len(documents), documents, batch_size, "rank")
    if label is None:
        return logits[:, 0]
    return predictor.probabilities(logits)[:, label]


def _score_column(predictor: Predictor, model: str, label: str | None) -> int | None:
    """The id of the label whose probability is the score; None of a model of amounts."""
    task: dict[str, Any] = predictor.task
    if predictor.kind in ("tokens", "choice"):
        raise UserError(f"{model}: is a model of {predictor.kind}; ranking needs one of pairs of texts")
    if "text" in task and task.get("text_pair") is None:
        raise UserError(f"{model}: was trained on single texts; ranking needs a model of pairs")
    if predictor.kind == "regression":
        if label is not None:
            raise UserError(
                f"--label {label}: {model} gives amounts, which are the scores; leave --label out"
            )
        return None
    names = predictor.labels
    if label is None:
        if predictor.kind == "classification" and len(names) == 2:
            return 1
        raise UserError(
            f"{model}: use --label to name the label whose probability is the score: {', '.join(names)}"
        )
    if label not in names:
        raise UserError(
            f"--label {label}: no label of {model}{did_you_mean(label, names)}; it has {', '.join(names)}"
        )
    return names.index(label)
