"""Our own folders: what `save_pretrained` of our models writes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..config import FunnelformerConfig
from ..errors import UserError
from .options import make_config
from .weights import find_weights, read_json, read_state_dict

__all__ = ["ARCHITECTURES", "load", "save"]

ARCHITECTURES = {
    "model": "FunnelformerModel",
    "masked_lm": "FunnelformerForMaskedLM",
    "sequence_classification": "FunnelformerForSequenceClassification",
}


def load(folder: str | Path) -> tuple[FunnelformerConfig, dict[str, Tensor], str, dict[str, str]]:
    """Read config, state dict and architecture; nothing is left out. Raises UserError naming the file."""
    folder = Path(folder)
    path = folder / "config.json"
    config = make_config(read_json(path), str(path))
    names = {name: architecture for architecture, name in ARCHITECTURES.items()}
    name = (config.architectures or ["FunnelformerModel"])[0]
    if name not in names:
        raise UserError(f"{path}: architectures is {name!r}; allowed: {', '.join(names)}")
    return config, read_state_dict(find_weights(folder)), names[name], {}


def save(
    config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str, folder: str | Path
) -> None:
    """Write `config.json` and `model.safetensors`, as `save_pretrained` would, without building the model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(config)
    config.architectures = [ARCHITECTURES[architecture]]
    config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
