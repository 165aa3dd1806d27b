"""What the commands that use a model can be told of windows, in place of what its folder says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ..base.options import at_least, grouped
from .windowing import windowing_of

__all__ = ["WindowOptions"]


@grouped(data="doc_stride windows")
@dataclass(kw_only=True)
class WindowOptions:
    """How long texts are read; what is not said here is as in training."""

    doc_stride: Annotated[int | None, at_least(1)] = None
    "Read longer texts in windows that begin this many tokens apart. By default as in training."
    windows: str | None = None
    "How the windows of a text combine: mean of their logits, max for each class, or first:K, the mean of the first K. \
By default as in training; where texts were cut then, windows begin half a window apart."

    def __post_init__(self) -> None:
        """Raises UserError for --windows of other words."""
        windowing_of(self.doc_stride, self.windows)

    @property
    def asked(self) -> dict[str, Any]:
        """The options that are given, as entries of task.json."""
        return {
            name: value for name in ("doc_stride", "windows") if (value := getattr(self, name)) is not None
        }
