"""What the program does with its standard streams, and with errors that nobody foresaw."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from funnelformer.cli import entry
from inference.test_predictor import classifier
from training.toy import fails, run

SOURCE = Path(__file__).parents[1] / "src"
EMOJI = "the red cat runs 😀."
HALF = "cut \ud83d"


@pytest.fixture(scope="module")
def model(toy):
    return classifier(toy.folder / "of-streams", toy, num_labels=2)


@pytest.fixture(scope="module")
def rows(toy):
    """Rows with half of a surrogate pair in a column that only passes through, and in a column's name."""
    path = toy.folder / "half.jsonl"
    path.write_text(
        "".join(json.dumps({"text": EMOJI, "user": user, HALF: 1}) + "\n" for user in ("ok", HALF))
    )
    return path


def test_half_a_surrogate_pair_passes_through(model, rows, tmp_path):
    for name in ("out.jsonl", "out.csv", "vectors.jsonl"):
        command = "embed --batch-size 1" if name == "vectors.jsonl" else "predict"
        assert run(command, model, rows, "--text", "text", "--out", tmp_path / name) == 0
    for name in ("out.jsonl", "vectors.jsonl"):
        read = [json.loads(line) for line in (tmp_path / name).read_text("utf-8").splitlines()]
        assert [row["user"] for row in read] == ["ok", HALF]
        assert all(row[HALF] == 1 for row in read)
    assert "cut \\ud83d" in (tmp_path / "out.csv").read_text("utf-8")


def test_half_a_surrogate_pair_is_no_value_of_parquet(model, rows, tmp_path, capsys):
    message = fails(capsys, "embed", model, rows, "--text", "text", "--out", tmp_path / "out.parquet")
    assert message.startswith(
        f"{rows}: column 'user' has half of a surrogate pair, which parquet cannot hold"
    )
    assert not list(tmp_path.iterdir())


def test_an_integer_beyond_parquet(model, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "a cat", "n": 2**70}) + "\n")
    assert "column 'n' has a value, which parquet cannot hold" in fails(
        capsys, "embed", model, rows, "--text", "text", "--out", tmp_path / "out.parquet"
    )
    assert run("embed", model, rows, "--text", "text", "--out", tmp_path / "out.jsonl") == 0
    assert pq is not None


def predict_in_process(
    model, rows, out: int | None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """`predict` to stdout; out: its file's number, None when it is closed."""
    command = [sys.executable, "-m", "funnelformer", "predict", str(model), str(rows), "--text", "text"]
    if out is None:
        command = ["sh", "-c", '"$@" >&-', "sh", *command]
    return subprocess.run(
        command,
        stdout=out or subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["ascii", "cp1252", "latin-1:strict"])
def test_stdout_is_utf8_whatever_the_locale(model, rows, locale):
    done = predict_in_process(model, rows, subprocess.PIPE, PYTHONIOENCODING=locale, LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, b"")
    read = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert [(row["text"], row["user"]) for row in read] == [(EMOJI, "ok"), (EMOJI, HALF)]


@pytest.mark.slow
def test_a_closed_stdout_is_one_line(model, rows):
    done = predict_in_process(model, rows, None)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "error: stdout is closed, so there is no place for the results; name a file with --out\n"
    )


def test_closed_streams(model, rows, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert run("predict", model, rows, "--text", "text", "--out", tmp_path / "out.jsonl") == 0
        patch.setattr(sys, "stdin", None)
        assert fails(capsys, "predict", model, "-", "--out", tmp_path / "b.jsonl") == (
            "stdin is closed, so there is nothing to read; name a file"
        )


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (
            AttributeError("no such\nthing"),
            "unexpected AttributeError: no such thing (--debug shows where it came up)",
            1,
        ),
        (RecursionError(), "unexpected RecursionError: RecursionError (--debug shows where it came up)", 1),
        (MemoryError(), "unexpected MemoryError: MemoryError (--debug shows where it came up)", 1),
        (OSError(errno.ENOSPC, "No space left on device"), "output: No space left on device", 2),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), "a.json: permission denied", 2),
        (
            OSError(errno.EIO, "Input/output error"),
            "unexpected OSError: [Errno 5] Input/output error (--debug",
            1,
        ),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_any_error_is_one_line(monkeypatch, capsys, error, line, code, debug):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(entry, "app", SimpleNamespace(meta=fail))
    with pytest.raises(SystemExit) as end:
        entry.main(["info", "x", *(["--debug"] if debug else [])])
    assert end.value.code == code
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"error: {line}")
    assert bool(before) == debug
    if debug:
        assert before[0] == "Traceback (most recent call last):"


def test_debug_is_an_option_of_every_command(capsys):
    assert run("info --debug B1-1H16") == 0
    assert run("info --debug NOTHING") == 2
    assert "Traceback" in capsys.readouterr().err
