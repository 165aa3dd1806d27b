"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from .data.files import atomic_writer

__all__ = ["save_png"]


def save_png(figure: Figure, file: Path) -> None:
    """Write a PNG that appears whole."""
    with atomic_writer(file) as stream:
        figure.savefig(stream.buffer, format="png", dpi=120)
