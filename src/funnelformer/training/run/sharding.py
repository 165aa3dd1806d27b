"""Parameters, gradients and the optimizer's state in shards over the processes of a run (FSDP2), and on disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ...base.processes import num_processes, rank
from ...modeling.encoder import Layer

__all__ = [
    "SHARDS_FOLDER",
    "load_model",
    "load_optimizer",
    "save_shards",
    "shard",
    "whole_state",
    "whole_tensor",
]

SHARDS_FOLDER = "shards"  # of a checkpoint


def shard(model: nn.Module) -> None:
    """Split each layer, and at the root all the rest, over the processes; nothing in a run of one.

    A layer's parameters are whole only while it computes. The root holds the embeddings, the tied weights and the
    heads, which are whole from the beginning of the forward pass to the end of the backward pass. All is gathered and
    reduced in float32, as DDP does it: bfloat16 is autocast's alone. Every process must hold the same weights.
    """
    if num_processes() == 1:
        return
    # ELECTRA's logits are a view; nothing changes them in place, which is what torch warns of.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(PartialState().device.type, (num_processes(),))
    for module in model.modules():
        if isinstance(module, Layer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole_state(model: nn.Module) -> dict[str, Tensor] | None:
    """The whole weights on the CPU, on process 0, with tied ones tied; None for a model without shards.

    Every process calls it. One tensor at a time is whole on the others.
    """
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    if not any(isinstance(value, DTensor) for value in state.values()):
        return None
    whole: dict[int, Tensor] = {}
    for value in _distinct(state).values():
        tensor = whole_tensor(value)
        if rank() == 0:
            whole[id(value)] = tensor.cpu()
    return {name: whole[id(value)] for name, value in state.items()} if whole else {}


def whole_tensor(value: Tensor) -> Tensor:
    """The values of a parameter, of which this process may hold a share; every process calls it."""
    tensor = value.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_shards(model: nn.Module, optimizer: Optimizer, checkpoint: Path) -> None:
    """Write the weights and the optimizer's state, each process its own part."""
    state = {"model": _weights(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    with _as_one():
        dcp.save(state, checkpoint_id=checkpoint / SHARDS_FOLDER)


def load_model(model: nn.Module, checkpoint: Path) -> None:
    """Read the weights, each process its own part, whatever number of processes wrote them."""
    with _as_one():
        dcp.load({"model": _weights(model)}, checkpoint_id=checkpoint / SHARDS_FOLDER)


def load_optimizer(model: nn.Module, optimizer: Optimizer, checkpoint: Path) -> None:
    """Read the optimizer's state as `load_model` reads the weights."""
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    with _as_one():
        dcp.load(state, checkpoint_id=checkpoint / SHARDS_FOLDER)
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Views of the parameters, tied ones once."""
    return {name: value.detach() for name, value in _distinct(model.state_dict(keep_vars=True)).items()}


def _distinct(state: dict[str, Any]) -> dict[str, Any]:
    names: dict[int, str] = {}
    for name, value in state.items():
        names.setdefault(id(value), name)
    return {name: state[name] for name in names.values()}


@contextmanager
def _as_one() -> Iterator[None]:
    """What goes wrong on one process, a full disk too, is raised as itself on all of them."""
    with warnings.catch_warnings():
        # A run of one process is meant to be one.
        warnings.filterwarnings("ignore", "torch.distributed is (disabled, )?unavailable")
        # Of torch's own call of its older storage class.
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")
        try:
            yield
        except CheckpointException as error:  # which is no Exception
            reason, _ = next(iter(error.failures.values()))
            raise reason from error
