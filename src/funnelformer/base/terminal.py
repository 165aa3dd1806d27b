"""What is shown on a terminal by rich: values are text, never markup, and steer nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from .errors import printable

__all__ = ["cell", "plain_console"]


def plain_console(**settings: Any) -> Console:
    """A console that shows "[/b]" and ":smile:" as they stand; settings: of rich's `Console`."""
    return Console(markup=False, emoji=False, highlight=False, **settings)


def cell(value: object) -> Text:
    """A value as the text of a table's cell or header."""
    return Text(printable(str(value)))
