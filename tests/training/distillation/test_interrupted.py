"""A teacher's pass that is interrupted, files that are damaged, losses that are NaN."""

from __future__ import annotations

import pytest

from funnelformer.training.distillation import teacher_outputs, token_rows
from funnelformer.training.distillation.teacher import Teacher
from training.toy import fails, run


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 64 texts and of 16 with states, so that there are several."""
    monkeypatch.setattr(token_rows, "ROWS_PER_PART", 64)
    monkeypatch.setattr(teacher_outputs, "ROWS_PER_PART", 64)
    monkeypatch.setattr(teacher_outputs, "_STATE_ROWS_PER_PART", 16)


def test_a_pass_of_the_teacher_goes_on_with_the_part_it_was_at(lesson, tmp_path, monkeypatch, small_parts):
    calls = []
    original = Teacher.vectors

    def vectors(self, batch):
        calls.append(len(batch["input_ids"]))
        if interrupts and sum(calls) > 200:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(Teacher, "vectors", vectors)
    command = (*lesson.command, "--steps", 2, "--evaluate-every", 2, "--cache", tmp_path / "cache")
    interrupts = True
    assert run(*command, "--out", tmp_path / "out") == 130
    assert not (tmp_path / "out").exists()
    whole_parts = list((tmp_path / "cache").glob("vectors-*/*.vectors.npy"))
    assert len(whole_parts) == 3
    written = {file: file.stat().st_mtime_ns for file in whole_parts}
    calls.clear()
    interrupts = False
    assert run(*command, "--out", tmp_path / "out") == 0
    # Of 300 texts those of three parts were there.
    assert sum(calls) == 300 - 3 * 64
    assert {file: file.stat().st_mtime_ns for file in whole_parts} == written
    # Another seed, and another student, use all of it again.
    calls.clear()
    for number, options in enumerate([("--seed", 1), ("--layout", "B4", "--learn", "vectors")]):
        assert run(*command, *options, "--out", tmp_path / str(number)) == 0
    assert calls == []


def test_a_part_that_is_no_array_is_named(lesson, tmp_path, capsys):
    command = (*lesson.command, "--steps", 2, "--evaluate-every", 2, "--cache", tmp_path / "cache")
    assert run(*command, "--out", tmp_path / "out") == 0
    (file,) = (tmp_path / "cache").glob("vectors-*/*.npy")
    file.write_bytes(file.read_bytes()[:1000])
    message = fails(capsys, *command, "--out", tmp_path / "other")
    assert message.startswith(f"{file}: cannot be read")
    assert "delete it" in message


def test_a_loss_that_is_no_number_stops_the_run(lesson, tmp_path, capsys):
    command = (*lesson.command, "--learning-rate", 1e38, "--out", tmp_path / "out")
    assert "--on-nan skip leaves" in fails(capsys, *command)
    assert not (tmp_path / "out" / "model.safetensors").exists()
