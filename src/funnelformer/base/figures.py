"""Figures as files: names in any script, and no more than one line of complaint where no font has it."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .files import atomic_writer


def _keep_out_of_home() -> None:
    """Let matplotlib keep its list of fonts in the system's place for such files, unless the user has told it where."""
    if os.environ.get("MPLCONFIGDIR") or "matplotlib" in sys.modules or not hasattr(os, "getuid"):
        return
    folder = Path(tempfile.gettempdir()) / f"funnelformer-matplotlib-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return
    # Another user may have been first; what lies there is then not to be trusted.
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        os.environ["MPLCONFIGDIR"] = str(folder)


_keep_out_of_home()

from matplotlib import rc_context  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.font_manager import fontManager  # noqa: E402
from matplotlib.ft2font import FT2Font  # noqa: E402
from matplotlib.text import Text  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

# Of matplotlib other modules take what they draw with from here, so that the function above comes first.
__all__ = [
    "Bbox",
    "Figure",
    "FuncFormatter",
    "MaxNLocator",
    "NullFormatter",
    "class_names",
    "plain",
    "rc_context",
    "save_png",
    "with_fonts",
]

_SHOWN_CHARACTERS = 24
_BASE = "DejaVu Sans"  # comes with matplotlib
_BOXES = "Last Resort"  # does too; it has a box for every character there is


def plain(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    """A name on one line, of printable characters, and not too long."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def class_names(labels: Sequence[str], shown: Iterable[int]) -> list[str]:
    """The names that a figure gives to the classes with these numbers, as far as this machine has a font for them.

    Names that would look the same get their number. Those without a font have it in place of the name, which is said on
    stderr, in one line. A dollar sign begins no formula.
    """
    numbers = list(shown)
    names = [plain(labels[number]) for number in numbers]
    lacking = [number for number, name in zip(numbers, names, strict=True) if not name or _fonts_for(name)[1]]
    counts = Counter(names)
    found = []
    for number, name in zip(numbers, names, strict=True):
        if number in lacking or not name:
            name = f"class {number}"
        elif counts[name] > 1:
            name = f"{plain(name, _SHOWN_CHARACTERS - 5)} ({number})"
        found.append(name.replace("$", r"\$"))
    if lacking:
        which = ", ".join(map(str, lacking[:8])) + (", ..." if len(lacking) > 8 else "")
        print(
            f"warning: no font of this machine has the characters of some class names; the figure shows their numbers "
            f"in id2label ({which}); a package such as fonts-noto-cjk has them",
            file=sys.stderr,
        )
    return found


def save_png(figure: Figure, file: Path) -> None:
    """Write a PNG that appears whole."""
    with atomic_writer(file) as stream, with_fonts(figure):
        figure.savefig(stream.buffer, format="png", dpi=120)


@contextmanager
def with_fonts(figure: Figure) -> Iterator[None]:
    """Give the texts of a figure fonts that have their characters; say in one line, on stderr, when there are none."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels(which="both")  # which makes them
    lacking = set()
    for text in figure.findobj(Text):
        content = text.get_text()
        families, missing = _fonts_for(content)
        if families:
            text.set_fontfamily([_BASE, *families])
        if missing:
            lacking.add(plain(content))
    if lacking:
        shown = ", ".join(sorted(lacking)[:4])
        print(f"warning: no font of this machine has all characters of {shown}", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield


def _fonts_for(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families that have, together, the characters the base font lacks; and the characters that none has."""
    return _families(frozenset(c for c in text if c.isprintable() and ord(c) not in _base_characters()))


@cache
def _base_characters() -> frozenset[int]:
    return next(_characters(entry.fname) for entry in fontManager.ttflist if entry.name == _BASE)


@cache
def _families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    wanted = {ord(character) for character in characters}
    found: list[str] = []
    # Upright ones of ordinary weight first.
    fonts = [entry for entry in fontManager.ttflist if not entry.name.startswith(_BOXES)]
    entries = sorted(fonts, key=lambda e: (e.style != "normal", e.weight != 400, e.name))
    for entry in entries:
        if not wanted:
            break
        has = wanted & _characters(entry.fname)
        if has and entry.name not in found:
            found.append(entry.name)
            wanted -= has
    return tuple(found), frozenset(map(chr, wanted))


@cache
def _characters(file: str) -> frozenset[int]:
    """Code points that a font has an outline for; none of one that cannot be read, or is made of pictures."""
    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
