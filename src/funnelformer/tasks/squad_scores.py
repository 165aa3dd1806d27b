"""Exact match and F1 of answers to questions, as the official scripts of SQuAD 1.1 and 2.0 count them.

Source: Rajpurkar et al. 2016 (arXiv:1606.05250) and 2018 (arXiv:1806.03822), evaluate-v1.1.py and evaluate-v2.0.py.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

__all__ = ["answer_metrics", "best_threshold", "exact_match", "is_exact", "normalise", "token_f1"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(answer: str) -> str:
    """Lower case, without ASCII punctuation, without the words a, an, the, with single spaces: in this order.

    Other punctuation (“ ” – €) stays, as in the official scripts.
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """1 if both are the same after `normalise`, otherwise 0."""
    return float(normalise(prediction) == normalise(gold))


def is_exact(prediction: str, golds: Sequence[str]) -> bool:
    """Whether it is one of the gold answers; if there is none, whether it is empty."""
    return _best(prediction, _texts(golds), exact_match) > 0


def token_f1(prediction: str, gold: str, *, may_be_empty: bool) -> float:
    """F1 of the bags of words of two normalised answers.

    may_be_empty: when one of them has no word, 1 if neither has, else 0 (the rule of 2.0); in 1.1 that is always 0.
    """
    said, right = normalise(prediction).split(), normalise(gold).split()
    if may_be_empty and not (said and right):
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else 0.0


def _best(prediction: str, golds: Sequence[str], score: Callable[[str, str], float]) -> float:
    return max(score(prediction, gold) for gold in golds)


def _texts(golds: Sequence[str]) -> Sequence[str]:
    """A gold answer of articles alone is none to the official script."""
    return [gold for gold in golds if normalise(gold)] or [""]


def answer_metrics(
    predictions: Sequence[str],
    golds: Sequence[Sequence[str]],
    null_odds: Sequence[float] | None = None,
    null_threshold: float = 0.0,
) -> dict[str, float]:
    """Scores in percent of one answer to each question, the best over its gold answers.

    golds: of each question; none: it has no answer.
    null_odds: how much speaks for there being no answer; where it is above `null_threshold` the empty answer counts,
        not the prediction. None: the scores of SQuAD 1.1, `exact_match`, `f1`. Otherwise those of 2.0: `exact`, `f1`,
        both of the questions that have an answer (`HasAns_`) and of those that have none (`NoAns_`), each with its
        `total`, and `best_exact`, `best_f1` at the thresholds `best_exact_thresh`, `best_f1_thresh`, where they are
        highest.
    Raises ValueError when there are no questions, or lengths differ.
    """
    if not predictions or len(predictions) != len(golds) or len(null_odds or predictions) != len(golds):
        raise ValueError("as many predictions as gold answers (and odds) are needed, and at least one")
    if null_odds is None:
        if not all(golds):
            raise ValueError("a question without an answer is one of SQuAD 2.0, and needs null_odds")
        f1 = [
            _best(said, right, lambda a, b: token_f1(a, b, may_be_empty=False))
            for said, right in zip(predictions, golds, strict=True)
        ]
        exact = [_best(said, right, exact_match) for said, right in zip(predictions, golds, strict=True)]
        return {"exact_match": _percent(exact), "f1": _percent(f1)}
    raw: dict[str, list[float]] = {"exact": [], "f1": []}
    for said, right in zip(predictions, golds, strict=True):
        raw["exact"].append(float(is_exact(said, right)))
        raw["f1"].append(_best(said, _texts(right), lambda a, b: token_f1(a, b, may_be_empty=True)))
    has_answer = [bool(right) for right in golds]
    scores: dict[str, float] = {}
    for prefix, wanted in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
        chosen = [number for number, has in enumerate(has_answer) if has in wanted]
        for name, values in raw.items():
            found = [
                float(not has_answer[number]) if null_odds[number] > null_threshold else values[number]
                for number in chosen
            ]
            if found:
                scores[prefix + name] = _percent(found)
        if chosen:
            scores[prefix + "total"] = len(chosen)
    for name, values in raw.items():
        best, threshold = best_threshold(values, [bool(said) for said in predictions], has_answer, null_odds)
        scores |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return scores


def best_threshold(
    scores: Sequence[float], is_said: Sequence[bool], has_answer: Sequence[bool], null_odds: Sequence[float]
) -> tuple[float, float]:
    """The highest mean score, in percent, that a threshold of the odds reaches, and such a threshold.

    scores: of each question, when it is answered. is_said: whether the prediction is not empty. Above the threshold the
    empty answer counts. It is half way from the odds of the last question that is answered to the next, the lowest of
    equal ones: the official script names those odds themselves, where rounding decides that question. Of questions with
    equal odds all are answered or none (the official script may stop between them). A threshold below or above all is 1
    away (the official script says 0 for the former, as of probabilities).
    """
    current = float(sum(not has for has in has_answer))
    best, threshold = current, min(null_odds) - 1.0
    order = sorted(range(len(scores)), key=lambda number: null_odds[number])
    for place, number in enumerate(order):
        if has_answer[number]:
            current += scores[number]
        elif is_said[number]:
            current -= 1
        odds = float(null_odds[number])
        following = float(null_odds[order[place + 1]]) if place + 1 < len(order) else odds + 2.0
        if following > odds and current > best:
            best, threshold = current, (odds + following) / 2
    return 100 * best / len(scores), threshold


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
