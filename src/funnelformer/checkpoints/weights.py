"""State dicts from the files models are kept in: torch's, safetensors, and either one in shards."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig

from ..base.errors import UserError, one_line, short
from ..base.files import check_readable
from ..base.json_toml import read_json
from ..base.strict_json import json_text
from ..base.weight_files import TRANSFORMERS_WEIGHTS
from .torch_file import read_torch_file, tensor_bytes

__all__ = [
    "check_finite",
    "check_numbers",
    "check_weights",
    "find_weights",
    "read_state_dict",
    "write_model",
    "write_safetensors",
]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


# What a weight may be: a number that says its value by itself. Integers, and floats of 8 bits, have scales beside them.
_WEIGHTS = ("float64", "float32", "float16", "bfloat16")
_HEADER_CODES = {
    **{code: _name(dtype) for dtype, code in _CODES.items()},
    "F8_E4M3": "float8",
    "F8_E5M2": "float8",
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


def check_numbers(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError naming the file and the first tensor whose numbers are not the weights themselves."""
    for name, tensor in state.items():
        _check_dtype(path, name, _name(tensor.dtype))


def check_weights(folder: str | Path) -> None:
    """Check the files of one of our models without reading the numbers; does nothing in a folder without weights.

    Raises UserError naming the file: for a shard that is missing or holds other tensors than the index says, and for
    weights that are integers, or of 8 bits, which mean nothing without their scales.
    """
    path = next(
        (Path(folder) / name for name in TRANSFORMERS_WEIGHTS if (Path(folder) / name).is_file()), None
    )
    if path is None:
        return
    if path.name.endswith(".index.json"):
        for shard, names in _shards(path).items():
            dtypes = _dtypes(shard)
            _check_shard(path, shard, names, dtypes)
            _check_dtypes(shard, dtypes)
    else:
        _check_dtypes(path, _dtypes(path))


def check_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError naming the file and the first tensor that holds NaN or infinity."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        numbers = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # which PyTorch does not add up
        # a sum is quick and takes no memory; one that overflows calls for a look at each number
        if not bool(numbers.sum().isfinite()) and not bool(numbers.isfinite().all()):
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
            allowed = ", ".join(map(_name, _CODES))
            raise UserError(f"{path}: tensor {name!r} is {_name(tensor.dtype)}; allowed: {allowed}")
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
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cut short or damaged ({one_line(error)})")


def _is_shard(name: str) -> bool:
    return name.isprintable() and len(name) < 256 and not name.endswith(".json")


def _shards(path: Path) -> dict[Path, set[str]]:
    """The shards that an index names, each with the tensors it is said to hold. Raises UserError naming the index."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path}: key 'weight_map' is missing or empty")
    shards: dict[Path, set[str]] = {}
    for name, shard in weight_map.items():
        # an index names files of weights beside itself; anything else would reach outside the model's folder, or
        # lead in a circle
        if not isinstance(shard, str) or Path(shard).name != shard or not _is_shard(shard):
            raise UserError(f"{path}: shard {short(shard)} is not a plain file name of weights")
        shards.setdefault(path.parent / shard, set()).add(name)
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{path}: names the shard {shard.name}, and there is no such file")
    return dict(sorted(shards.items()))


def _check_shard(path: Path, shard: Path, names: set[str], found: Iterable[str]) -> None:
    """Raise UserError when a shard holds other tensors than the index in `path` says."""
    found = set(found)
    if missing := sorted(names - found):
        raise UserError(f"{path}: tensor {missing[0]!r} is in the index but not in its shard {shard.name}")
    if more := sorted(found - names):
        raise UserError(f"{shard}: holds tensor {more[0]!r}, which {path.name} does not list for this shard")


def _read_shards(path: Path, mapped: bool) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for shard, names in _shards(path).items():
        part = read_state_dict(shard, mapped)
        _check_shard(path, shard, names, part)
        state.update(part)
    return state


def _dtypes(path: Path) -> dict[str, str]:
    """The type of each tensor of a file, from its header where it has one."""
    if path.suffix != ".safetensors":
        return {name: _name(tensor.dtype) for name, tensor in read_state_dict(path, mapped=True).items()}
    check_readable(path)
    try:
        with safe_open(path, "pt") as file:
            codes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return {name: _HEADER_CODES.get(code, code) for name, code in codes.items()}


def _check_dtypes(path: Path, dtypes: Mapping[str, str]) -> None:
    for name, dtype in dtypes.items():
        _check_dtype(path, name, dtype)


def _check_dtype(path: str | Path, name: str, dtype: str) -> None:
    if dtype not in _WEIGHTS:
        raise UserError(
            f"{path}: tensor {name!r} is {dtype}, so it is not a weight without the scales it was quantised with; "
            f"allowed: {', '.join(_WEIGHTS)}"
        )
