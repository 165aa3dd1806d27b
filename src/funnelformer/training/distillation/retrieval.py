"""Finding the passage of a question: how near its vector is to the question's, among those of all passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...base.errors import UserError
from ...data.formats import row_name
from ...data.values import text_problem
from ...inference.embedder import Embedder
from ...tasks.releases.squad import SQUAD
from ...tasks.task import read_part
from .held_out import quiet, unit

__all__ = ["Retrieval", "ranks", "read_retrieval"]

_RECALL_AT = 10
# Similarities computed at once.
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Retrieval:
    """Questions, and passages of which each question has one.

    name: of the file. owner: [Q] the number of each question's passage.
    """

    name: str
    questions: Sequence[str]
    passages: Sequence[str]
    owner: np.ndarray

    def measure(self, embedder: Embedder) -> dict[str, float]:
        """mrr: mean of 1 over the place of the right passage. recall@10: share of those in the first ten places."""
        vectors = unit(embedder.vectors([*self.questions, *self.passages], advance=quiet))
        number = len(self.questions)
        places = ranks(vectors[:number], vectors[number:], self.owner)
        return {
            f"mrr_{self.name}": float((1 / places).mean()),
            f"recall@{_RECALL_AT}_{self.name}": float((places <= _RECALL_AT).mean()),
        }


def ranks(queries: np.ndarray, documents: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """[Q] the place from 1 of each query's own document when all are put in the order of their products with it.

    Documents that are as near count as before it.
    """
    found = []
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        scores = queries[start : start + _ROWS_AT_ONCE] @ documents.T
        own = scores[np.arange(len(scores)), owner[start : start + _ROWS_AT_ONCE]]
        found.append((scores >= own[:, None]).sum(1))
    return np.concatenate(found)


def read_retrieval(files: Sequence[str]) -> list[Retrieval]:
    """Read files in SQuAD's form, or tables with the columns question and context; equal passages are one.

    Raises UserError for any other file, and for a row without a question or a passage.
    """
    found = []
    (task,) = (task for task in SQUAD if task.spans is not None and task.spans.may_lack_answer)
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"--retrieval {file}: no such file")
        table = read_part(task, file, task.part("dev"))
        for column in ("question", "context"):
            if column not in table.columns:
                raise UserError(
                    f"--retrieval {file}: no column {column!r}; allowed is a file of SQuAD's form"
                )
            for index, value in enumerate(table.columns[column]):
                if problem := text_problem(value):
                    where = row_name(file, index, table.lines[index])
                    raise UserError(f"--retrieval {where}: column {column!r} {problem}")
        passages = list(dict.fromkeys(table.columns["context"]))
        place = {passage: number for number, passage in enumerate(passages)}
        owner = np.array([place[passage] for passage in table.columns["context"]])
        found.append(Retrieval(name_of(file), table.columns["question"], passages, owner))
    return found


def name_of(file: str) -> str:
    """The name of a file without its suffixes; for train, dev and test that of the folder goes before it."""
    path = Path(file)
    name = path.name.partition(".")[0]
    return f"{path.absolute().parent.name}_{name}" if name in ("train", "dev", "test", "validation") else name
