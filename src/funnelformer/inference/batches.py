"""Batches of rows of similar length, so that little of them is padding."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..base.processes import gather_lists, num_processes, rank

__all__ = ["cut", "in_batches", "most_padding"]


# Tokens of padding in a batch, by device: about what a further batch costs. A CPU reads the weights once more, and
# an accelerator is idle while the kernels of a small batch are launched.
_MOST_PADDING = {"cpu": 32, "other": 2048}


def in_batches(
    forward: Callable[[dict[str, np.ndarray]], np.ndarray],
    columns: Mapping[str, Sequence[Any]],
    pad: Callable[[list[dict[str, Any]]], dict[str, np.ndarray]],
    batch_size: int,
    most_padding: int,
    advance: Callable[[int], None],
) -> list[np.ndarray]:
    """Return what `forward` gives for each row of `columns`, the inputs of a model, in their order.

    Rows are sorted by length first and a batch ends where the padding in it grows; with `padding="exact"` the result
    does not depend on it. In a model whose windows are changed by padding, rows of one length share a batch.
    Of several processes each takes some of the batches, and has what all found in the end.
    pad: makes a batch of rows. batch_size: rows of a batch at most. most_padding: tokens of padding, see the function
    of that name. advance: told how many rows are done.
    """
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    found: list[tuple[int, np.ndarray]] = []
    parts = cut(lengths[order].tolist(), batch_size, most_padding)
    for part in parts[rank() :: num_processes()]:
        rows = order[part].tolist()
        batch = pad([{name: values[row] for name, values in columns.items()} for row in rows])
        if "attention_mask" in batch and batch["attention_mask"].all():
            del batch["attention_mask"]  # nothing to mask, so nothing to compute it with
        found += zip(rows, forward(batch), strict=True)
        advance(len(rows))
    return [values for _, values in sorted(gather_lists(found), key=lambda entry: entry[0])]


def most_padding(model: Any) -> int:
    """See `Predictor.most_padding`."""
    if model.config.padding != "exact":
        return 0
    return _MOST_PADDING.get(model.device.type, _MOST_PADDING["other"])


def cut(
    lengths: Sequence[int], batch_size: int, most_padding: int, most_tokens: int = sys.maxsize
) -> list[slice]:
    """Cut falling lengths into batches of at most so many rows, tokens of padding, and tokens with the padding.

    A row longer than `most_tokens` is a batch of its own.
    """
    parts, start, padding = [], 0, 0
    for index, length in enumerate(lengths):
        size, added = index - start, lengths[start] - length
        full = size == batch_size or (size > 0 and lengths[start] * (size + 1) > most_tokens)
        if full or padding + added > most_padding:
            parts.append(slice(start, index))
            start, padding, added = index, 0, 0
        padding += added
    return [*parts, slice(start, len(lengths))] if lengths else []
