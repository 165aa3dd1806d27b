"""The manifest of prepared data: its file name, its counts and histograms, and the hash of the tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..base.files import atomic_writer
from ..base.strict_json import dump_json, json_text
from .build import SPLITS

__all__ = [
    "MANIFEST",
    "add_histograms",
    "hash_tokenizer",
    "is_count",
    "is_histogram",
    "is_part_name",
    "is_shard",
    "is_split",
    "length_histogram",
    "write_json_file",
]

MANIFEST = "manifest.json"
_PART_NAME = r"\d{5,}-\d{5,}"


def hash_tokenizer(tokenizer: Any) -> str:
    """SHA-256, in hex, of everything that decides a fast tokenizer's ids: pipeline, vocabulary and special tokens.

    It leaves out the template around a text, truncation and padding, because preparing data uses none of them.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for key in ("truncation", "padding", "post_processor"):
        state.pop(key, None)
    state["special"] = {
        role: getattr(tokenizer, role) for role in ("cls_token", "sep_token", "pad_token", "mask_token")
    }
    text = json_text(state, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def length_histogram(lengths: Iterable[int]) -> dict[str, int]:
    """Count documents by length in tokens. A key is the largest power of two that is not above the length."""
    counts: dict[int, int] = {}
    for length in lengths:
        bucket = 1 << (int(length).bit_length() - 1)
        counts[bucket] = counts.get(bucket, 0) + 1
    return {str(bucket): counts[bucket] for bucket in sorted(counts)}


def is_histogram(value: Any) -> bool:
    """Whether a value has the form of what `length_histogram` returns."""
    return isinstance(value, dict) and all(
        key in _LENGTHS and is_count(number) for key, number in value.items()
    )


_LENGTHS = frozenset(str(1 << power) for power in range(64))


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 to below 2^63."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_split(split: str, entry: Any) -> bool:
    """Whether a value has the counts of a split: rows, row_tokens, documents, tokens and document_lengths."""
    return (
        split in SPLITS
        and isinstance(entry, dict)
        and all(is_count(entry.get(name)) for name in ("rows", "row_tokens", "documents", "tokens"))
        and is_histogram(entry.get("document_lengths"))
    )


def is_part_name(value: Any) -> bool:
    """Whether a value has the form of what `parts.part_name` returns: no such name leads out of its folder."""
    return isinstance(value, str) and re.fullmatch(_PART_NAME, value, re.ASCII) is not None


def is_shard(split: str, entry: Any) -> bool:
    """Whether a value describes an Arrow file of a split: file, in the folder itself, rows, bytes and sha256."""
    return (
        isinstance(entry, dict)
        and isinstance(name := entry.get("file"), str)
        and re.fullmatch(rf"{re.escape(split)}-{_PART_NAME}\.arrow", name, re.ASCII) is not None
        and is_count(entry.get("rows"))
        and is_count(entry.get("bytes"))
        and isinstance(entry.get("sha256"), str)
    )


def add_histograms(histograms: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several `length_histogram`s."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            total[int(bucket)] = total.get(int(bucket), 0) + count
    return {str(bucket): total[bucket] for bucket in sorted(total)}


def write_json_file(path: Path, value: Any) -> None:
    """Write a JSON file, which appears whole. The same value gives the same bytes."""
    with atomic_writer(path) as file:
        dump_json(value, file, sort_keys=True, ensure_ascii=False)
        file.write("\n")
