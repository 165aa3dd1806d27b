"""The teacher's pass as work for a cluster: each part is made by a worker that gets no more than what is pickled."""

from __future__ import annotations

import contextlib
import pickle

import pytest

from funnelformer.base.errors import UserError
from funnelformer.training.distillation import teacher_outputs, teacher_pass, token_rows
from funnelformer.training.distillation.teacher import Teacher
from funnelformer.training.run.folder import CONFIG_FILE
from training.toy import fails, run


@pytest.fixture
def worker_here(monkeypatch):
    """A worker of a cluster in this process; of each pass it notes the parts."""
    made = []

    def make_all(maker, items, sizes, options, title):
        from ray import cloudpickle

        assert options.engine == "ray"
        maker = pickle.loads(cloudpickle.dumps(maker))
        for item in reversed(items):
            maker(item)
            maker(item)  # as when another worker made it, and died before it said so
        made.append((title, len(items), sum(sizes)))

    monkeypatch.setattr(teacher_pass, "make_all", make_all)
    monkeypatch.setattr(teacher_pass, "on_cluster", lambda options: contextlib.nullcontext())
    return made


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_cache_is_that_of_one_machine(lesson, tmp_path, monkeypatch, worker_here):
    monkeypatch.setattr(token_rows, "ROWS_PER_PART", 64)
    monkeypatch.setattr(teacher_outputs, "ROWS_PER_PART", 64)
    monkeypatch.setattr(teacher_outputs, "_STATE_ROWS_PER_PART", 16)
    command = (*lesson.command, "--steps", 2, "--evaluate-every", 2)
    assert run(*command, "--cache", tmp_path / "one", "--out", tmp_path / "a") == 0
    assert worker_here == []
    cache = tmp_path / "many"
    options = ("--cache", cache, "--engine", "ray", "--ray-address", "10.0.0.1:6379")
    assert run(*command, *options, "--out", tmp_path / "b") == 0
    assert worker_here == [("teacher's vectors", 5, 300), ("teacher's states", 4, 64)]
    assert files_of(cache) == files_of(tmp_path / "one")
    # Another student asks for nothing; a part that is gone is made again, and no other.
    (part,) = cache.glob("vectors-*/000003.vectors.npy")
    part.unlink()
    assert run(*command, *options, "--seed", 3, "--out", tmp_path / "c") == 0
    assert worker_here[2:] == [("teacher's vectors", 1, 64)]
    assert files_of(cache) == files_of(tmp_path / "one")
    assert 'engine = "ray"' in (tmp_path / "c" / CONFIG_FILE).read_text()


def test_a_worker_whose_teacher_has_other_files_is_named(lesson, tmp_path, monkeypatch, worker_here, capsys):
    original = teacher_outputs.load_teacher
    monkeypatch.setattr(
        teacher_outputs, "load_teacher", lambda *options: _with_digest(original(*options), "other")
    )
    options = ("--cache", tmp_path / "cache", "--engine", "ray", "--out", tmp_path / "out")
    assert f"--teacher {lesson.teacher}: has other files on " in fails(capsys, *lesson.command, *options)
    with pytest.raises(UserError, match="has other files"):
        teacher_outputs._load_again(str(lesson.teacher), "fp32", "cpu", 64, "none")
    assert "--ray-address needs --engine ray" in fails(
        capsys, *lesson.command, "--ray-address", "x:1", "--out", tmp_path / "out"
    )


def test_a_cluster_that_does_not_answer_is_said_before_the_texts_are_read(
    lesson, tmp_path, monkeypatch, capsys
):
    def nobody(options):
        raise UserError(f"--ray-address {options.ray_address}: no cluster answers (closed)")

    monkeypatch.setattr(teacher_pass, "on_cluster", nobody)
    options = ("--engine", "ray", "--ray-address", "x:1", "--cache", tmp_path / "c", "--out", tmp_path / "o")
    assert "--ray-address x:1: no cluster answers (closed)" in fails(capsys, *lesson.command, *options)
    assert not (tmp_path / "c").exists()


def _with_digest(teacher, digest):
    return Teacher(**{**vars(teacher), "digest": digest})
