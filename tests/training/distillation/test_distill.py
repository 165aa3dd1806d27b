"""The command `distill`: a student learns, and a run that was stopped goes on as if nothing had been."""

from __future__ import annotations

import json

import numpy as np
import pytest

from funnelformer import load_embedder
from sentence_folders import load_sentence_transformer
from training.toy import interrupted_at, log_of, metrics_of, run, weights_equal


@pytest.fixture(scope="module")
def whole(lesson):
    """A run that nothing disturbs."""
    out = lesson.folder / "whole"
    assert run(*lesson.command, "--out", out) == 0
    return out


def test_a_student_comes_nearer_to_its_teacher(lesson, whole):
    entries = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    cosines = [entry["eval_cosine"] for entry in entries if "eval_cosine" in entry]
    assert len(cosines) == 2
    assert cosines[0] < cosines[1]
    losses = [entry for entry in entries if "loss" in entry]
    # The states are learned in the first half of the steps.
    assert ["states_loss" in entry for entry in losses] == [True, True, False, False]
    for entry in losses:
        parts = entry["vectors_loss"] + entry["similarity_loss"] + entry.get("states_loss", 0)
        assert entry["loss"] == pytest.approx(parts, rel=1e-4)  # the log rounds to six digits


def test_the_folder_is_an_embedder_with_the_teachers_modules(lesson, whole):
    student, teacher = load_embedder(str(whole)), load_embedder(str(lesson.teacher))
    assert student.model.config.blocks == [2, 2]
    assert (student.normalize, student.pooling, student.max_length) == (True, "mean_tokens", 32)
    assert student.model.config.hidden_dropout == teacher.model.config.hidden_dropout == 0.1
    texts = ["the red cat runs .", "the blue dog sleeps . the green cow eats ."]
    vectors = student.vectors(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(load_sentence_transformer(whole).encode(texts), vectors, atol=1e-6)


def test_a_resumed_run_repeats_what_an_uninterrupted_one_does(lesson, whole, tmp_path):
    out = tmp_path / "out"
    with interrupted_at(14):
        assert run(*lesson.command, "--out", out) == 130
    assert run(*lesson.command, "--out", out, "--resume") == 0
    logs = [[entry for entry in log_of(folder) if "train_loss" not in entry] for folder in (whole, out)]
    assert logs[0] == logs[1]
    assert weights_equal(whole, out)
    assert metrics_of(whole) == metrics_of(out)
