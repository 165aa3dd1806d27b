"""JSON that every reader takes: what is written has no NaN and no infinity, which are no JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TextIO

from .files import atomic_writer

__all__ = ["dump_json", "json_line", "json_text", "write_json"]


def json_text(value: Any, **settings: Any) -> str:
    """A value as JSON, numbers that are not finite as null; settings: of `json.dumps`."""
    try:
        return json.dumps(value, allow_nan=False, **settings)
    except ValueError:
        return json.dumps(_without_nan(value), allow_nan=False, **settings)


def json_line(value: Any) -> str:
    """A row of a JSON-lines file, with its newline; a value that JSON does not know, such as a date, becomes text."""
    return json_text(value, ensure_ascii=False, default=str) + "\n"


def dump_json(value: Any, file: TextIO, **settings: Any) -> None:
    """Write to an open file; indented by 2 unless told otherwise."""
    file.write(json_text(value, **{"indent": 2, **settings}))


def write_json(path: Path, value: Any, **settings: Any) -> None:
    """Write a file that appears whole."""
    with atomic_writer(path) as file:
        dump_json(value, file, **settings)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return value
