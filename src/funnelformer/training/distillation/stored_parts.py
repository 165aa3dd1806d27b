"""Arrays on disk in parts of so many rows: a part is whole or not there, and is mapped when it is read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import UserError
from ...base.files import atomic_path
from ...base.strict_json import json_text, write_json

__all__ = ["StoredParts", "check_room", "open_parts"]

_SETTINGS = "settings.json"
# Left free beside what is written.
_SPARE_BYTES = 256 << 20


@dataclass(frozen=True)
class StoredParts:
    """Parts of `rows_per_part` rows in a folder, with arrays of these names; the last name is written last.

    Rows of an array need not be rows of the part: a part may hold several arrays of different lengths.
    """

    folder: Path
    names: tuple[str, ...]
    num_rows: int
    rows_per_part: int
    _mapped: dict[tuple[int, str], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": {}}  # or all of it would be pickled

    @property
    def num_parts(self) -> int:
        return -(-self.num_rows // self.rows_per_part)

    def rows(self, number: int) -> range:
        """The rows of a part."""
        start = number * self.rows_per_part
        return range(start, min(start + self.rows_per_part, self.num_rows))

    def missing(self) -> list[int]:
        return [number for number in range(self.num_parts) if not self.has(number)]

    def has(self, number: int) -> bool:
        """Whether a part is there, whole."""
        return self._file(number, self.names[-1]).is_file()

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        for name in self.names:
            with atomic_path(self._file(number, name)) as temporary, temporary.open("wb") as file:
                np.save(file, arrays[name], allow_pickle=False)

    def read(self, number: int, name: str) -> np.ndarray:
        """An array of a part, mapped. Raises UserError for a file that is none."""
        found = self._mapped.get((number, name))
        if found is not None:
            return found
        file = self._file(number, name)
        try:
            array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{file}: cannot be read ({error}); delete it, and it will be computed again"
            ) from None
        self._mapped[number, name] = array
        return array

    def _file(self, number: int, name: str) -> Path:
        return self.folder / f"{number:06}.{name}.npy"


def open_parts(
    cache: Path,
    kind: str,
    settings: Mapping[str, Any],
    names: tuple[str, ...],
    num_rows: int,
    rows_per_part: int,
) -> StoredParts:
    """The parts that were made, or are to be made, with these settings: a folder of the cache for each.

    settings: all that decides the values, as JSON; the folder's name has their hash, and a file there says them.
    """
    whole = {**settings, "kind": kind, "num_rows": num_rows, "rows_per_part": rows_per_part}
    digest = hashlib.sha256(json_text(whole, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{kind}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache {cache}: cannot be written ({error.strerror})") from error
    if not (folder / _SETTINGS).is_file():
        write_json(folder / _SETTINGS, whole)
    return StoredParts(folder, names, num_rows, rows_per_part)


def check_room(cache: Path, needed_bytes: int) -> None:
    """Raise UserError when the disk has too little room for what is to be written."""
    existing = next(folder for folder in (cache.absolute(), *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + _SPARE_BYTES > free:
        raise UserError(
            f"--cache {cache}: {needed_bytes / 1e9:.2f} GB are needed, and {free / 1e9:.2f} GB are free; name another "
            "folder, or give fewer texts (of states: fewer --state-texts)"
        )
