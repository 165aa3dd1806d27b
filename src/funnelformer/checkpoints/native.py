"""Our own folders: what `save_pretrained` of our models writes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.json_toml import read_json
from ..config.model_config import FunnelformerConfig, own_options
from ..modeling import HEADS
from .foreign_options import make_config
from .form_table import add_form
from .loaded import Loaded, Part, Pretraining
from .weights import check_numbers, find_weights, read_state_dict, write_model, write_safetensors

__all__ = ["GENERATOR", "OPTIMIZER", "config_in", "load", "load_pretraining", "save", "save_pretraining"]

# Beside the model of a checkpoint of pretraining.
GENERATOR = "generator"
OPTIMIZER = "optimizer.safetensors"
_STEP = "step"


def load(folder: str | Path) -> Loaded:
    """Read config, state dict and architecture; nothing is left out. Raises UserError naming the file."""
    folder = Path(folder)
    path = folder / "config.json"
    config = config_in(path)
    names = {head.class_name: architecture for architecture, head in HEADS.items()}
    name = (config.architectures or ["FunnelformerModel"])[0]
    if name not in names:
        raise UserError(f"{path}: architectures is {name!r}; allowed: {', '.join(names)}")
    weights = find_weights(folder)
    state = read_state_dict(weights, mapped=True)
    check_numbers(state, weights)
    return Loaded(
        config,
        state,
        names[name],
        {},
        "funnelformer",
        folder,
        {key: key for key in state},
        load_pretraining(folder),
    )


def config_in(path: Path) -> FunnelformerConfig:
    """The config in a file. Raises UserError naming the file and the key."""
    return make_config(own_options(read_json(path), str(path)), str(path))


def save(
    config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str, folder: str | Path
) -> None:
    """Write `config.json` and `model.safetensors`, as `save_pretrained` would, without building the model."""
    config = copy.deepcopy(config)
    config.architectures = [HEADS[architecture].class_name]
    write_model(config, state, folder)


def save_pretraining(pretraining: Pretraining, folder: str | Path) -> None:
    """Write, beside the model in `folder`, the generator's folder and the optimizer's state.

    `optimizer.safetensors` has `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` for every parameter, by the names of
    `FunnelformerForElectra`, and `step`, the number of updates done.
    """
    folder, generator = Path(folder), pretraining.generator
    if generator is not None:
        save(generator.config, generator.state_dict, generator.architecture, folder / GENERATOR)
    state = {
        f"{name}.{kind}": tensor
        for name, moments in pretraining.moments.items()
        for kind, tensor in moments.items()
    }
    write_safetensors({**state, _STEP: torch.tensor(pretraining.step)}, folder / OPTIMIZER)


def load_pretraining(folder: str | Path) -> Pretraining | None:
    """Read what `save_pretraining` wrote; None where there is nothing. Raises UserError naming file and tensor."""
    folder = Path(folder)
    if not (folder / OPTIMIZER).is_file():
        return None
    part = None
    if (folder / GENERATOR).is_dir():
        generator = load(folder / GENERATOR)
        part = Part(generator.config, generator.state_dict, generator.architecture)
    state = read_state_dict(folder / OPTIMIZER)
    step = state.pop(_STEP, None)
    if step is None or step.is_floating_point() or step.numel() != 1:
        raise UserError(f"{folder / OPTIMIZER}: tensor {_STEP!r}, one whole number, is missing")
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        parameter, _, kind = name.rpartition(".")
        moments.setdefault(parameter, {})[kind] = tensor
    for parameter, found in moments.items():
        if found.keys() != {"exp_avg", "exp_avg_sq"}:
            raise UserError(
                f"{folder / OPTIMIZER}: parameter {parameter!r} has only {', '.join(sorted(found))}"
            )
    return Pretraining(part, moments, int(step))


add_form("funnelformer", sys.modules[__name__], model_type="funnelformer", to="funnelformer")
