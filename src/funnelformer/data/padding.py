"""Stack rows of tokens into one array, with the shorter ones padded as transformers' tokenizers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["pad_batch"]


def pad_batch(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, side: str | None = None
) -> dict[str, np.ndarray]:
    """Pad B rows of model inputs to the longest one, and return each input as an int64 array.

    rows: at least one, all with the inputs of the first: a list of ids gives [B, T]; C lists of ids, as for multiple
        choice, give [B, C, T]. C must be the same in all rows.
    side: where padding goes, "left" or "right"; by default the tokenizer's side.
    input_ids are padded with the padding token, token_type_ids with the tokenizer's padding segment (0 if it has none),
    and all other inputs with 0.
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
