"""Rules for the names of a table's columns, the same for csv, tsv, JSON, parquet and Arrow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..base.errors import UserError, as_seen

__all__ = ["check_names", "plain_name"]


def plain_name(name: str) -> str:
    """The name of a column without the byte order mark that some programs leave before the first one."""
    return name.removeprefix("\ufeff")


def check_names(names: Iterable[Any], where: str) -> None:
    """Raise UserError if two columns have the same name, or names that look alike, or if a name has a NUL character.

    where: what the message begins with. One column may have an empty name.
    """
    first: dict[str, Any] = {}
    for name in names:
        if "\0" in str(name):
            raise UserError(f"{where} names column {name!r}, with the character NUL; is the file UTF-16?")
        seen = as_seen(str(name))
        if seen in first:
            if first[seen] == name:
                raise UserError(f"{where} names column {name!r} twice")
            raise UserError(
                f"{where} names the columns {first[seen]!r} and {name!r}, which differ only in white space or in how "
                "they are written; rename one of them"
            )
        first[seen] = name
