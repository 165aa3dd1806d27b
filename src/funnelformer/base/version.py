"""The version, and how it gets into the files that the package writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["VERSION_KEY", "__version__", "stamped"]

__version__ = "0.1.0"

VERSION_KEY = "funnelformer_version"


def stamped(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file, with the version that writes it."""
    return {**values, VERSION_KEY: __version__}
