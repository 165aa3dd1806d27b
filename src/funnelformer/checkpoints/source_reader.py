"""What the config and `from_pretrained` ask of a source that is not ours, or whose layers go into other blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.json_toml import read_json
from ..config.model_config import FunnelformerConfig
from .folders import find_foreign, load_foreign, translated
from .loaded import Loaded
from .native import config_in
from .provenance import source_name
from .shortening import deal
from .weights import check_weights

__all__ = ["check_config", "check_weights", "find_foreign", "read_source", "translated"]


def check_config(file: Path) -> None:
    """Raise UserError naming the file and the key if `config.json` belongs to no model that is known here."""
    values = read_json(file)
    if values.get("model_type") == FunnelformerConfig.model_type:
        config_in(file)
    else:
        translated(values, str(file))


def read_source(name: str, folder: Path | None, wishes: Mapping[str, Any], **hub: Any) -> Loaded:
    """Read a model under our names, and put its layers in other blocks if asked.

    name: as the user gave it. folder: what `find_foreign` made of it; None where the model is ours.
    wishes: the arguments of `shortening.deal` that were given; none leaves the layers where they are.
    hub: as for `folders.resolve`. Raises UserError for what cannot be read, or does not fit.
    """
    loaded = load_foreign(name if folder is None else folder, **({} if folder else hub))
    return deal(loaded, source_name(name), **wishes) if wishes else loaded
