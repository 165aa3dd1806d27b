"""Where a model comes from: the name of its source, and the README.md that `convert` leaves with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..config import FunnelformerConfig
from ..modeling import HEADS
from .folders import HUB_NAME
from .loaded import Loaded

__all__ = ["CARD", "card_of", "source_name"]

CARD = "README.md"
_HUB_CACHE = re.compile(r"models--([\w.-]+)--([\w.-]+)")
# What a card says of its license.
_LICENSE = ("license", "license_name", "license_link")


def source_name(source: str | Path) -> str:
    """A name for others to read: the Hub's, also of a folder in its cache, else the folder's own without its path."""
    hub = _hub_name(source)
    return hub or Path(source).absolute().name


def _hub_name(source: str | Path) -> str | None:
    path = Path(source)
    if not path.exists():
        return str(source) if HUB_NAME.fullmatch(str(source)) else None
    for part in path.absolute().parts:
        if match := _HUB_CACHE.fullmatch(part):
            return f"{match[1]}/{match[2]}"
    return None


def card_of(loaded: Loaded, source: str | Path, folder: Path, layers: Sequence[int] | None) -> str:
    """The text of README.md, with the metadata that the Hub reads.

    loaded: the model as it is written. source, folder: what was named, and the folder with its files.
    layers: the source's layers that its places have, where they were dealt anew.
    """
    config, name = loaded.config, source_name(source)
    theirs = _data_of(folder)
    # A folder does not know its name on the Hub, but what it was made from itself.
    base = _hub_name(source) or theirs.get("base_model")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="sentence-similarity" if _gives_vectors(loaded) else None,
        tags=["funnelformer"],
        base_model=base if isinstance(base, str | list) else None,
        **{key: theirs[key] for key in _LICENSE if isinstance(theirs.get(key), str)},
    )
    made = f"made from `{name}`" + (
        "" if layers is None else f" by `funnelformer convert --layout {_layout(config)}`"
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name} as {config.name}",
        f"An encoder of texts, {made}.",
        _origin(config, layers),
        f"```python\n{_example(loaded)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _gives_vectors(loaded: Loaded) -> bool:
    return loaded.architecture == "model" and loaded.config.vectors is not None


def _example(loaded: Loaded) -> str:
    if _gives_vectors(loaded):
        return (
            "from funnelformer.inference.embedder import load_embedder\n\n"
            'vectors = load_embedder("the folder of this file").vectors(["a text", "another"])'
        )
    name = HEADS[loaded.architecture].model_class.__name__
    return f'from funnelformer import {name}\n\nmodel = {name}.from_pretrained("the folder of this file")'


def _origin(config: FunnelformerConfig, layers: Sequence[int] | None) -> str:
    if layers is None:
        return "The weights and the outputs are those of the source."
    made_from = config.made_from or {}
    lines = [
        f"The source is {made_from['source_layout']}, of the type {made_from['model_type']}. Its layers, counted from "
        f"0, stand here in this order: {', '.join(map(str, layers))}; in blocks of "
        f"{', '.join(map(str, config.blocks))}.",
    ]
    if config.num_blocks > 1:
        lines.append("Between two blocks the sequence is halved.")
    lines.append(
        "The weights are those of the source, and nothing was trained since: outputs differ from the source's, and "
        "fine-tuning is what makes up for it."
    )
    return " ".join(lines)


def _layout(config: FunnelformerConfig) -> str:
    return config.name.partition(" ")[0]


def _data_of(folder: Path) -> dict[str, Any]:
    """The metadata of a source's own card; nothing where it has none, or none that can be read."""
    try:
        return dict(ModelCard.load(folder / CARD).data.to_dict())
    except (
        Exception
    ):  # of a file that others wrote: missing, no UTF-8, no YAML, and yaml's errors have many bases
        return {}
