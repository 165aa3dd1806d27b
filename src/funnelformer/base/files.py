"""Open what the user names and write what we make: decompression, strict UTF-8, globs, atomic writes."""

from __future__ import annotations

import bz2
import errno
import glob
import gzip
import hashlib
import io
import lzma
import math
import os
import select
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from .errors import UserError, did_you_mean
from .leftovers import remove_leftovers, temporary_name

__all__ = [
    "COMPRESSIONS",
    "ESCAPED",
    "MAX_LINE_BYTES",
    "atomic_folder",
    "atomic_path",
    "atomic_writer",
    "check_file",
    "check_output",
    "check_readable",
    "decode_lines",
    "expand_paths",
    "hash_file",
    "iter_lines",
    "move_entries",
    "open_binary",
    "plain_suffix",
    "read_bytes",
    "read_document",
    "set_default_modes",
    "temporary_folder",
]

# How half a surrogate pair, which UTF-8 has no bytes for, is written: as an escape that JSON reads back.
ESCAPED = "backslashreplace"
# Bounds that hold memory where a file would not. A line: the longest novels have 5 MB. A file that is read whole, as a
# JSON array is: SQuAD has 42 MB. What a compressed file may become: novels that repeat compress by 100 at most.
MAX_LINE_BYTES = 16 << 20
MAX_DOCUMENT_BYTES = 256 << 20
_MAX_RATIO = 1000
_FREE_BYTES = 64 << 20  # below which no ratio is looked at
_PIPE_WAIT_S = 10
_CHUNK_BYTES = 1 << 16

_UTF8_BOM = b"\xef\xbb\xbf"
_ZSTD_READ_BYTES = 1 << 10  # of which at most 32 MB can come at once
_ZSTD_MAX_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` may write


class _ZstdFile(io.RawIOBase):
    """Read the frames of a .zst file; zstandard's own stream reader ends quietly on a truncated frame."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        import zstandard  # a GPU's machine that only measures may lack it

        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        self._frame: Any = None
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


_DECOMPRESSORS: dict[str, Callable[[BinaryIO], IO[bytes]]] = {
    ".gz": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda file: cast(IO[bytes], io.BufferedReader(_ZstdFile(file))),
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
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder, not a file")
        if not path.exists():
            if not path.parent.is_dir():
                raise UserError(f"{path}: no such file; there is no folder {str(path.parent)!r}")
            names = sorted(entry.name for entry in path.parent.iterdir())
            raise UserError(f"{path}: no such file{did_you_mean(path.name, names)}")
        if path.is_file() and path.stat().st_size == 0:  # a pipe has no size to tell
            raise UserError(f"{path}: the file is empty")
    except PermissionError as error:
        raise UserError(_denied(error.filename or path)) from None
    except OSError as error:  # a name that is too long, links in a circle
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return path


def check_readable(path: str | Path) -> None:
    """Raise UserError naming the first file, of a folder's or this one, that this user may not read.

    Libraries say of such a file that there is none.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
        entries = [path, *(sorted(path.iterdir()) if is_folder else [])]
        for entry in entries:
            wanted = os.R_OK | (os.X_OK if entry.is_dir() else 0)
            effective = os.access in os.supports_effective_ids
            if entry.exists() and not os.access(entry, wanted, effective_ids=effective):
                raise PermissionError(errno.EACCES, "", str(entry))
    except PermissionError as error:
        raise UserError(_denied(error.filename or path)) from None


def _denied(path: str | Path) -> str:
    kind = "folder" if os.path.isdir(path) else "file"
    return f"{path}: permission denied; this user may not read the {kind}"


class _Bounded(io.RawIOBase):
    """The content of a compressed file, up to what a file of its size can stand for."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path, self._count = stream, path, 0
        # A pipe has no size to tell.
        self._limit = max(_FREE_BYTES, _MAX_RATIO * path.stat().st_size) if path.is_file() else math.inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._count += len(content)
        if self._count > self._limit:
            raise UserError(
                f"{self._path}: unpacks to more than {_MAX_RATIO:,} times its size, which no text does; it is refused"
            )
        return len(content)


@contextmanager
def open_binary(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed by its suffix (.gz, .bz2, .xz, .zst).

    Raises UserError, inside the block too, when the file is missing, empty, unreadable, damaged, cut short, unpacks to
    more than 64 MB and 1,000 times its size, or is a pipe that nobody writes to.
    """
    path = check_file(path)
    suffix = path.suffix.lower()
    try:
        with _open_plain(path) as plain:
            if suffix not in _DECOMPRESSORS:
                yield plain
            else:
                with (
                    _DECOMPRESSORS[suffix](plain) as stream,
                    io.BufferedReader(_Bounded(stream, path), _CHUNK_BYTES) as bounded,
                ):
                    yield cast(BinaryIO, bounded)
    except PermissionError as error:
        raise UserError(_denied(path)) from error
    except _damages() as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        raise UserError(f"{path}: the {suffix} file is damaged or cut short ({error})") from error


def _open_plain(path: Path) -> BinaryIO:
    """Open a file as it is. Raises UserError for a named pipe that nobody writes to: reading it would never end.

    The pipes that a shell makes for `<(command)` have a writer, and a name that is none.
    """
    if not os.path.exists(os.path.realpath(path)) or not stat.S_ISFIFO(os.stat(path).st_mode):
        return open(path, "rb")
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not select.select([pipe], [], [], _PIPE_WAIT_S)[0]:
        os.close(pipe)
        raise UserError(f"{path}: is a pipe, and nobody has written to it for {_PIPE_WAIT_S} s")
    os.set_blocking(pipe, True)
    return open(pipe, "rb")


def _bounded_lines(stream: Iterable[bytes], name: str, most_bytes: int) -> Iterator[bytes]:
    read = getattr(stream, "readline", None)
    lines = stream if read is None else iter(lambda: read(most_bytes + 1), b"")
    for number, line in enumerate(lines, start=1):
        if len(line) > most_bytes:
            raise UserError(f"{name}: line {number}: longer than {most_bytes:,} bytes; is it a file of text?")
        yield line


def decode_lines(
    stream: Iterable[bytes], name: str, most_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) from raw lines that must be UTF-8; a BOM is dropped.

    Lines end at LF or CRLF only, so a character such as U+2028 stays inside its line.
    most_bytes: of a line.
    Raises UserError with `name`, the line and the 1-based byte column of the first bad byte.
    """
    for number, raw in enumerate(_bounded_lines(stream, name, most_bytes), start=1):
        line = raw.removeprefix(_UTF8_BOM) if number == 1 else raw
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
            raise UserError(f"{name}: line {number}: not valid UTF-8 ({bad})") from error


def iter_lines(path: str | Path, most_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a UTF-8 file, decompressed, in constant memory.

    most_bytes: of a line. Raises UserError as `open_binary` and `decode_lines` do, and when there is nothing in the
    file.
    """
    number = 0
    with open_binary(path) as stream:
        for number, line in decode_lines(stream, str(path), most_bytes):
            yield number, line
    if number == 0:
        raise UserError(f"{path}: the file is empty")


def read_document(path: str | Path) -> str:
    """Return the whole decompressed text, with LF at the ends of lines.

    Raises UserError as `iter_lines` does, and beyond `MAX_DOCUMENT_BYTES`.
    """
    lines, size = [], 0
    for _, line in iter_lines(path, MAX_DOCUMENT_BYTES):
        size += len(line) + 1
        if size > MAX_DOCUMENT_BYTES:
            raise UserError(_too_large(path))
        lines.append(line)
    return "\n".join(lines)


def _too_large(path: str | Path) -> str:
    return f"{path}: has more than {MAX_DOCUMENT_BYTES:,} bytes, and its format is read as a whole"


def read_bytes(path: str | Path) -> bytes:
    """Return the whole decompressed content.

    Raises UserError as `open_binary` does, and beyond `MAX_DOCUMENT_BYTES`.
    """
    with open_binary(path) as stream:
        content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UserError(_too_large(path))
    return content


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    Newlines are written as given, half a surrogate pair as an escape. On an error inside the block nothing is left
    behind and an older file stays. A device or pipe is written directly. Raises UserError when the place cannot be
    written.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file() and not target.is_dir():
        with _open_text(target, path) as file:
            yield file
        return
    with atomic_path(path) as temporary, _open_text(temporary, path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _open_text(file: Path, path: str | Path) -> TextIO:
    try:
        return open(file, "w", encoding="utf-8", errors=ESCAPED, newline="")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


# Of a model's folder: the rest of what lies there may be results of before.
_OF_A_MODEL = (".json", ".safetensors", ".bin", ".onnx", ".txt", ".toml", ".md")


def check_output(out: Path | None, model: str, data: str | None) -> None:
    """Raise UserError if `out` is one of the files that are read: the data, or a file of the model.

    A link and another path to the same file count too. Any other file is replaced, as always.
    """
    if out is None or not os.path.isfile(out):
        return
    if data is not None and os.path.isfile(data) and os.path.samefile(out, data):
        raise UserError(f"--out {out}: is the file that is read; choose another")
    target = Path(os.path.realpath(out))
    if target.suffix in _OF_A_MODEL and target.is_relative_to(os.path.realpath(model)):
        raise UserError(f"--out {out}: is a file of the model; choose another")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield the name of an empty file beside `path`, which takes its place when the block ends without error.

    Temporary files of killed processes for the same path are removed. The file gets the mode that the umask gives a new
    one. Raises UserError when the place cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            raise UserError(f"{path}: is a folder, cannot write a file there")
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, target.name)
        temporary = target.with_name(temporary_name(target.name))
        temporary.open("xb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        with _naming_full(path):
            yield temporary
        _set_mode(temporary, mode)
        try:
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
    Temporary folders of killed processes for the same path are removed. Files get the modes that the umask gives new
    ones.
    Raises UserError when `path` is a file, cannot be written, or is not empty and `overwrite` is False.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_dir():
            raise UserError(f"{path}: is a file, a folder is needed")
        if target.is_dir() and any(target.iterdir()) and not overwrite:
            raise UserError(f"{path} is not empty; choose another or pass --overwrite")
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, target.name)
        temporary = target.with_name(temporary_name(target.name))
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        with _naming_full(path):
            yield temporary
        set_default_modes(temporary)
        if target.is_dir():
            move_entries(temporary, target)
        else:
            os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_entries(source: Path, target: Path) -> None:
    """Move a folder's content into another on the same file system, each file in one step; other files there stay."""
    for entry in sorted(source.iterdir()):
        if entry.is_dir():  # a folder with files cannot be replaced in one step
            shutil.rmtree(target / entry.name, ignore_errors=True)
        os.replace(entry, target / entry.name)


@contextmanager
def _naming_full(path: str | Path) -> Iterator[None]:
    """A full disk, or file, is said of `path`: of the write that fails, the system does not know the name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def set_default_modes(folder: Path) -> None:
    """Give all files below a folder that we made the modes of new files; some libraries make them private.

    The folder itself, made in the ordinary way, tells what the umask leaves.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o777
    for entry in folder.rglob("*"):
        if not entry.is_symlink():
            _set_mode(entry, mode if entry.is_dir() else mode & 0o666)


def _set_mode(entry: Path, mode: int) -> None:
    """Only where it differs: some file systems have one mode for all, and refuse to set any."""
    before = stat.S_IMODE(entry.stat().st_mode)
    if before & 0o777 != mode & 0o777:
        entry.chmod((before & ~0o777) | (mode & 0o777))


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Yield a folder for the duration of the block, in the system's place for temporary files.

    Folders that killed processes left there for the same purpose are removed.
    """
    place = Path(tempfile.gettempdir())
    remove_leftovers(place, f"funnelformer-{purpose}")
    folder = place / temporary_name(f"funnelformer-{purpose}")
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _damages() -> tuple[type[Exception], ...]:
    """What a file that is damaged or cut short raises; of the package zstandard, once a file has made it be loaded."""
    package = sys.modules.get("zstandard")
    known = (EOFError, zlib.error, lzma.LZMAError, OSError)
    return known if package is None else (*known, package.ZstdError)
