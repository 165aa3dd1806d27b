"""Read a file written by `torch.save` without running anything that is in it.

`torch.load(weights_only=True)` reads the zip form. It refuses the original's fine-tuned form, a list of a state dict
and a whole optimizer object, and of the older form it believes every size that a file claims; `_parse` reads those.
Unpickling then makes plain data and records of this module only: every name in the file is looked up in a table
here, none is ever imported, and tensors are built afterwards, for the containers that hold them.
"""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..base.errors import UserError

__all__ = ["Placeholder", "read_torch_file", "tensor_bytes", "write_torch_file"]

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
_STORAGE_TYPES = {dtype: getattr(torch, name) for name, dtype in _STORAGES.items()}
_ZIP_FOLDER = "archive"
# Of a record with 64-bit sizes, and of the field that aligns it.
_ZIP_HEAD_BYTES = 30 + 20 + 4
_ALIGNMENT_BYTES = 64
_MAX_OBJECTS = 1_000_000
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


def read_torch_file(path: str | Path, mapped: bool = False) -> Any:
    """Read a `.pt`, `.bin` or `.ckpt.pt` file, in the zip or the older form, onto the CPU.

    mapped: leave the tensors of the zip form in the file, which then must not be written to while they are in use.
    Optimizer objects come back as `Placeholder`. Raises UserError, one line, for a file that is missing, is
    no checkpoint, is cut short, or names anything that is neither a tensor nor an optimizer.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        if zipfile.is_zipfile(path):
            if mapped:
                _check_sums(path)
            try:
                with warnings.catch_warnings(action="ignore", category=UserWarning):
                    # it warns of pickle protocols it may not know, which then is an error below
                    return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
            except Exception:  # whatever the bytes of a damaged file lead torch to
                # torch's own message is many lines and recommends weights_only=False; ours finds the cause itself
                pass
        with path.open("rb") as file:
            return _parse(file, path)
    except UserError:
        raise
    except _BROKEN as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cut short or damaged ({detail})") from error


def _check_sums(path: Path) -> None:
    """Read every record once: torch verifies checksums of what it copies, and none of what it maps."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{path}: damaged (the checksum of {damaged!a} is wrong)")


def write_torch_file(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a state dict as `torch.save` would, in the zip form, making the tensors contiguous one at a time.

    `torch.save` wants all of them contiguous at once, a second copy of the model where kernels are turned.
    """
    path = Path(path)
    pickled = io.BytesIO()
    pickler = _Pickler(pickled, protocol=2)
    pickler.dump(
        OrderedDict((name, _Record(str(i), tensor)) for i, (name, tensor) in enumerate(state.items()))
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes | memoryview) -> None:
            entry = zipfile.ZipInfo(f"{_ZIP_FOLDER}/{name}")
            # torch aligns every record by a field without meaning
            head = archive.fp.tell() + _ZIP_HEAD_BYTES + len(entry.filename)  # type: ignore[union-attr]
            entry.extra = struct.pack("<2sH", b"FB", -head % _ALIGNMENT_BYTES) + b"Z" * (
                -head % _ALIGNMENT_BYTES
            )
            with archive.open(entry, "w", force_zip64=True) as record:
                record.write(data)

        add("data.pkl", pickled.getvalue())
        add("byteorder", b"little")
        for i, tensor in enumerate(state.values()):
            add(f"data/{i}", tensor_bytes(tensor))
        add("version", b"3\n")


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The numbers of a tensor in order; those of a contiguous one are not copied."""
    array: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


@dataclass(frozen=True)
class _Record:
    """Stands for a tensor in the pickle."""

    key: str
    tensor: Tensor


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _Record):
            return NotImplemented
        tensor = value.tensor
        stride = torch.empty(tensor.shape, device="meta").stride()
        arguments: tuple[Any, ...] = (_StorageOf(value), 0, tuple(tensor.shape), stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _StorageOf):
            return None
        tensor = value.record.tensor
        return "storage", _STORAGE_TYPES[tensor.dtype], value.record.key, "cpu", tensor.numel()


@dataclass(frozen=True)
class _StorageOf:
    record: _Record


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
        stored: dict[str, bytearray] = {}

        def read(key: str) -> bytearray:
            if key not in stored:
                stored[key] = bytearray(archive.read(f"{folder}data/{key}"))
            return stored[key]

        return _Builder(read, path).build(tree)


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
    stored: dict[str, bytearray] = {}
    for key in load():
        (count,) = struct.unpack("<q", file.read(8))
        size = count * unpickler.storage_dtypes[key].itemsize
        data = bytearray(size if 0 <= size <= path.stat().st_size else 0)
        if file.readinto(data) != size:  # type: ignore[attr-defined]
            raise UserError(f"{path}: cut short (storage {key} is not {size:,} bytes)")
        stored[key] = data
    return _Builder(stored.__getitem__, path).build(tree)


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


# The one in Python: the one in C takes memory for every object that a damaged file says it numbered.
class _Unpickler(pickle._Unpickler):
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
        shown = full if full.isprintable() else repr(full)
        raise UserError(f"{self.path}: holds code ({shown}): refused, nothing of it was run")

    def persistent_load(self, saved_id: Any) -> _Storage:
        kind, storage_type, key, _location, _count, *view = saved_id
        if kind != "storage" or not isinstance(storage_type, _Named):
            raise UserError(f"{self.path}: holds a pickled {kind!r}: refused, a state dict is needed")
        dtype = _STORAGES[storage_type.name.rsplit(".", 1)[-1]]
        self.storage_dtypes[key] = dtype
        # (key, offset, size) of a view in the oldest files
        offset = view[0][1] if view and view[0] is not None else 0
        return _Storage(key, dtype, offset)


def _not_callable(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise pickle.UnpicklingError(f"{name} called")

    return refuse


class _Builder:
    """Turns tensor records into tensors, in dicts, lists and tuples; the optimizer's stay placeholders."""

    def __init__(self, read: Callable[[str], bytearray], path: Path) -> None:
        self.read, self.path, self.num_built = read, path, 0

    def build(self, node: Any) -> Any:
        self.num_built += 1
        if self.num_built > _MAX_OBJECTS:  # lists of one list many times over, and so on
            raise UserError(f"{self.path}: holds more objects than a checkpoint has")
        if isinstance(node, _TensorRecord):
            return _build_tensor(node, self.read(node.storage.key), self.path)
        if isinstance(node, dict):
            return {key: self.build(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(self.build(value) for value in node)
        return node


def _build_tensor(record: _TensorRecord, data: bytearray, path: Path) -> Tensor:
    shape, stride, offset = record.shape, record.stride, record.offset + record.storage.offset
    storage = torch.frombuffer(data, dtype=record.storage.dtype) if data else torch.empty(0)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    numel = prod(shape)
    if numel == 0:
        return torch.empty(shape, dtype=record.storage.dtype)
    if min((*shape, *stride, offset), default=0) < 0 or last >= len(storage) or numel > len(storage):
        raise UserError(f"{path}: damaged (a tensor of shape {list(shape)} lies outside its storage)")
    return storage.as_strided(shape, stride, offset)
