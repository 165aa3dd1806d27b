"""What a name given for data means, in every command: a file or folder first, then a data set on the Hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..base.files import plain_suffix
from .formats import FORMATS

__all__ = ["DataFile", "DataFolder", "HubData", "find_data"]

# As the Hub writes it: name, or user/name, and maybe :config.
_HUB_DATA = re.compile(r"(\w[\w.-]*(?:/[\w.-]+)?)(?::([\w.-]+))?")
_SAVED = ("dataset_dict.json", "state.json")


@dataclass(frozen=True)
class DataFile:
    """A file on this machine, a glob, or a name that does not exist; reading it raises the error."""

    path: Path


@dataclass(frozen=True)
class DataFolder:
    """A folder on this machine. is_saved: True if `Dataset.save_to_disk` wrote it."""

    path: Path
    is_saved: bool


@dataclass(frozen=True)
class HubData:
    """A data set on the Hugging Face Hub: `user/name` or `name`, and its configuration if one was named."""

    repository: str
    config: str | None = None


def find_data(source: str | os.PathLike[str]) -> DataFile | DataFolder | HubData:
    """Say what a name means, without reading it and without asking the Hub.

    A mistyped path does not become a Hub name: a name counts as a path if its parent folder exists, or if it has the
    suffix of a data file.
    """
    text, path = os.fspath(source), Path(source)
    if os.path.isdir(text):
        return DataFolder(path, any((path / name).is_file() for name in _SAVED))
    is_path = os.path.lexists(text) or plain_suffix(path) in (*FORMATS, ".txt")
    is_path = is_path or ("/" in text and path.parent.exists())
    if is_path or (match := _HUB_DATA.fullmatch(text)) is None:
        return DataFile(path)
    return HubData(match[1], match[2])
