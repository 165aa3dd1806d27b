"""What the reviews have to beat: a bag of words, and a lexicon of feelings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratings import read_table

__all__ = ["Labeller", "bag_of_words", "lexicon"]


@dataclass(frozen=True)
class Labeller:
    """What gives texts their labels, with the seconds that its training took and how many numbers it holds."""

    label: Callable[[Sequence[str]], list[str]]
    training_s: float
    parameters: int

    def accuracy(self, tables: Mapping[str, Path]) -> dict[str, float]:
        """The share of right labels in each table."""
        found = {}
        for name, file in tables.items():
            texts, labels = read_table(file)
            pairs = zip(self.label(texts), labels, strict=True)
            found[name] = sum(given == wanted for given, wanted in pairs) / len(labels)
        return found


def bag_of_words(train: Path) -> Labeller:
    """TF-IDF of words and pairs of words with logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    start = time.perf_counter()
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=300)
    )
    model.fit(*read_table(train))
    training_s = time.perf_counter() - start
    return Labeller(lambda texts: model.predict(list(texts)).tolist(), training_s, model[-1].coef_.size)


def lexicon() -> Labeller:
    """VADER: rated words and some rules, made by the people who collected the sentences.

    Its score is 0 for a sentence without a rated word, which counts as negative.
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()

    def label(texts: Sequence[str]) -> list[str]:
        return [
            "positive" if analyzer.polarity_scores(text)["compound"] > 0 else "negative" for text in texts
        ]

    return Labeller(label, 0.0, len(analyzer.lexicon))
