"""The models that come with the package: a name stands for a folder inside it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["BUNDLED", "located"]

_FOLDER = Path(__file__).parent.parent / "bundled"
BUNDLED = ("mini",)


def located(source: str | os.PathLike[str]) -> str:
    """The folder of a model that comes with the package for its name; anything else as it is.

    A folder of that name in the working directory goes first.
    """
    text = os.fspath(source)
    return str(_FOLDER / text) if text in BUNDLED and not os.path.exists(text) else text
