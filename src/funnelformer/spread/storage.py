"""Files on this machine or in an object store, with one set of functions: list, read a range, write whole."""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ..base.errors import UserError, one_line
from ..base.files import atomic_path, check_file, expand_paths, plain_suffix
from ..data.formats import FORMATS

__all__ = [
    "as_url",
    "exists",
    "file_sizes",
    "is_remote",
    "list_files",
    "list_sources",
    "local_copy",
    "open_store",
    "read_range",
    "write_whole",
]

_READ_BYTES = 8 << 20
_SUFFIXES = (*FORMATS, ".txt")


def is_remote(name: str) -> bool:
    """Whether a name is a URL, such as s3://bucket/name."""
    return "://" in name


def as_url(path: Path | str) -> str:
    """A URL as it was before `Path` made one slash of its two; any other name becomes an absolute path."""
    text = re.sub(r"^([a-z][a-z0-9+.-]+):/+(?=[^/])", r"\1://", str(path))
    return text if is_remote(text) else os.path.abspath(text)


@cache
def _store(scheme: str, bucket: str) -> Any:
    """The file system for URLs of a scheme: pyarrow's own for S3, fsspec's for any other."""
    from pyarrow import fs

    if scheme == "s3":
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is None and region is None:
            region = fs.resolve_s3_region(bucket)
        if endpoint is not None:
            # By default Amazon's client appends checksums to a body; other servers often refuse them.
            os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        # A file of a few MB then takes one request.
        return fs.S3FileSystem(region=region, endpoint_override=endpoint, allow_delayed_open=True)
    import fsspec

    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))


def open_store(url: str) -> tuple[Any, str]:
    """The pyarrow file system of a URL, and the path of the URL in it.

    For S3 the region and the endpoint come from the variables that Amazon's own tools read, such as AWS_REGION and
    AWS_ENDPOINT_URL.
    Raises UserError if no installed library knows the URL's scheme, or if the store cannot be reached.
    """
    scheme, _, path = url.partition("://")
    try:
        return _store(scheme, path.partition("/")[0]), path
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{url}: cannot be opened ({one_line(error)})") from None


def list_files(folder: str) -> dict[str, int]:
    """The size in bytes of each file in a folder and below, by its path from there; empty if there is no folder.

    Raises UserError if a store cannot be read.
    """
    if not is_remote(folder):
        base = Path(folder)
        return {
            str(path.relative_to(base)): path.stat().st_size for path in base.rglob("*") if path.is_file()
        }
    from pyarrow import fs

    store, path = open_store(folder)
    path = path.rstrip("/")
    try:
        found = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({one_line(error)})") from None
    return {
        entry.path.removeprefix("/").removeprefix(path.removeprefix("/") + "/"): entry.size
        for entry in found
        if entry.type == fs.FileType.File
    }


def exists(url: str) -> bool:
    """Whether there is a file with that name, which may be a path or a URL."""
    if not is_remote(url):
        return os.path.isfile(url)
    from pyarrow import fs

    store, path = open_store(url)
    return bool(store.get_file_info(path).type == fs.FileType.File)


def file_sizes(urls: list[str]) -> list[int]:
    """The sizes in bytes of files in object stores, in the order of their URLs."""
    return [store.get_file_info(path).size for store, path in map(open_store, urls)]


def list_sources(data: str) -> list[str]:
    """The files that `data` stands for, as absolute paths or URLs, sorted.

    data: a file; a glob pattern; or a folder, of which it takes the files there and below that end in .txt or a suffix
    of `FORMATS`, compressed or not, and are not hidden.
    Raises UserError if there is none, or if the name cannot be read.
    """
    data = as_url(data)
    if not is_remote(data):
        if os.path.isdir(data):
            found = [os.path.join(data, name) for name in list_files(data) if _is_data(name)]
            return _some(data, [str(check_file(path)) for path in found])
        return [str(path) for path in expand_paths(data)]
    from pyarrow import fs

    store, path = open_store(data)
    if glob.has_magic(path):
        folder = data[: re.search(r"[*?\[]", data).start()].rpartition("/")[0]  # type: ignore[union-attr]
        form = _glob_form(data.removeprefix(folder + "/"))
        return _some(data, [f"{folder}/{name}" for name in list_files(folder) if form.fullmatch(name)])
    try:
        kind = store.get_file_info(path).type
    except OSError as error:
        raise UserError(f"{data}: cannot be read ({one_line(error)})") from None
    if kind == fs.FileType.File:
        return [data]
    folder = data.rstrip("/")
    return _some(data, [f"{folder}/{name}" for name in list_files(folder) if _is_data(name)])


def _is_data(name: str) -> bool:
    return plain_suffix(name) in _SUFFIXES and not any(part.startswith(".") for part in Path(name).parts)


def _some(data: str, found: list[str]) -> list[str]:
    if not found:
        raise UserError(f"{data}: no data files found; allowed suffixes: {', '.join(_SUFFIXES)}")
    return sorted(found)


def _glob_form(pattern: str) -> re.Pattern[str]:
    """A regular expression for a pattern, as Python's glob reads it: only "**" matches slashes."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return re.compile(
        "".join(pieces.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)
    )


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """Yield a path on this machine with a source's content and suffixes.

    It is the source itself, or a temporary copy of one in a store. Raises UserError if the store cannot be read.
    """
    if not is_remote(source):
        yield Path(source)
        return
    store, path = open_store(source)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        try:
            with store.open_input_stream(path, compression=None) as stream, open(copy, "wb") as file:
                shutil.copyfileobj(stream, file, _READ_BYTES)
        except OSError as error:
            raise UserError(f"{source}: cannot be read ({one_line(error)})") from None
        yield copy


def read_range(source: str, begin: int, end: int) -> bytes:
    """The bytes of a source from `begin` to before `end`. Raises UserError if it cannot be read."""
    try:
        if not is_remote(source):
            with open(source, "rb") as file:
                file.seek(begin)
                return file.read(end - begin)
        store, path = open_store(source)
        with store.open_input_file(path) as stream:
            stream.seek(begin)
            content: bytes = stream.read(end - begin)
            return content
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({one_line(error)})") from None


def write_whole(target: str, content: Any) -> None:
    """Write bytes to a file, which appears whole or not at all: by renaming on this machine, as one object in a store.

    Raises UserError if it cannot be written.
    """
    if not is_remote(target):
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        return
    store, path = open_store(target)
    try:
        with store.open_output_stream(path, compression=None) as stream:
            stream.write(content)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({one_line(error)})") from None
