"""Rows of tokens as one array: the shorter ones are padded, as transformers' tokenizers do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["pad_batch"]


def pad_batch(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, side: str | None = None
) -> dict[str, np.ndarray]:
    """The inputs of `rows`, each a list of T numbers or C lists of them, as int64 [B, T] or [B, C, T].

    input_ids are filled with the padding token, all else with 0 (of segments the tokenizer's own number).
    side: "left" or "right", by default the tokenizer's.
    """
    side = side or tokenizer.padding_side
    fill = {
        "input_ids": tokenizer.pad_token_id,
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
    }
    batch = {}
    for name in rows[0]:
        nested = bool(rows[0][name]) and isinstance(rows[0][name][0], list)
        sequences = [part for row in rows for part in row[name]] if nested else [row[name] for row in rows]
        longest = max(len(sequence) for sequence in sequences)
        array = np.full((len(sequences), longest), fill.get(name, 0), dtype=np.int64)
        for line, sequence in zip(array, sequences, strict=True):
            if sequence:
                line[slice(-len(sequence), None) if side == "left" else slice(len(sequence))] = sequence
        batch[name] = array.reshape(len(rows), -1, longest) if nested else array
    return batch
