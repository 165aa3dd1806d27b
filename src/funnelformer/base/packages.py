"""Packages that only some commands need, with the extra that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import UserError

__all__ = ["need"]


def need(*names: str, extra: str = "onnx") -> None:
    """Raise UserError for the first package that is not installed, with what installs it."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install 'funnelformer[{extra}]'")
