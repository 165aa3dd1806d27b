"""The files that a run reads, by their SHA-256: a resumed run needs the data it began with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...base.bundled import located
from ...base.errors import UserError
from ...base.files import hash_file
from ...base.json_toml import read_json
from ...base.strict_json import write_json

__all__ = ["INPUTS_FILE", "check_inputs", "files_of", "input_files", "tokenizer_files", "write_inputs"]

# In the folder of a run.
INPUTS_FILE = "inputs.json"
# Files of a folder with more (images, articles) have one hash for all.
_MOST_FILES = 1000


@functools.singledispatch
def input_files(config: Any) -> list[Path]:
    """The local files that a run reads, which must be the same when it goes on; each command registers its own."""
    return []


def files_of(source: str | Path | None) -> list[Path]:
    """The file itself, or all files below a folder; none for a name on the Hub."""
    if source is None:
        return []
    path = Path(located(source))
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def tokenizer_files(source: str | Path) -> list[Path]:
    """The files that decide a tokenizer's ids."""
    path = Path(located(source))
    return [
        file
        for file in files_of(path)
        if file == path
        or (file.parent == path and (file.name == "tokenizer.json" or file.match("vocab*.txt")))
    ]


def write_inputs(folder: Path, files: Iterable[Path]) -> None:
    """Write down the files of a new run."""
    write_json(folder / INPUTS_FILE, {"sha256": _hashes(files)})


def check_inputs(folder: Path, files: Iterable[Path]) -> None:
    """Raise UserError naming the first file that is not as the run in `folder` noted it; a run may have noted none."""
    noted = folder / INPUTS_FILE
    if not noted.is_file():
        return
    before: Any = read_json(noted).get("sha256")
    if not isinstance(before, dict):
        raise UserError(f"{noted}: does not list the run's files")
    now = _hashes(files)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            what = (
                "has changed"
                if name in before and name in now
                else "is new"
                if name in now
                else "is not there"
            )
            raise UserError(
                f"{name}: {what} since the run in {folder} began; a run goes on only with the same data: restore "
                "them, or start again with --overwrite"
            )


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    found = sorted(set(files))
    by_file = {str(file): _hash_of(file) for file in found}
    if len(found) <= _MOST_FILES:
        return by_file
    by_folder: dict[str, Any] = {}
    for file in found:
        total = by_folder.setdefault(str(file.parent), hashlib.sha256())
        total.update(f"{file.name}\0{by_file[str(file)]}\n".encode("utf-8", "surrogatepass"))
    return {name: total.hexdigest() for name, total in by_folder.items()}


def _hash_of(file: Path) -> str:
    try:
        state = file.stat()
        return _hash_as_it_is(file, state.st_ino, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


@functools.lru_cache(maxsize=100_000)
def _hash_as_it_is(file: Path, inode: int, size: int, changed_ns: int) -> str:
    """A run asks twice, before it reads and when it opens its folder."""
    return hash_file(file)
