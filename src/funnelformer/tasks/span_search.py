"""The best spans of what a head for answers says of each token. No PyTorch here."""

from __future__ import annotations

import numpy as np

__all__ = ["NUM_BEST", "best_spans"]

# Answers of a question that are kept, as the n-best files of the published code have.
NUM_BEST = 20
# Scores of log-odds are never near it; a window without a token of the passage has this one.
_NEVER = np.float32(-1e4)
_LOWEST = np.finfo(np.float32).min


def best_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    start_index: np.ndarray | None = None,
    null_logits: np.ndarray | None = None,
    *,
    max_answer_length: int,
    end_beam: int = 5,
) -> np.ndarray:
    """The best spans of each sequence: rows (first token, last token, score), best first, [B, N, 3], N = 1 + NUM_BEST.

    start_logits, end_logits: [B, T]; of the conditional head [B, K, T] for the ends given each of start_index [B, K].
    null_logits: [B], the log-odds of no answer, of the conditional head.

    Row 0 is no span but (0, 0, log-odds of no answer). Spans have at most `max_answer_length` tokens and none is of
    token 0, [CLS]; where there are fewer, rows are (0, 0, -inf). A score is the sum of the two logits, over all spans;
    of the conditional head the sum of the two log-probabilities, over the `end_beam` best ends of each of its starts.
    The log-odds of the simple head are the logits' sum at [CLS] less the best score.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold is -inf: no answer may have such a token
        start, end = start_logits.astype(np.float32), end_logits.astype(np.float32)
    size, length = start.shape
    reach = min(max_answer_length, length)
    places = np.arange(length)
    if start_index is None:
        beyond = np.full((size, reach - 1), -np.inf, dtype=np.float32)
        later = np.lib.stride_tricks.sliding_window_view(np.concatenate([end, beyond], 1), reach, axis=1)
        with np.errstate(over="ignore"):  # two tokens that no answer may have make -inf
            scores = start[..., None] + later  # [B, T, reach]
        first = np.broadcast_to(places[None, :, None], scores.shape)
        last = first + np.arange(reach)
        odds = start[:, 0] + end[:, 0]
    else:
        assert null_logits is not None
        # In a window of few tokens the beam has starts where no answer may be, whose score is very low.
        distance = places - start_index[..., None]
        ends = np.where((distance >= 0) & (distance < reach), _log_softmax(end), np.float32(-np.inf))
        last = _best(ends, min(end_beam, length))
        of_start = np.take_along_axis(_log_softmax(start), start_index, 1)
        scores = of_start[..., None] + np.take_along_axis(ends, last, -1)
        first = np.broadcast_to(start_index[..., None], scores.shape)
        odds = null_logits.astype(np.float32)
    possible = (first > 0) & (scores > _LOWEST / 2)
    scores, first, last = (
        array.reshape(size, -1) for array in (np.where(possible, scores, np.float32(-np.inf)), first, last)
    )
    best = _best(scores, min(NUM_BEST, scores.shape[1]))
    score = np.take_along_axis(scores, best, 1)
    if start_index is None:
        odds = odds - np.maximum(score[:, 0], _NEVER)
    spans = np.zeros((size, 1 + NUM_BEST, 3), dtype=np.float32)
    spans[:, 0, 2] = odds
    spans[:, 1:, 2] = -np.inf
    found = spans[:, 1 : 1 + best.shape[1]]
    found[..., 2] = score
    is_span = ~np.isneginf(score)
    found[..., 0] = np.take_along_axis(first, best, 1) * is_span
    found[..., 1] = np.take_along_axis(last, best, 1) * is_span
    return spans


def _best(scores: np.ndarray, number: int) -> np.ndarray:
    """Places of the highest numbers along the last axis, the highest first, of equal ones the first."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :number]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
