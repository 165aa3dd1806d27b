"""Search: ranks, and the two kinds of score added."""

from __future__ import annotations

import numpy as np
import pytest
from search import WordIndex, added, best, reciprocal_rank, similarities


def test_reciprocal_rank_by_hand():
    # first; second; a tie counts as lost: rank 2
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.1, 0.3]])
    assert reciprocal_rank(scores) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_cosines_do_not_depend_on_lengths():
    found = similarities(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[5.0, 0.0], [0.0, 3.0]]))
    np.testing.assert_allclose(found, [[1, 0], [0.5**0.5, 0.5**0.5]])


def test_added_is_words_and_half_of_vectors():
    np.testing.assert_allclose(added(np.array([[0.5, 0.0]]), np.array([[0.0, 1.0]])), [[0.5, 0.5]])


def test_words_find_the_document_that_has_them():
    index = WordIndex.of(["join two tables on a key", "smooth a signal over time"])
    scores = index.scores(["how to join tables", "a noisy signal"])
    assert best(scores, 1) == [[0], [1]]
    assert scores[0, 0] > scores[0, 1]


def test_best_is_nearest_first():
    assert best(np.array([[0.1, 0.9, 0.5], [0.7, 0.7, 0.1]]), 2) == [[1, 2], [0, 1]]
