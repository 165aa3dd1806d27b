"""How a long text is read in windows, and how their scores combine: what the options and task.json say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import UserError, short

__all__ = ["Windowing", "windowing_in", "windowing_of"]


@dataclass(frozen=True)
class Windowing:
    """How a long text is read, and how the logits of its windows combine.

    stride: tokens from the beginning of one window to that of the next; None: half a window.
    combine: "mean" of the logits; or "max", so that the window which is surest of a class speaks for it: of
        log-probabilities, or of the logits of labels and amounts.
    most: windows that are read, the first ones; None: all.
    """

    stride: int | None = None
    combine: str = "mean"
    most: int | None = None

    def __str__(self) -> str:
        return self.combine if self.most is None else f"first:{self.most}"

    @property
    def option(self) -> str:
        """The option that asks for it, as messages name it."""
        return "--windows" if self.stride is None else "--doc-stride"

    def saved(self) -> dict[str, Any]:
        """Entries of task.json, see `windowing_in`."""
        return {"windows": str(self)} | ({} if self.stride is None else {"doc_stride": self.stride})


def windowing_in(settings: Mapping[str, Any]) -> Windowing | None:
    """How the entries of a task.json say that long texts are read; None: they are cut."""
    stride, windows = settings.get("doc_stride"), settings.get("windows")
    return None if stride is None and windows is None else windowing_of(stride, windows, "windows")


def windowing_of(stride: int | None, windows: str | None, where: str = "--windows") -> Windowing:
    """What `--doc-stride` and `--windows` say. Raises UserError for other words than mean, max and first:K."""
    if windows is None or windows in ("mean", "max"):
        return Windowing(stride, windows or "mean")
    name, _, number = str(windows).partition(":")
    if name != "first" or not number.isascii() or not number.isdecimal() or not 1 <= int(number) <= 1 << 24:
        raise UserError(f"{where} is {short(windows)}; allowed: mean, max, first:1 or more")
    return Windowing(stride, "mean", int(number))
