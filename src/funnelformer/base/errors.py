"""The one exception a user sees as one line, and the suggestion that goes with a misspelt name."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = [
    "HARMLESS",
    "UserError",
    "as_seen",
    "changed",
    "did_you_mean",
    "joined",
    "one_line",
    "printable",
    "reject_unknown",
    "short",
]

# Categories of Unicode that steer a terminal, the direction of text, or are no characters: controls, formats,
# surrogates, private use, unassigned, and ends of lines and paragraphs.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
# The joiners of emoji and of several scripts do no harm.
HARMLESS = "\u200c\u200d"


class UserError(ValueError):
    """Something the user gave cannot be used; the message names the file, key or row. The CLI exits with 2.

    The message is one line. Characters that would steer a terminal are escaped, whatever a foreign file put in a name.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


def changed(source: object) -> UserError:
    """The error to raise if a source that is read twice differs the second time."""
    return UserError(f"{source}: changed while it was read")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or an empty string when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def printable(text: str, *, keep: str = "") -> str:
    """The text with what would steer a terminal as escapes ("\\x1b"): names in foreign files may hold anything.

    keep: characters that stay, as "\\n" in a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keep or character in HARMLESS or unicodedata.category(character) not in _UNPRINTABLE
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def as_seen(text: str) -> str:
    """The text as a reader sees it: composed, without what is not shown, any white space as one space."""
    shown = (
        c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf" or c in HARMLESS
    )
    return " ".join("".join(shown).split())


def one_line(error: BaseException) -> str:
    """The first line of another library's error, or the error's class when it has no message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def short(value: Any) -> str:
    """A value as Python writes it, at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def joined(error: BaseException) -> str:
    """The whole message of an error on one line, or the error's class when it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def reject_unknown(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise `UserError` for the first of the sorted names that is not known, with the nearest known one."""
    known = sorted(known)
    for name in sorted(given):
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise UserError(f"{what}: unknown key {name!r}{hint}")
