"""Read a file written by `torch.save` without running anything that is in it.

`torch.load(weights_only=True)` reads the released checkpoints. It refuses the original's fine-tuned form, a
list of a state dict and a whole optimizer object; `_parse` reads that one. Unpickling then makes plain data
and records of this module only: every name in the file is looked up in a table here, none is ever imported,
and tensors are built afterwards, for the containers that hold them.
"""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["Placeholder", "read_torch_file"]

# What `torch.save` wrote up to torch 1.5 (`torch.serialization.MAGIC_NUMBER`, PROTOCOL_VERSION).
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# The optimizers of the original's fine-tuning: torch's AdamW, or apex's FusedAdam (with amp_C's kernel).
_OPTIMIZER_MODULES = ("torch.optim", "apex", "amp_C")
_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


class Placeholder:
    """Stands for an object of the file's optimizer; whatever the file gives it is dropped."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_torch_file(path: str | Path) -> Any:
    """Read a `.pt`, `.bin` or `.ckpt.pt` file, in the zip or the older form, onto the CPU.

    Optimizer objects come back as `Placeholder`. Raises UserError, one line, for a file that is missing, is
    no checkpoint, is cut short, or names anything that is neither a tensor nor an optimizer.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            # it warns of pickle protocols it may not know, which then is an error below
            return torch.load(path, weights_only=True, map_location="cpu")
    except _BROKEN:
        # torch's own message is many lines and recommends weights_only=False; ours finds the cause itself
        pass
    try:
        with path.open("rb") as file:
            return _parse(file, path)
    except UserError:
        raise
    except _BROKEN as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cut short or damaged ({detail})") from error


def _parse(file: BinaryIO, path: Path) -> Any:
    head = file.read(4)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _parse_zip(file, path)
    if head[:1] != pickle.PROTO:
        raise UserError(f"{path}: not a PyTorch checkpoint (neither a zip archive nor torch's older form)")
    return _parse_legacy(file, path)


def _parse_zip(file: BinaryIO, path: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        pickled = next((name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")), None)
        folder = pickled.removesuffix("data.pkl") if pickled else ""
        if pickled is None or f"{folder}constants.pkl" in names:
            raise UserError(f"{path}: a zip archive, but not one of torch.save (no data.pkl, or TorchScript)")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise UserError(f"{path}: written on a big-endian machine, which is not supported")
        tree = _Unpickler(io.BytesIO(archive.read(pickled)), path).load()
        stored: dict[str, bytes] = {}

        def read(key: str) -> bytes:
            if key not in stored:
                stored[key] = archive.read(f"{folder}data/{key}")
            return stored[key]

        return _build(tree, read, path)


def _parse_legacy(file: BinaryIO, path: Path) -> Any:
    def load() -> Any:
        return _Unpickler(file, path).load()

    if load() != _LEGACY_MAGIC or load() != _LEGACY_PROTOCOL:
        raise UserError(f"{path}: not a PyTorch checkpoint (wrong magic number or protocol)")
    system = load()
    if not system.get("little_endian", True):
        raise UserError(f"{path}: written on a big-endian machine, which is not supported")
    unpickler = _Unpickler(file, path)
    tree = unpickler.load()
    stored: dict[str, bytes] = {}
    for key in load():
        (count,) = struct.unpack("<q", file.read(8))
        size = count * unpickler.storage_dtypes[key].itemsize
        data = file.read(size) if 0 <= size <= path.stat().st_size else b""
        if len(data) != size:
            raise UserError(f"{path}: cut short (storage {key} has {len(data)} of {size} bytes)")
        stored[key] = data
    return _build(tree, stored.__getitem__, path)


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: torch.dtype
    offset: int


@dataclass(frozen=True, slots=True)
class _TensorRecord:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Named:
    """What the file gets for an allowed name: callable, and closed to attempts to set attributes."""

    __slots__ = ("_call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self._call = name, call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"state for {self.name}")


class _Dict(dict[Any, Any]):
    """An OrderedDict or defaultdict of the file; state dicts carry a `_metadata` attribute, dropped here."""

    def __setstate__(self, state: Any) -> None: ...


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> _TensorRecord:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _TensorRecord(storage, offset, tuple(shape), tuple(stride))


_ALLOWED: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": tuple,
    "collections.OrderedDict": lambda *pairs: _Dict(*pairs),
    "collections.defaultdict": lambda *_: _Dict(),
    # defaultdict's factory, named and not called
    "builtins.dict": _Dict,
    "builtins.list": list,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.storage_dtypes: dict[str, torch.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Look the name up here; nothing is imported. Raises UserError for every other name."""
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if module in ("torch", "torch.cuda") and name in _STORAGES:
            return _Named(full, _not_callable(full))
        if full in _ALLOWED:
            return _Named(full, _ALLOWED[full])
        if any(module == prefix or module.startswith(f"{prefix}.") for prefix in _OPTIMIZER_MODULES):
            # a class of its own, for NEWOBJ takes nothing else
            return type("Placeholder", (Placeholder,), {"name": full})
        raise UserError(f"{self.path}: holds code ({full}): refused, nothing of it was run")

    def persistent_load(self, saved_id: Any) -> _Storage:
        kind, storage_type, key, _location, _count, *view = saved_id
        if kind != "storage" or not isinstance(storage_type, _Named):
            raise UserError(f"{self.path}: holds a pickled {kind}: refused, a state dict is needed")
        dtype = _STORAGES[storage_type.name.rsplit(".", 1)[-1]]
        self.storage_dtypes[key] = dtype
        # (key, offset, size) of a view in the oldest files
        offset = view[0][1] if view and view[0] is not None else 0
        return _Storage(key, dtype, offset)


def _not_callable(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise pickle.UnpicklingError(f"{name} called")

    return refuse


def _build(tree: Any, read: Callable[[str], bytes], path: Path) -> Any:
    """Turn tensor records into tensors, in dicts, lists and tuples; the optimizer's stay placeholders."""
    if isinstance(tree, _TensorRecord):
        return _build_tensor(tree, read(tree.storage.key), path)
    if isinstance(tree, dict):
        return {key: _build(value, read, path) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_build(value, read, path) for value in tree)
    return tree


def _build_tensor(record: _TensorRecord, data: bytes, path: Path) -> Tensor:
    shape, stride, offset = record.shape, record.stride, record.offset + record.storage.offset
    storage = torch.frombuffer(bytearray(data), dtype=record.storage.dtype) if data else torch.empty(0)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    numel = prod(shape)
    if numel == 0:
        return torch.empty(shape, dtype=record.storage.dtype)
    if min((*shape, *stride, offset), default=0) < 0 or last >= len(storage) or numel > len(storage):
        raise UserError(f"{path}: damaged (a tensor of shape {list(shape)} lies outside its storage)")
    return storage.as_strided(shape, stride, offset).clone()
