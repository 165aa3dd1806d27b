"""Find a text by what it says: words in common, nearness of vectors, and the two together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["VECTOR_WEIGHT", "WordIndex", "added", "best", "reciprocal_rank", "similarities"]

# Of a vector's cosine beside the TF-IDF cosine, see `added`.
VECTOR_WEIGHT = 0.5


@dataclass(frozen=True)
class WordIndex:
    """TF-IDF of words and pairs of words of some documents."""

    vectorizer: TfidfVectorizer
    documents: Any

    @classmethod
    def of(cls, documents: Sequence[str]) -> WordIndex:
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        return cls(vectorizer, vectorizer.fit_transform(documents))

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        """Cosines [questions, documents]."""
        return (self.vectorizer.transform(questions) @ self.documents.T).toarray()


def similarities(questions: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Cosines [questions, documents] of vectors of any length."""

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return unit(questions) @ unit(documents).T


def added(words: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The weighted sum of the two kinds of scores: TF-IDF's cosine and half that of the vectors."""
    return words + VECTOR_WEIGHT * vectors


def reciprocal_rank(scores: np.ndarray) -> float:
    """Mean reciprocal rank where document i answers question i. A tie counts as lost.

    scores: [N, N], higher is nearer.
    """
    wanted = np.diag(scores)[:, None]
    return float((1 / (scores >= wanted).sum(axis=1)).mean())


def best(scores: np.ndarray, number: int) -> list[list[int]]:
    """The documents nearest to each question, nearest first."""
    return [np.argsort(-row, kind="stable")[:number].tolist() for row in scores]
