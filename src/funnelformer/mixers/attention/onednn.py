"""Relative attention at inference on a CPU, its products by oneDNN: a head of a sequence, and some rows, at a time."""

from __future__ import annotations

import typing
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ..products import can_multiply, multiply
from .inputs import AttentionInputs
from .pieces import clear_first_token, distances_of, empty_output, ranges, shift
from .reference import segment_scores

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend", "is_faster"]

# Measured, see benchmarks/LOG.md: of fewer scores a head the calls take longer than what they save.
_LEAST_SCORES = 1 << 16
# So many rows keep the kernels busy, and their scores stay in the cache.
_ROWS = 256


def is_faster(query: Float[Tensor, "B H Q E"], inputs: AttentionInputs) -> bool:
    """Whether `attend` can be used, and takes less time than the pieces of "sdpa"."""
    return inputs.num_queries * inputs.num_keys >= _LEAST_SCORES and can_multiply(query)


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
    tables: Iterable[tuple[slice, Float[Tensor, "h E R"]]],
) -> Float[Tensor, "B H Q E"]:
    """As `reference.attend` at inference, for positions at equal distances. tables: of all heads, so many at a time."""
    assert inputs.stride is not None
    num_sequences, _, num_queries, _ = query.shape
    num_keys = inputs.num_keys
    mixed = empty_output(query.shape, query)
    of_content, of_position = layer.scaled(layer.content_bias), layer.scaled(layer.position_bias)
    for heads, table in tables:
        for place, head in enumerate(range(heads.start, heads.stop)):
            distances = table[place].T.contiguous()
            for sequence in range(num_sequences):
                one = (sequence, head)
                keys, values = key[one].contiguous(), value[one].contiguous()
                mask = None if inputs.mask_bias is None else inputs.mask_bias[sequence, 0, 0]
                for rows in ranges(num_queries, _ROWS):
                    part = query[*one, rows]
                    among = distances_of(rows, num_queries, num_keys, inputs.stride)
                    bias = shift(
                        multiply(part + of_position[head], distances[among]), num_keys, inputs.stride
                    )
                    if inputs.same_segment is not None:
                        same = inputs.same_segment[sequence : sequence + 1, rows]
                        bias += segment_scores(layer, part[None, None], same, slice(head, head + 1))[0, 0]
                    if inputs.num_apart:
                        clear_first_token(bias, rows)
                    score = multiply(part + of_content[head], keys, mask).add_(bias)
                    torch.softmax(score, -1, out=score)
                    mixed[*one, rows] = multiply(score, values.T)
    return mixed
