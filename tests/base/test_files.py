"""Opening user files and writing ours."""

import bz2
import errno
import gzip
import lzma
import os

import pytest
import zstandard

from data.support import error_of, write
from funnelformer.base.files import (
    atomic_folder,
    atomic_path,
    atomic_writer,
    expand_paths,
    iter_lines,
    plain_suffix,
    read_bytes,
)

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", ["", *COMPRESS])
def test_lines_are_numbered_and_lose_their_ends(tmp_path, suffix):
    content = COMPRESS.get(suffix, bytes)("one\r\n\ntrès\u2028long\nlast".encode())
    path = write(tmp_path / f"a.txt{suffix}", content)
    assert list(iter_lines(path)) == [(1, "one"), (2, ""), (3, "très\u2028long"), (4, "last")]


def test_bom_is_dropped_only_at_the_start(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    assert list(iter_lines(path)) == [(1, "a"), (2, "\ufeffb")]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_bad_utf8_names_line_and_column(tmp_path, suffix):
    content = b"fine\n" * 16 + b"abcd\xffe\n"
    path = write(tmp_path / f"authors.tsv{suffix}", COMPRESS.get(suffix, bytes)(content))
    assert error_of(iter_lines, path) == f"{path}: line 17: not valid UTF-8 (byte 0xff at column 5)"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_truncated_and_corrupt_files(tmp_path, suffix):
    whole = COMPRESS[suffix](os.urandom(200_000))
    for content in (whole[: len(whole) // 2], b"not compressed at all"):
        path = write(tmp_path / f"a.txt{suffix}", content)
        assert f"{path}: the {suffix} file is damaged or cut short" in error_of(read_bytes, path)


def test_zstd_frames_follow_one_another(tmp_path):
    compress = zstandard.ZstdCompressor().compress
    path = write(tmp_path / "a.txt.zst", compress(b"a" * 300_000 + b"\n") + compress(b"b\n"))
    assert list(iter_lines(path)) == [(1, "a" * 300_000), (2, "b")]


def test_missing_folder_and_empty(tmp_path):
    write(tmp_path / "train.tsv", "x")
    message = error_of(iter_lines, tmp_path / "trian.tsv")
    assert message.endswith("trian.tsv: no such file; did you mean 'train.tsv'?")
    assert "there is no folder" in error_of(iter_lines, tmp_path / "nowhere" / "a.tsv")
    assert "is a folder" in error_of(iter_lines, tmp_path)
    assert "the file is empty" in error_of(iter_lines, write(tmp_path / "empty.txt", ""))
    assert "the file is empty" in error_of(iter_lines, write(tmp_path / "e.txt.gz", gzip.compress(b"")))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    path = write(tmp_path / "a.txt", "x")
    path.chmod(0)
    assert "cannot be read (Permission denied)" in error_of(iter_lines, path)


def test_plain_suffix():
    assert plain_suffix("a/b.TSV.gz") == ".tsv"
    assert plain_suffix("b.jsonl") == ".jsonl"
    assert plain_suffix("b.gz") == ""


def test_expand_paths(tmp_path):
    b, a = write(tmp_path / "b.txt", "x"), write(tmp_path / "a.txt", "x")
    deep = tmp_path / "sub.txt"
    deep.mkdir()
    c = write(deep / "c.txt", "x")
    assert expand_paths([tmp_path / "*.txt", b]) == [a, b]
    assert expand_paths(str(tmp_path / "**" / "*.txt")) == [a, b, c]
    odd = write(tmp_path / "x[1].txt", "x")
    assert expand_paths([odd]) == [odd]
    assert "no file matches this pattern" in error_of(expand_paths, [a, tmp_path / "*.tsv"])
    assert "is a folder; name its files" in error_of(expand_paths, [tmp_path])
    assert "no such file; did you mean 'a.txt'?" in error_of(expand_paths, [tmp_path / "a.tx"])
    assert error_of(expand_paths, []) == "no input files were given"


def test_atomic_writer_writes_whole_files_or_none(tmp_path):
    path = tmp_path / "new" / "out.tsv"
    with atomic_writer(path) as file:
        file.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()

    def fail():
        with atomic_writer(path) as file:
            file.write("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == "é\n".encode()
    assert os.listdir(path.parent) == ["out.tsv"]


def test_atomic_writer_keeps_links_and_default_permissions(tmp_path):
    target, link, plain = tmp_path / "target", tmp_path / "link", tmp_path / "plain"
    target.write_text("old")
    plain.write_text("x")
    link.symlink_to(target)
    with atomic_writer(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode == plain.stat().st_mode


def test_atomic_writer_errors(tmp_path):
    file = write(tmp_path / "file", "x")

    def use(path):
        with atomic_writer(path):
            pass

    assert "is a folder" in error_of(use, tmp_path)
    assert "cannot be written" in error_of(use, file / "below")


def test_atomic_writer_to_a_device():
    with atomic_writer("/dev/null") as file:
        file.write("x")
    assert os.path.exists("/dev/null")


def fill(path, text="new", **options):
    with atomic_folder(path, **options) as folder:
        (folder / "a").write_text(text)
    return sorted(os.listdir(path))


def test_atomic_folder(tmp_path):
    out = tmp_path / "deep" / "out"
    assert fill(out) == ["a"]
    assert error_of(fill, out) == f"{out} is not empty; choose another or pass --overwrite"
    (out / "mine").write_text("kept")
    assert fill(out, "newer", overwrite=True) == ["a", "mine"]
    assert (out / "a").read_text() == "newer"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fill(empty) == ["a"]
    assert os.listdir(out.parent) == ["out"]
    assert "is a file, a folder is needed" in error_of(fill, out / "a")
    assert "cannot be written" in error_of(fill, out / "a" / "b")


def test_atomic_folder_leaves_nothing_on_error(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("x")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", [atomic_path, atomic_folder, atomic_writer])
def test_a_file_that_may_not_be_read_is_not_taken_for_the_output(tmp_path, place):
    """What fails while the output is made is said of its own file."""
    with pytest.raises(PermissionError) as caught, place(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "input.txt")
    assert caught.value.filename == "input.txt"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [atomic_path, atomic_folder])
def test_a_full_disk_is_said_of_the_output(tmp_path, place):
    """The system names no file where a write fails."""
    with pytest.raises(OSError, match="No space left") as caught, place(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
