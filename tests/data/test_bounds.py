"""What a file may cost before it is refused: lines, columns, what it unpacks to, and the memory meanwhile."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data.support import error_of, write
from funnelformer.base import files
from funnelformer.base.files import MAX_LINE_BYTES, iter_lines, read_bytes
from funnelformer.base.json_toml import MAX_DEPTH, load_toml, read_json, read_toml
from funnelformer.data.formats import MAX_COLUMNS, iter_rows

SOURCE = Path(__file__).parents[2] / "src"
# The package without what its first import takes, seconds and 500 MB.
BARE = f"""
import sys, types
sys.modules["funnelformer"] = types.ModuleType("funnelformer")
sys.modules["funnelformer"].__path__ = [{str(SOURCE / "funnelformer")!r}]
"""
# Reads the rows of argv[1]; prints the error, and the MB the process grew by.
CHILD = """
import sys
from pathlib import Path
from funnelformer.data.tables import collect, iter_texts
from funnelformer.base.errors import UserError
import pyarrow.parquet

def peak():  # of this process alone; that of getrusage is inherited
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

Path("/proc/self/clear_refs").write_text("5")
before = peak()
try:
    collect(*reversed(iter_texts(Path(sys.argv[1]))))
    print("read")
except UserError as error:
    print(error)
print((peak() - before) // 1024)
"""


def read_in_child(path: Path, limit_s: float = 300) -> tuple[str, int]:
    """The error, and the MB by which the peak of memory rose."""
    done = subprocess.run(
        [sys.executable, "-c", BARE + CHILD, str(path)],
        capture_output=True,
        text=True,
        timeout=limit_s,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    message, megabytes = done.stdout.splitlines()
    return message, int(megabytes)


def zst_bomb(path: Path, size: int, content: bytes) -> Path:
    with zstandard.open(path, "wb") as file:
        for _ in range(size // len(content)):
            file.write(content)
    return path


def longest_line(folder: Path) -> Path:
    return write(folder / "longest.txt", b"a" * (MAX_LINE_BYTES - 1) + b"\n")


def one_line_of_zst(folder: Path) -> Path:
    return zst_bomb(folder / "bomb.txt.zst", 2600 << 20, b"a" * (1 << 20))


def lines_of_zst(folder: Path) -> Path:
    return zst_bomb(folder / "lines.jsonl.zst", 600 << 20, b'{"text": "a"}\n' * (1 << 16))


def zeros(folder: Path) -> Path:
    (folder / "zeros.txt").symlink_to("/dev/zero")
    return folder / "zeros.txt"


def many_keys(folder: Path) -> Path:
    lines = (json.dumps({f"key {row} {n}": n for n in range(60)}) + "\n" for row in range(100))
    return write(folder / "keys.jsonl", "".join(lines))


def many_columns(folder: Path) -> Path:
    return write(folder / "wide.csv", ",".join(f"c{n}" for n in range(1_000_000)) + "\n")


def open_quote(folder: Path) -> Path:
    return write(folder / "quote.csv", b'text\n"' + b"word\n" * (20 << 20))


# Kind -> what makes it, what is said, most MB that reading it may take.
CASES: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    "a line at the bound": (longest_line, "read", 80),
    "80 kB of zst, one line of 2.6 GB": (one_line_of_zst, "line 1: longer than 16,777,216 bytes", 120),
    "zst, lines": (lines_of_zst, "unpacks to more than 1,000 times its size", 2500),
    "/dev/zero behind a link": (zeros, "line 1: longer than 16,777,216 bytes", 80),
    "6,000 keys": (many_keys, f"columns; allowed: {MAX_COLUMNS:,}", 20),
    "a million columns": (many_columns, f"1,000,000 columns; allowed: {MAX_COLUMNS:,}", 250),
    "a quote that is never closed": (open_quote, "field larger than field limit", 200),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_memory_at_the_bounds(kind: str, tmp_path: Path, record_property) -> None:
    make, expected, most = CASES[kind]
    message, megabytes = read_in_child(make(tmp_path))
    record_property("megabytes", megabytes)
    print(f"{kind}: {megabytes} MB")
    assert expected in message
    assert megabytes <= most


@pytest.fixture
def small_bounds(monkeypatch):
    """The same bounds, met by small files."""
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(files, "MAX_DOCUMENT_BYTES", 5000)
    monkeypatch.setattr(files, "_FREE_BYTES", 2000)
    monkeypatch.setattr(files, "_MAX_RATIO", 3)


COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_what_unpacks_to_too_much(small_bounds, tmp_path, suffix):
    bomb = write(tmp_path / f"a.txt{suffix}", COMPRESS[suffix](b"a\n" * 100_000))
    assert "unpacks to more than 3 times its size" in error_of(iter_lines, bomb)
    assert "unpacks to more than 3 times its size" in error_of(read_bytes, bomb)
    small = write(tmp_path / f"b.txt{suffix}", COMPRESS[suffix](b"a\n" * 500))
    assert len(list(iter_lines(small))) == 500


def test_long_lines_and_documents(small_bounds, tmp_path):
    path = write(tmp_path / "a.txt", b"a\n" + b"b" * 1000 + b"\n")
    assert error_of(iter_lines, path, 1000) == (
        f"{path}: line 2: longer than 1,000 bytes; is it a file of text?"
    )
    array = write(tmp_path / "a.json", json.dumps([{"text": "x" * 100}] * 50))
    assert "bytes" in error_of(iter_rows, array)


def test_columns(tmp_path):
    row = {str(n): n for n in range(MAX_COLUMNS)}
    good = write(tmp_path / "a.jsonl", json.dumps(row))
    assert len(next(iter_rows(good))[1]) == MAX_COLUMNS
    wide = write(tmp_path / "b.jsonl", json.dumps(row) + '\n{"x": 1}')
    assert error_of(iter_rows, wide) == (
        f"{wide}: line 2: with the rows before: 1,001 columns; allowed: 1,000"
    )
    table = write(tmp_path / "a.tsv", "\t".join(map(str, range(1001))))
    assert error_of(iter_rows, table) == f"{table}: line 1: 1,001 columns; allowed: 1,000"
    pq.write_table(pa.table({str(n): [n] for n in range(1001)}), tmp_path / "a.parquet")
    assert "1,001 columns; allowed: 1,000" in error_of(iter_rows, tmp_path / "a.parquet")


def test_a_pipe_that_nobody_writes_to(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PIPE_WAIT_S", 0.1)
    os.mkfifo(tmp_path / "pipe.txt")
    assert "is a pipe, and nobody has written to it" in error_of(iter_lines, tmp_path / "pipe.txt")


def test_a_pipe_that_is_written_to(tmp_path):
    path = tmp_path / "pipe.txt"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("one\ntwo\n",))
    writer.start()
    assert [line for _, line in iter_lines(path)] == ["one", "two"]
    writer.join()


def test_a_pipe_in_the_place_of_a_small_file(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    assert "is not a plain file" in error_of(read_json, tmp_path / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper than 100"),
        ("[" * 100_000, "nested deeper than 100"),
        ('{"a": ' * 200 + "1" + "}" * 200, "nested deeper than 100"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5,000 digits"),
        ('{"a": ' + "9" * 309 + "}", "a number of 309 digits"),
        ('{"a":\n x}', "line 2: not valid JSON (Expecting value at column 2)"),
        ("[1]", "a JSON object is needed, not list"),
        ("", "the file is empty"),
    ],
)
def test_json_beyond_its_bounds(tmp_path, text, message):
    assert message in error_of(read_json, write(tmp_path / "a.json", text))


def test_json_within_its_bounds(tmp_path):
    depth = MAX_DEPTH - 1
    text = '{"a": ' + "[" * depth + "]" * depth + ', "b": ' + "9" * 308 + "}"
    assert read_json(write(tmp_path / "a.json", text))["b"] == int("9" * 308)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".".join(["a"] * 50_000) + " = 1", "a key of more than 64 parts"),
        ("x = 1\n[" + ".".join(["a"] * 50_000) + "]", "a key of more than 64 parts"),
        ("x = { " + ".".join(["a"] * 50_000) + " = 1 }", "a key of more than 64 parts"),
        ("x = " + "[" * 5000 + "]" * 5000, "nested deeper than 100"),
        ("x = " + "[" * 101 + "]" * 101, "nested deeper than 100"),
        ("x = " + "1" * 5000, "a number of more than 308 digits"),
        ("x = \n", "not valid TOML"),
        ("a = 1 #" + "x" * (1 << 20), "larger than 1,048,576 bytes"),
    ],
)
def test_toml_beyond_its_bounds(tmp_path, text, message):
    assert message in error_of(read_toml, write(tmp_path / "a.toml", text))


def test_toml_within_its_bounds():
    text = '"a.b" = "' + "." * 200 + '"\n' + ".".join(["c"] * 64) + " = 1\n"
    assert load_toml(text, "x")["a.b"] == "." * 200


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("when", pa.array([0, 2**61], pa.timestamp("us"))),
        ("when", pa.array([1, -(2**61)], pa.timestamp("ms"))),
        ("text", pa.Array.from_buffers(pa.utf8(), 2, pa.array([b"a", b"\xff"]).buffers())),
    ],
)
def test_parquet_values_that_python_cannot_hold(tmp_path, column, values):
    pq.write_table(pa.table({"n": [1, 2], column: values}), tmp_path / "a.parquet")
    message = error_of(iter_rows, tmp_path / "a.parquet")
    assert f"column '{column}' has a value that cannot be read" in message
