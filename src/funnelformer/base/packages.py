"""The packages of the extra `onnx`."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import UserError

__all__ = ["need"]


def need(*names: str) -> None:
    """Raise UserError for the first package that is not installed, with what installs it."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install 'funnelformer[onnx]'")
