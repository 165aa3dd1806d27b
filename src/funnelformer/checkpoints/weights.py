"""State dicts from the files models are kept in: torch's, safetensors, and either one in shards."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig

from ..base.errors import UserError, short
from ..base.files import check_readable
from ..base.json_toml import read_json
from ..base.strict_json import json_text
from ..base.weight_files import TRANSFORMERS_WEIGHTS
from .torch_file import read_torch_file, tensor_bytes

__all__ = [
    "check_finite",
    "find_weights",
    "read_state_dict",
    "write_model",
    "write_safetensors",
]

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def find_weights(folder: Path, names: tuple[str, ...] = TRANSFORMERS_WEIGHTS) -> Path:
    """Return the first of `names` present in `folder`. Raises UserError listing what was looked for."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weights; looked for {', '.join(names)}")


def read_state_dict(path: str | Path, mapped: bool = False) -> dict[str, Tensor]:
    """Read the model's tensors from a torch file, a .safetensors file, or a shard index (.index.json).

    Of the original's fine-tuned form, a list of state dict and optimizer, the state dict.
    mapped: as for `read_torch_file`; a .safetensors file always is.
    Raises UserError naming the file, and the tensor when one is no tensor or holds NaN or infinity.
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path, mapped)
    if path.suffix == ".safetensors":
        state: Any = _read_safetensors(path)
    else:
        state = read_torch_file(path, mapped)
        if isinstance(state, list | tuple) and state and isinstance(state[0], Mapping):
            state = state[0]
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path}: holds {_kind(state)}, not a state dict of named tensors")
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: a tensor's name is {_kind(name)}, not text")
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: entry {name!r} is {_kind(tensor)}, not a tensor")
    check_finite(state, path)
    return {name: tensor.detach() for name, tensor in state.items()}


def check_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError naming the file and the first tensor that holds NaN or infinity."""
    for name, tensor in state.items():
        # a sum is quick and takes no memory; one that overflows calls for a look at each number
        if (
            tensor.is_floating_point()
            and not bool(tensor.sum().isfinite())
            and not bool(tensor.isfinite().all())
        ):
            raise UserError(f"{path}: tensor {name!r} holds NaN or infinity")


def write_model(config: PreTrainedConfig, state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors`, as `save_pretrained` would, without building the model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    write_safetensors(state, folder / "model.safetensors")


def write_safetensors(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a .safetensors file, making the tensors contiguous one at a time.

    Raises UserError naming the file and a tensor of a dtype that is not written.

    The library's own writer wants all of them contiguous at once, which is a second copy of a model whose kernels
    are stored the other way around. The bytes are the same.
    """
    for name, tensor in state.items():
        if tensor.dtype not in _CODES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _CODES)
            raise UserError(
                f"{path}: tensor {name!r} is {str(tensor.dtype).removeprefix('torch.')}; allowed: {allowed}"
            )
    order = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = state[name]
        start, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json_text(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensor_bytes(state[name]))


def _kind(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple) and not value:
        return f"an empty {type(value).__name__}"
    return f"a {type(value).__name__}"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    check_readable(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cut short or damaged ({str(error).splitlines()[0]})") from error


def _is_shard(name: str) -> bool:
    return name.isprintable() and len(name) < 256 and not name.endswith(".json")


def _read_shards(path: Path, mapped: bool) -> dict[str, Tensor]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path}: key 'weight_map' is missing or empty")
    for shard in weight_map.values():
        # an index names files of weights beside itself; anything else would reach outside the model's folder, or
        # lead in a circle
        if not isinstance(shard, str) or Path(shard).name != shard or not _is_shard(shard):
            raise UserError(f"{path}: shard {short(shard)} is not a plain file name of weights")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        state.update(read_state_dict(path.parent / shard, mapped))
    missing = sorted(weight_map.keys() - state.keys())
    if missing:
        raise UserError(f"{path}: tensor {missing[0]!r} is in the index but in no shard")
    return state
