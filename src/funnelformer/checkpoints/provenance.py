"""Where a model comes from: the name of its source for others to read."""

from __future__ import annotations

import re
from pathlib import Path

from .folders import HUB_NAME

__all__ = ["hub_name", "source_name"]

_HUB_CACHE = re.compile(r"models--([\w.-]+)--([\w.-]+)")


def source_name(source: str | Path) -> str:
    """A name for others to read: the Hub's, also of a folder in its cache, else the folder's own without its path."""
    hub = hub_name(source)
    return hub or Path(source).absolute().name


def hub_name(source: str | Path) -> str | None:
    """The name on the Hub of what is named by it, or lies in the Hub's cache."""
    path = Path(source)
    if not path.exists():
        return str(source) if HUB_NAME.fullmatch(str(source)) else None
    for part in path.absolute().parts:
        if match := _HUB_CACHE.fullmatch(part):
            return f"{match[1]}/{match[2]}"
    return None
