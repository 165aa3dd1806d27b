"""Decompress request bodies, within the limits of plain ones."""

from __future__ import annotations

import zlib
from typing import Any

import zstandard

from .refused import Refused

__all__ = ["check_coding", "decompress"]

CODINGS = ("gzip", "deflate", "zstd")
_PLAIN = ("", "identity")
_GZIP_WBITS, _RAW_WBITS = 31, -15
# Four bytes of zstd can expand to 128 KiB, so only a few bytes are read before the size is checked again.
_PIECE_BYTES = 64
_MAX_WINDOW_BYTES = 1 << 23  # the window that every zstd decoder should support (RFC 8878)


def check_coding(coding: str) -> None:
    """Raise Refused (415) for an unknown Content-Encoding, or for several of them."""
    if coding not in (*CODINGS, *_PLAIN, "x-gzip"):
        allowed = ", ".join(CODINGS)
        raise Refused(
            415,
            f"content-encoding: {coding[:40]!r} is not known; allowed: {allowed}",
            {"Accept-Encoding": allowed},
        )


def decompress(body: bytes, coding: str, most_bytes: int) -> bytes | None:
    """The plain body; None if it has more than `most_bytes`, of which hardly more are ever decompressed.

    Raises Refused (400) for a body that is damaged, ends early, or has data after its end.
    """
    if coding in _PLAIN:
        return body if len(body) <= most_bytes else None
    try:
        plain, is_whole = (_zstd if coding == "zstd" else _zlib)(body, coding, most_bytes)
    except (zlib.error, zstandard.ZstdError):
        raise Refused(400, f"the body is not valid {coding}") from None
    if len(plain) > most_bytes:
        return None
    if not is_whole:
        raise Refused(400, f"the body is not valid {coding} (it ends early, or has data after its end)")
    return plain


def _zlib(body: bytes, coding: str, most_bytes: int) -> tuple[bytes, bool]:
    has_header = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
    # Some send deflate without zlib's header.
    deflate = zlib.MAX_WBITS if has_header else _RAW_WBITS
    wbits = deflate if coding == "deflate" else _GZIP_WBITS
    plain = b""
    while True:  # gzip may have several members
        reader = zlib.decompressobj(wbits)
        plain += reader.decompress(body, most_bytes + 1 - len(plain))
        body = reader.unused_data
        if len(plain) > most_bytes or not reader.eof or not body or coding == "deflate":
            return plain, reader.eof and not body


def _zstd(body: bytes, coding: str, most_bytes: int) -> tuple[bytes, bool]:
    plain = bytearray()
    reader: Any = None
    rest = body
    while rest:
        if reader is None:
            reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        plain += reader.decompress(rest[:_PIECE_BYTES])
        rest = rest[_PIECE_BYTES:]
        if len(plain) > most_bytes:
            break
        if reader.eof:  # frames may follow one another
            rest = reader.unused_data + rest
            reader = None
    return bytes(plain), reader is None and bool(body)
