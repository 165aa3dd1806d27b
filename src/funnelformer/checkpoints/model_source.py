"""What the name of a model stands for, in every command: a folder, the package's own, a layout, a name on the Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..base.bundled import located
from ..base.errors import UserError, did_you_mean
from ..base.hub import HUB_NAME
from ..config.model_config import parse_name

__all__ = ["Folder", "Hub", "Layout", "find_model", "is_layout", "nearest"]


@dataclass(frozen=True)
class Folder:
    """A model's folder on this machine."""

    path: Path


@dataclass(frozen=True)
class Hub:
    """A name on the Hugging Face Hub, as user/name."""

    name: str


@dataclass(frozen=True)
class Layout:
    """A layout or preset, as B4-4-4H768: a model with random weights."""

    name: str


def find_model(source: str | os.PathLike[str]) -> Folder | Hub | Layout:
    """Say what `source` is; nothing is read or asked for.

    Raises UserError for what is none of the three, with the nearest folder or layout.
    """
    text = located(source)
    path = Path(os.path.expanduser(text))
    if text and os.path.exists(path):  # not Path.exists, which raises for a name that is too long
        return Folder(path)
    if _is_path_like(source):
        if isinstance(source, str) and HUB_NAME.fullmatch(text) and not text.startswith((".", "~")):
            return Hub(text)
        raise UserError(f"{text}: no such folder{nearest(path)}")
    try:
        parse_name(text)
    except UserError as error:
        raise UserError(f"{error}; and there is no such folder{nearest(path)}") from None
    return Layout(text)


def is_layout(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a layout, so that a model of it starts from nothing. Raises UserError as `find_model`."""
    return isinstance(find_model(source), Layout)


def nearest(path: Path) -> str:
    """A hint at the folder beside `path` whose name is like its own."""
    parent = path.parent
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
    return did_you_mean(path.name, names)


def _is_path_like(source: str | os.PathLike[str]) -> bool:
    text = os.fspath(source)
    return not isinstance(source, str) or "/" in text or os.sep in text or text.startswith((".", "~"))
