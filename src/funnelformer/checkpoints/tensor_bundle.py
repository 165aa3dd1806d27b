"""TensorFlow's checkpoint files (`model.ckpt.index`, `model.ckpt.data-00000-of-00001`), read and written without it.

An index is a sorted table of LevelDB's form: blocks of (key, value) with shared prefixes, a block of block
handles, a footer. The key "" holds a BundleHeaderProto, every other key is a variable's name and holds a
BundleEntryProto: type, shape, shard, offset, size, CRC-32C. The data files are the values' bytes, end to end.

Why not a package: TensorFlow reads these files and brings 270 MB of wheels for it; the one small reader on PyPI
(tensorflow-checkpoint-reader) has had no release since February 2023 and checks nothing it reads. The form is
small and frozen, and what is hard about it, fast CRC-32C, is Google's own google-crc32c: the extra
`funnelformer[tensorflow]`. tests/checkpoints/test_original_tf.py compares both directions with TensorFlow.

Source: tensorflow/core/util/tensor_bundle, tensorflow/core/protobuf/tensor_bundle.proto, and the table format of
LevelDB (doc/table_format.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError
from .torch_file import tensor_bytes

__all__ = ["find_index", "read_bundle", "write_bundle"]

_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # a block's compression and checksum
# DataType of tensorflow/core/framework/types.proto
_DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    9: torch.int64,
    14: torch.bfloat16,
    19: torch.float16,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LITTLE_ENDIAN = 0
_RESTART_INTERVAL = 16
_BLOCK_BYTES = 1 << 18
# Names and shapes alone: an index of the largest release has 0.2 MB.
_MAX_INDEX_BYTES = 1 << 26
_CHUNK_BYTES = 1 << 24
Checksum = Callable[[bytes | memoryview], int]


class _DamagedError(Exception):
    """Bytes that are not what the form says; becomes a UserError with the file's name."""


@dataclass(frozen=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def find_index(folder: Path) -> Path | None:
    """Return the index of a folder's checkpoint, or None. Raises UserError when it holds several."""
    found = sorted(folder.glob("model.ckpt*.index"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder}: holds several checkpoints ({names}); keep the one to read")
    return found[0] if found else None


def read_bundle(index: str | Path) -> dict[str, Tensor]:
    """Read every variable of a checkpoint, by name; the tensors are mapped from the file, not copied.

    Raises UserError, one line, for a file that is missing, cut short or damaged (checksums are verified), or of a
    form TensorFlow's savers of variables do not write; and when the extra is not installed.
    """
    index = Path(index)
    crc32c = _crc32c()
    if not index.is_file():
        raise UserError(f"{index}: no such file")
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise UserError(f"{index}: larger than {_MAX_INDEX_BYTES >> 20} MB: not the index of a checkpoint")
    try:
        table = dict(_read_table(index.read_bytes(), crc32c))
        num_shards = _header(table.pop(b"", None))
        entries = {_text(key): _entry(value) for key, value in table.items()}
    except _DamagedError as error:
        raise UserError(f"{index}: {error}") from None
    if not entries:
        raise UserError(f"{index}: holds no variables")
    shards: dict[int, tuple[Path, mmap.mmap]] = {}
    tensors = {}
    for name, entry in entries.items():
        if entry.shard not in shards:
            shards[entry.shard] = _map(index, entry.shard, num_shards)
        path, data = shards[entry.shard]
        if entry.offset + entry.size > len(data):
            raise UserError(
                f"{path}: cut short (variable {name!r} ends at byte {entry.offset + entry.size:,} of {len(data):,})"
            )
        if crc32c(memoryview(data)[entry.offset : entry.offset + entry.size]) != entry.checksum:
            raise UserError(f"{path}: damaged (the checksum of variable {name!r} is wrong)")
        tensors[name] = _tensor(data, entry)
    return tensors


def write_bundle(index: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write variables as one checkpoint: `index`, which must end in ".index", and its one data file.

    The tensors are made contiguous one at a time. Raises UserError for a type the form does not hold, and when
    the extra is not installed.
    """
    index = Path(index)
    crc32c = _crc32c()
    header = _field(1, 1) + _field(3, _field(1, 1))  # one shard, little-endian, version 1
    entries = [(b"", header)]
    offset = 0
    with _shard(index, 0, 1).open("wb") as file:
        for name in sorted(tensors, key=str.encode):
            tensor = tensors[name]
            if tensor.dtype not in _CODES:
                raise UserError(
                    f"{index}: variable {name!r} has type {tensor.dtype}, which the form cannot hold"
                )
            data = tensor_bytes(tensor)
            file.write(data)
            shape = b"".join(_field(2, _field(1, size)) for size in tensor.shape)
            entry = _field(1, _CODES[tensor.dtype]) + _field(2, shape) + _field(4, offset)
            entry += _field(5, len(data)) + _field(6, struct.pack("<I", crc32c(data)), _FIXED32)
            entries.append((name.encode(), entry))
            offset += len(data)
    index.write_bytes(_write_table(entries, crc32c))


def _crc32c() -> Checksum:
    """The checksum as LevelDB stores it: rotated, plus a constant. Raises UserError without the extra."""
    try:
        import google_crc32c
    except ImportError:
        raise UserError(
            "TensorFlow checkpoints need an extra package: pip install 'funnelformer[tensorflow]'"
        ) from None

    def checksum(data: bytes | memoryview) -> int:
        value = 0
        for start in range(0, len(data), _CHUNK_BYTES):
            # its C code takes no buffer that could be written to, as the map of a file can
            value = google_crc32c.extend(value, bytes(data[start : start + _CHUNK_BYTES]))
        return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    return checksum


def _shard(index: Path, shard: int, num_shards: int) -> Path:
    return index.with_name(f"{index.name.removesuffix('.index')}.data-{shard:05d}-of-{num_shards:05d}")


def _map(index: Path, shard: int, num_shards: int) -> tuple[Path, mmap.mmap]:
    path = _shard(index, shard, num_shards)
    if not path.is_file():
        raise UserError(f"{path}: no such file, which {index.name} names")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    with path.open("rb") as file:
        # a private copy on write: torch wants tensors it could write to
        return path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _tensor(data: mmap.mmap, entry: _Entry) -> Tensor:
    count = prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if entry.offset % entry.dtype.itemsize:
        raw = np.frombuffer(data, np.uint8, entry.size, entry.offset).copy()
        return torch.from_numpy(raw).view(entry.dtype).reshape(entry.shape)
    return torch.frombuffer(data, dtype=entry.dtype, count=count, offset=entry.offset).reshape(entry.shape)


# ---- the table of the index


def _read_table(data: bytes, crc32c: Checksum) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < _FOOTER_BYTES or not data.endswith(_MAGIC):
        raise _DamagedError("not the index of a TensorFlow checkpoint, or cut short (wrong magic number)")
    footer = data[-_FOOTER_BYTES:]
    place = 0
    for _ in range(2):  # the handle of the meta block, unused
        _, place = _varint(footer, place)
    handle, _ = _handle(footer, place)
    seen: set[tuple[int, int]] = set()
    for _, value in _block(data, handle, crc32c):
        handle, _ = _handle(value, 0)
        if handle in seen:
            raise _DamagedError("damaged (a block is listed twice)")
        seen.add(handle)
        yield from _block(data, handle, crc32c)


def _block(data: bytes, handle: tuple[int, int], crc32c: Checksum) -> Iterator[tuple[bytes, bytes]]:
    start, size = handle
    if start + size + _TRAILER_BYTES > len(data):
        raise _DamagedError("cut short")
    block, trailer = data[start : start + size], data[start + size : start + size + _TRAILER_BYTES]
    if crc32c(block + trailer[:1]) != struct.unpack("<I", trailer[1:])[0]:
        raise _DamagedError("damaged (the checksum of a block is wrong)")
    if trailer[0]:
        raise _DamagedError("is compressed, as no checkpoint is")
    num_restarts = struct.unpack("<I", block[-4:])[0] if size >= 4 else size
    end = size - 4 * (num_restarts + 1)
    if end < 0:
        raise _DamagedError("damaged (a block without room for its own list)")
    key, place = b"", 0
    while place < end:
        shared, place = _varint(block, place)
        added, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + added + length > end:
            raise _DamagedError("damaged (an entry outside its block)")
        key = key[:shared] + block[place : place + added]
        place += added
        yield key, block[place : place + length]
        place += length


def _write_table(entries: Iterable[tuple[bytes, bytes]], crc32c: Checksum) -> bytes:
    out = bytearray()

    def add_block(block: list[tuple[bytes, bytes]]) -> bytes:
        content, restarts, last = bytearray(), [], b""
        for i, (key, value) in enumerate(block):
            shared = 0
            if i % _RESTART_INTERVAL == 0:
                restarts.append(len(content))
            else:
                while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                    shared += 1
            content += _pack(shared) + _pack(len(key) - shared) + _pack(len(value)) + key[shared:] + value
            last = key
        restarts = restarts or [0]
        content += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
        handle = _pack(len(out)) + _pack(len(content))
        out.extend(content + b"\0" + struct.pack("<I", crc32c(bytes(content + b"\0"))))
        return handle

    index, block, size = [], [], 0
    for key, value in entries:
        block.append((key, value))
        size += len(key) + len(value)
        if size >= _BLOCK_BYTES:
            index.append((key, add_block(block)))
            block, size = [], 0
    if block:
        index.append((block[-1][0], add_block(block)))
    handles = add_block([]) + add_block(index)
    return bytes(out + handles.ljust(_FOOTER_BYTES - len(_MAGIC), b"\0") + _MAGIC)


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    start, place = _varint(data, place)
    size, place = _varint(data, place)
    return (start, size), place


# ---- protocol buffers: a message is a sequence of (field number, wire type, value)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise _DamagedError("damaged (a number without an end)")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _pack(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def _field(number: int, value: int | bytes, wire: int | None = None) -> bytes:
    if isinstance(value, int):
        return _pack(number << 3 | _VARINT) + _pack(value)
    if wire == _FIXED32:
        return _pack(number << 3 | _FIXED32) + value
    return _pack(number << 3 | _BYTES) + _pack(len(value)) + value


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value: Any
            value, place = _varint(message, place)
        elif wire in (_BYTES, _FIXED32, _FIXED64):
            length = {_FIXED32: 4, _FIXED64: 8}.get(wire)
            if length is None:
                length, place = _varint(message, place)
            if place + length > len(message):
                raise _DamagedError("damaged (a field outside its record)")
            value = message[place : place + length]
            place += length
        else:
            raise _DamagedError("damaged (a field of no known type)")
        yield number, value


def _header(message: bytes | None) -> int:
    """The number of data files. BundleHeaderProto: 1 num_shards, 2 endianness."""
    if message is None:
        raise _DamagedError("holds no header: not the index of a checkpoint")
    values = {1: 1, 2: _LITTLE_ENDIAN, **dict(_fields(message))}
    if values[2] != _LITTLE_ENDIAN:
        raise _DamagedError("written on a big-endian machine, which is not supported")
    return _whole(values[1], 99_999)


def _entry(message: bytes) -> _Entry:
    """BundleEntryProto: 1 dtype, 2 shape, 3 shard_id, 4 offset, 5 size, 6 crc32c, 7 slices."""
    values: dict[int, Any] = {1: 0, 2: b"", 3: 0, 4: 0, 5: 0, 6: b"\0\0\0\0", **dict(_fields(message))}
    if 7 in values:
        raise _DamagedError("holds a variable in slices, which is not supported")
    if values[1] not in _DTYPES:
        raise _DamagedError(f"holds a variable of TensorFlow's type {values[1]!r}, which is no number")
    dtype = _DTYPES[values[1]]
    shape = tuple(
        _whole(dict(_fields(_record(dim))).get(1, 0))
        for kind, dim in _fields(_record(values[2]))
        if kind == 2
    )
    entry = _Entry(dtype, shape, _whole(values[3]), _whole(values[4]), _whole(values[5]), _number(values[6]))
    if prod(shape) * dtype.itemsize != entry.size:
        raise _DamagedError(f"damaged (a variable of shape {list(shape)} with {entry.size:,} bytes)")
    return entry


def _record(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _DamagedError("damaged (a number in a record's place)")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, bytes) or len(value) != 4:
        raise _DamagedError("damaged (a checksum of another length)")
    return int(struct.unpack("<I", value)[0])


def _whole(value: Any, largest: int = 1 << 48) -> int:
    if not isinstance(value, int) or value > largest:
        raise _DamagedError("damaged (a size or place out of range)")
    return value


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise _DamagedError("damaged (a name that is no text)") from None
