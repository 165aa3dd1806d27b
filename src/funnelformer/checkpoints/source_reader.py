"""What the config and `from_pretrained` ask of a source that is not ours, or whose layers go into other blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folders import find_foreign, load_foreign, translated
from .loaded import Loaded
from .provenance import source_name
from .shortening import deal
from .weights import check_weights

__all__ = ["check_weights", "find_foreign", "read_source", "translated"]


def read_source(name: str, folder: Path | None, wishes: Mapping[str, Any], **hub: Any) -> Loaded:
    """Read a model in our names, and deal its layers anew where that is wished.

    name: as the user gave it. folder: what `find_foreign` made of it; None where the model is ours.
    wishes: the arguments of `shortening.deal` that were given; none leaves the layers where they are.
    hub: as for `folders.resolve`. Raises UserError for what cannot be read, or does not fit.
    """
    loaded = load_foreign(name if folder is None else folder, **({} if folder else hub))
    return deal(loaded, source_name(name), **wishes) if wishes else loaded
