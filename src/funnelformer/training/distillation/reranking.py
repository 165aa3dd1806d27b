"""What a model of pairs is worth for search: the place it gives a question's passage among others like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...inference.predictor import Predictor
from .retrieval import read_retrieval

__all__ = ["Reranking", "read_reranking"]

# Of a file, in equal steps; and the passages of each, its own among them.
_QUESTIONS, _CANDIDATES = 100, 20


@dataclass(frozen=True)
class Reranking:
    """Questions with passages to put in order, the right one first in each row.

    name: of the file. candidates: [Q, C] numbers of passages.
    """

    name: str
    questions: Sequence[str]
    passages: Sequence[str]
    candidates: np.ndarray

    def measure(self, model: Any, tokenizer: Any, max_length: int) -> dict[str, float]:
        """mrr: mean of 1 over the place of the right passage; passages with the same score count as before it.

        model: with one number a pair.
        """
        was_training = model.training
        model.eval()
        number, size = self.candidates.shape
        questions = [question for question in self.questions for _ in range(size)]
        passages = [self.passages[index] for index in self.candidates.reshape(-1)]
        predictor = Predictor(model, tokenizer, {"max_length": max_length})
        scores = predictor.logits(questions, passages)[:, 0].reshape(number, size)
        model.train(was_training)
        places = (scores >= scores[:, :1]).sum(1)
        return {f"mrr_{self.name}": float((1 / places).mean())}


def read_reranking(files: Sequence[str]) -> list[Reranking]:
    """Up to 100 questions of each file, with their passage and the 19 other passages that TF-IDF finds nearest.

    Raises UserError as `read_retrieval`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = []
    for retrieval in read_retrieval(files):
        number = min(_QUESTIONS, len(retrieval.questions))
        chosen = np.linspace(0, len(retrieval.questions) - 1, number).round().astype(int)
        questions = [retrieval.questions[index] for index in chosen]
        owner = retrieval.owner[chosen]
        vectorizer = TfidfVectorizer(sublinear_tf=True).fit(retrieval.passages)
        near = vectorizer.transform(questions) @ vectorizer.transform(retrieval.passages).T
        scores = np.asarray(near.todense())
        scores[np.arange(number), owner] = np.inf  # first
        candidates = np.argsort(-scores, axis=1, kind="stable")[:, :_CANDIDATES]
        found.append(Reranking(retrieval.name, questions, retrieval.passages, candidates))
    return found
