"""Exact match and F1 against values worked out by hand from the rules of the official scripts."""

from __future__ import annotations

import pytest

from funnelformer.tasks.squad_scores import answer_metrics, best_threshold, exact_match, normalise, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat's\thouse!", "cats house"),
        ("an apple, a day", "apple day"),
        ("theatre and anthem", "theatre and anthem"),  # articles are words, not beginnings
        ("U.S.A.", "usa"),
        ("A.", ""),  # the point goes first, then the article
        ("a-the", "athe"),  # so no article is left here
        ("The", ""),
        ("  ", ""),
        ("“quoted” €5…", "“quoted” €5…"),  # no ASCII punctuation
        ("L'Été", "lété"),
        ("the\u00a0cat", "cat"),  # a no-break space is white space
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("said", "gold", "exact", "f1"),
    [
        ("the cat", "Cat.", 1, 1),
        ("black cat", "the cat", 0, 2 / 3),  # precision 1/2, recall 1/1
        ("cat cat dog", "cat cow", 0, 2 / 5),  # one "cat" in common: precision 1/3, recall 1/2
        ("cow", "cat", 0, 0),
        ("", "cat", 0, 0),
        ("cat", "", 0, 0),
        ("€5", "5", 0, 0),
    ],
)
def test_scores_of_one_pair(said, gold, exact, f1):
    assert exact_match(said, gold) == exact
    for may_be_empty in (True, False):
        assert token_f1(said, gold, may_be_empty=may_be_empty) == pytest.approx(f1)


def test_two_answers_without_a_word():
    """The same to both scripts, but the F1 of 1.1 finds no word in common."""
    for said, gold in (("", ""), ("a", "The"), ("...", "")):
        assert exact_match(said, gold) == 1
        assert token_f1(said, gold, may_be_empty=True) == 1
        assert token_f1(said, gold, may_be_empty=False) == 0


def test_version_1_takes_the_best_gold_answer():
    # 100 and 100; 0 and F1 of "red cat" with "cat" (2/3, not 1/2 with "big red dog"); 0 and 0.
    predictions = ["the cat", "red cat", ""]
    golds = [["dog", "cat"], ["big red dog", "cat"], ["cow"]]
    scores = answer_metrics(predictions, golds)
    assert scores == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * (1 + 2 / 3) / 3)}
    with pytest.raises(ValueError, match=r"SQuAD 2\.0"):
        answer_metrics(["x"], [[]])


def test_version_2_by_hand():
    """Odds above 0 empty the second and the fourth; the sixth is refused too."""
    predictions = ["cat", "cat", "red cat", "cow", "cow", "cat"]
    golds = [["cat"], ["cat"], ["cat", "the"], [], [], ["cat"]]
    odds = [-3.0, 0.5, -1.0, 2.0, -0.5, 4.0]
    scores = answer_metrics(predictions, golds, odds)
    # exact: 1, 0, 0, 1 (rightly empty), 0, 0. F1: 1, 0, 2/3, 1, 0, 0.
    assert scores["exact"] == pytest.approx(100 * 2 / 6)
    assert scores["f1"] == pytest.approx(100 * (2 + 2 / 3) / 6)
    assert scores["HasAns_exact"] == pytest.approx(100 / 4)
    assert scores["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert (scores["NoAns_exact"], scores["NoAns_f1"]) == (50.0, 50.0)
    assert (scores["total"], scores["HasAns_total"], scores["NoAns_total"]) == (6, 4, 2)
    # Answering none is right twice. In the order of the odds: +1 (3), +0 (3), -1 (2), +1 (3), -1 (2), +1 (3).
    assert scores["best_exact"] == pytest.approx(100 * 3 / 6)
    assert scores["best_exact_thresh"] == -2.0
    # F1 the same but for 2/3 at -1: 3, 3.67, 2.67, 3.67 (no better), 2.67, 3.67.
    assert scores["best_f1"] == pytest.approx(100 * (3 + 2 / 3) / 6)
    assert scores["best_f1_thresh"] == -0.75
    at_best = answer_metrics(predictions, golds, odds, scores["best_f1_thresh"])
    assert at_best["f1"] == pytest.approx(scores["best_f1"])


def test_a_gold_answer_of_articles_alone_is_the_empty_one():
    """So the official script counts it, though the question stays one with an answer."""
    scores = answer_metrics(["", "cat"], [["The"], ["a", "cat"]], [-1.0, -1.0])
    assert (scores["exact"], scores["HasAns_total"]) == (100.0, 2)
    assert "NoAns_exact" not in scores
    assert answer_metrics(["x"], [["The"]], [1.0])["exact"] == 0.0


def test_no_threshold_stands_between_equal_odds():
    """Of three with the same odds one is right: answering all three is no better than none."""
    best, threshold = best_threshold([1.0, 0.0, 0.0], [True] * 3, [True, False, False], [1.0, 1.0, 1.0])
    assert (best, threshold) == (pytest.approx(200 / 3), 0.0)
    best, threshold = best_threshold([1.0, 0.0, 0.0], [True] * 3, [True, False, False], [0.9, 1.0, 1.0])
    assert (best, threshold) == (100.0, pytest.approx(0.95))
    best, threshold = best_threshold([1.0, 1.0], [True] * 2, [True, True], [0.5, 1.0])
    assert (best, threshold) == (100.0, 2.0)


def test_a_threshold_that_answers_none():
    """Lies below all odds, so that it does what it says."""
    odds = [-5.0, -4.0]
    scores = answer_metrics(["x", "y"], [[], []], odds)
    assert (scores["exact"], scores["best_exact"], scores["best_exact_thresh"]) == (0.0, 100.0, -6.0)
    assert answer_metrics(["x", "y"], [[], []], odds, -6.0)["exact"] == 100.0


def test_empty_predictions_are_right_where_there_is_no_answer():
    scores = answer_metrics(["", ""], [[], ["cat"]], [-1.0, -1.0])
    assert (scores["exact"], scores["NoAns_f1"], scores["HasAns_f1"]) == (50.0, 100.0, 0.0)


def test_lengths_that_differ():
    for arguments in (([], []), (["a"], [["a"], ["b"]]), (["a"], [["a"]], [0.0, 1.0])):
        with pytest.raises(ValueError, match="at least one"):
            answer_metrics(*arguments)
