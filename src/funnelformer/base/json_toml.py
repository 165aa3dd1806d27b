"""The one reader of JSON and the one of TOML: whatever a file holds, its content or one line that says what is wrong.

The parsers of the standard library recurse over nesting, take minutes for a number or a key of thousands of parts, and
read what never ends; here all of these have a bound that no sound file meets.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from .errors import UserError, one_line
from .files import check_file

__all__ = [
    "MAX_DEPTH",
    "load_json",
    "load_toml",
    "read_json",
    "read_json_value",
    "read_small_text",
    "read_toml",
]

MAX_DEPTH = 100
# A number beyond float64 and every integer type; Python takes quadratic time to read one.
_MAX_DIGITS = 308
# tokenizer.json of the largest vocabularies has 40 MB.
_MAX_JSON_BYTES = 128 << 20
_MAX_TOML_BYTES = 1 << 20
_MAX_KEY_PARTS = 64
_LONG_NUMBER = re.compile(rf"\d{{{_MAX_DIGITS + 1}}}")


def load_json(text: str, name: str, first_line: int = 1) -> Any:
    """Parse JSON that begins on a line of a file.

    Raises UserError naming the line of a syntax error, and for a key that stands twice in an object, nesting deeper
    than 100, or a number of more than 308 digits.
    """
    try:
        value = json.loads(
            text,
            parse_int=_short_int if _LONG_NUMBER.search(text) else None,
            object_pairs_hook=_once_each,
        )
    except json.JSONDecodeError as error:
        where = f"{name}: line {first_line + error.lineno - 1}"
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{name}: line {first_line}: nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise UserError(f"{name}: line {first_line}: not usable JSON ({one_line(error)})") from None
    _check_depth(value, text, f"{name}: line {first_line}")
    return value


def load_toml(text: str, name: str) -> dict[str, Any]:
    """Parse TOML. Raises tomllib.TOMLDecodeError for a syntax error, UserError for too deep nesting or too long keys or
    numbers."""
    for part in text.split("="):  # a key stands before each, on a line of its own or in an inline table
        key = part.rpartition("\n")[2]
        if key.count(".") >= _MAX_KEY_PARTS:
            raise UserError(f"{name}: a key of more than {_MAX_KEY_PARTS} parts")
    if any(line.count(".") >= _MAX_KEY_PARTS for line in text.splitlines() if line.lstrip().startswith("[")):
        raise UserError(f"{name}: a key of more than {_MAX_KEY_PARTS} parts")
    if _LONG_NUMBER.search(text):
        raise UserError(f"{name}: a number of more than {_MAX_DIGITS} digits")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{name}: nested deeper than {MAX_DEPTH}") from None
    _check_depth(value, text, name)
    return value


def read_json_value(path: str | Path) -> Any:
    """Read a file of JSON. Raises UserError naming the file and, for a syntax error, the line."""
    return load_json(read_small_text(path, _MAX_JSON_BYTES), str(path))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a file that is a JSON object. Raises UserError as `read_json_value`, and when it is another value."""
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is needed, not {type(content).__name__}")
    return content


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a file of TOML. Raises UserError naming the file."""
    try:
        return load_toml(read_small_text(path, _MAX_TOML_BYTES), str(path))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not valid TOML ({one_line(error)})") from None


def read_small_text(path: str | Path, most_bytes: int = _MAX_JSON_BYTES) -> str:
    """The text of an uncompressed UTF-8 file of at most `most_bytes`. Raises UserError for any other."""
    try:
        check_file(path)
        # Without waiting: a pipe in the place of a file would never answer.
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path}: is not a plain file")
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a name with a null character
        if isinstance(error, UserError):
            raise
        raise UserError(f"{str(path)!r}: cannot be read ({one_line(error)})") from None
    if len(content) > most_bytes:
        raise UserError(
            f"{path}: larger than {most_bytes:,} bytes, which is too large for a file of its kind"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not valid UTF-8 (byte 0x{content[error.start]:02x})") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _short_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What an object of JSON becomes (`object_pairs_hook`). Raises ValueError for a key that stands there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"names column {twice!r} twice")
    return found


def _check_depth(value: Any, text: str, where: str) -> None:
    """Raise UserError for nesting deeper than what every later writer, printer and copier can follow."""
    if text.count("[") + text.count("{") + text.count(".") <= MAX_DEPTH:
        return
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise UserError(f"{where}: nested deeper than {MAX_DEPTH}")
        containers = (entry for entry in level if isinstance(entry, dict | list))
        level = [
            child
            for entry in containers
            for child in (entry.values() if isinstance(entry, dict) else entry)
            if isinstance(child, dict | list)
        ]
