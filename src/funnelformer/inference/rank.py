"""`rank`: the documents of a file in the order in which a model of pairs puts them for a query."""

from __future__ import annotations

import sys

import numpy as np

from ..base.errors import UserError, printable
from ..base.files import check_output
from ..base.options import takes
from ..base.streams import output
from ..base.strict_json import json_line
from ..data.tables import TaskColumns, guess_single_text, read_text_table
from ..data.values import load_task, text_problem
from ..tasks.ranking import check_ranks, score_column
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
    check_output(config.out, config.model, config.documents)
    predictor = load_predictor(config.model, config.max_length, config.device, config.backend)
    check_ranks(predictor.kind, predictor.task, config.model)
    label = score_column(predictor.kind, predictor.labels, config.label, config.model)
    table = read_text_table(config.documents)
    column, messages = guess_single_text(table, config.text)
    texts = list(load_task(table, TaskColumns(column))["text"])
    for name in ("rank", "row", "score"):
        if name in table.columns:
            raise UserError(f"{table.name}: has a column {name!r}, which the ranking needs; rename it")
    with output(config.out) as file:
        for message in messages:
            print(printable(message), file=sys.stderr)
        found = scores(predictor, config.query, texts, label, config.batch_size)
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
