"""Open what the user names and write what we make: decompression, strict UTF-8, globs, atomic writes."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

import zstandard

from ..errors import UserError, did_you_mean

__all__ = [
    "COMPRESSIONS",
    "atomic_folder",
    "atomic_path",
    "atomic_writer",
    "check_file",
    "decode_lines",
    "expand_paths",
    "iter_lines",
    "open_binary",
    "plain_suffix",
    "read_bytes",
]

_UTF8_BOM = b"\xef\xbb\xbf"
_ZSTD_READ_BYTES = 1 << 14
_ZSTD_MAX_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` may write


class _ZstdFile(io.RawIOBase):
    """Read the frames of a .zst file; zstandard's own stream reader ends quietly on a truncated frame."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._plain:
            self._compressed = self._compressed or self._file.read(_ZSTD_READ_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("zstd frame ended early")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._plain = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


_DECOMPRESSORS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".gz": lambda path: cast(IO[bytes], gzip.GzipFile(path)),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda path: cast(IO[bytes], io.BufferedReader(_ZstdFile(path))),
}
COMPRESSIONS = tuple(_DECOMPRESSORS)


def plain_suffix(path: str | Path) -> str:
    """Return the lower-case suffix that names the format, not the compression: `a.TSV.gz` gives ".tsv"."""
    path = Path(path)
    if path.suffix.lower() in _DECOMPRESSORS:
        path = path.with_suffix("")
    return path.suffix.lower()


def check_file(path: str | Path) -> Path:
    """Return `path` when it is a file with something in it; otherwise raise `UserError`."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a file")
    if not path.exists():
        if not path.parent.is_dir():
            raise UserError(f"{path}: no such file; there is no folder {str(path.parent)!r}")
        names = sorted(entry.name for entry in path.parent.iterdir())
        raise UserError(f"{path}: no such file{did_you_mean(path.name, names)}")
    if path.is_file() and path.stat().st_size == 0:  # a pipe has no size to tell
        raise UserError(f"{path}: the file is empty")
    return path


@contextmanager
def open_binary(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed by its suffix (.gz, .bz2, .xz, .zst).

    Raises UserError, inside the block too, when the file is missing, empty, unreadable, damaged or cut short.
    """
    path = check_file(path)
    suffix = path.suffix.lower()
    try:
        with _DECOMPRESSORS.get(suffix, lambda plain: open(plain, "rb"))(path) as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        raise UserError(f"{path}: the {suffix} file is damaged or cut short ({error})") from error


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) from raw lines that must be UTF-8; a BOM is dropped.

    Lines end at LF or CRLF only, so a character such as U+2028 stays inside its line.
    Raises UserError with `name`, the line and the 1-based byte column of the first bad byte.
    """
    for number, raw in enumerate(stream, start=1):
        line = raw.removeprefix(_UTF8_BOM) if number == 1 else raw
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
            raise UserError(f"{name}: line {number}: not valid UTF-8 ({bad})") from error


def iter_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 file, decompressed, in constant memory.

    Raises UserError as `open_binary` and `decode_lines` do, and when there is nothing in the file.
    """
    number = 0
    with open_binary(path) as stream:
        for number, line in decode_lines(stream, str(path)):
            yield number, line
    if number == 0:
        raise UserError(f"{path}: the file is empty")


def read_bytes(path: str | Path) -> bytes:
    """Return the whole decompressed content; raises UserError as `open_binary` does."""
    with open_binary(path) as stream:
        return stream.read()


def expand_paths(patterns: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the sorted, distinct files that the names and glob patterns (`**` too) stand for.

    Raises UserError for a pattern without a match, a missing or empty file, a folder, or no pattern at all.
    """
    patterns = [patterns] if isinstance(patterns, str | Path) else patterns
    found: set[Path] = set()
    for pattern in patterns:
        if glob.has_magic(str(pattern)) and not Path(pattern).exists():
            matches = [Path(name) for name in glob.glob(str(pattern), recursive=True)]
            files = [path for path in matches if not path.is_dir()]
            if not files:
                raise UserError(f"{pattern}: no file matches this pattern")
        elif Path(pattern).is_dir():
            raise UserError(f"{pattern}: is a folder; name its files, for example {Path(pattern) / '*.txt'}")
        else:
            files = [Path(pattern)]
        found.update(check_file(path) for path in files)
    if not found:
        raise UserError("no input files were given")
    return sorted(found)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file that appears under its name only when complete; parent folders are made.

    Newlines are written as given. On an error inside the block nothing is left behind and an older file
    stays. A device or pipe is written directly. Raises UserError when the place cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.is_dir():
        raise UserError(f"{path}: is a folder, cannot write a file there")
    in_place = target.exists() and not target.is_file()
    written = target if in_place else target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(written, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        with file:
            yield file
            file.flush()
            if not in_place:
                os.fsync(file.fileno())
        if not in_place:
            os.replace(written, target)
    except BaseException:
        if not in_place:
            written.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside a file, which takes its place when the block ends without error.

    Raises UserError when the place cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise UserError(f"{path}: is a folder, cannot write a file there")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except PermissionError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder to fill; it takes the name `path` when the block ends without error.

    overwrite: allow a folder that has files in it. Those of the same name are replaced one by one, others
    stay: a mistyped folder must not cost the user its content.
    Raises UserError when `path` is a file, cannot be written, or is not empty and `overwrite` is False.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise UserError(f"{path}: is a file, a folder is needed")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise UserError(f"{path} is not empty; choose another or pass --overwrite")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        yield temporary
        if target.is_dir():
            for entry in sorted(temporary.iterdir()):
                if entry.is_dir():  # a folder with files cannot be replaced in one step
                    shutil.rmtree(target / entry.name, ignore_errors=True)
                os.replace(entry, target / entry.name)
        else:
            os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
