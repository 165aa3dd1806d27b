"""Relative attention in ONNX: a loop over pieces of the queries, so that few scores are there at once.

The names are those of `mixers.attention.operator`. onnxscript reads the source; it must be installed.
"""

# mypy: ignore-errors
# What stands in the function is ONNX, not Python.

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnxscript import BOOL, FLOAT, script
from onnxscript import opset18 as op

from ..mixers.attention import operator  # noqa: F401 - names of torch.ops

__all__ = ["TRANSLATIONS"]

# Queries of a piece; measured, see benchmarks/LOG.md.
_ROWS = 256


@script()
def _attend(
    content: FLOAT,
    position: FLOAT,
    key: FLOAT,
    value: FLOAT,
    table: FLOAT,
    same: BOOL,
    gain: FLOAT,
    stride: int,
    has_segments: int,
) -> FLOAT:
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    two, three = op.Constant(value_ints=[2]), op.Constant(value_ints=[3])
    rows, step = op.Constant(value_ints=[_ROWS]), op.Constant(value_int=stride)
    num_queries, num_keys = op.Shape(content, start=2, end=3), op.Shape(key, start=2, end=3)
    batch_and_heads = op.Shape(content, start=0, end=2)
    turned_key = op.Transpose(key, perm=[0, 1, 3, 2])
    mixed = op.Slice(value, zero, zero, two)
    for i in range(op.Squeeze((num_queries + rows - 1) / rows)):
        first = op.Unsqueeze(i, zero) * rows
        last = op.Min(first + rows, num_queries)
        start, farthest = step * (last - first - 1), step * (num_queries - last)
        width = start + num_keys
        near = op.Slice(table, farthest, farthest + width + step, two)
        by_distance = op.MatMul(op.Slice(position, first, last, two), near)
        flat = op.Reshape(by_distance, op.Concat(batch_and_heads, op.Constant(value_ints=[-1]), axis=0))
        flat = op.Slice(flat, start, start + (last - first) * width, two)
        shifted = op.Reshape(flat, op.Concat(batch_and_heads, last - first, width, axis=0))
        score = op.MatMul(op.Slice(content, first, last, two), turned_key)
        score = score + op.Slice(shifted, zero, num_keys, three)
        if op.Constant(value_int=has_segments) > 0:
            is_same, gained = (
                op.Unsqueeze(op.Slice(same, first, last, one), one),
                op.Slice(gain, first, last, two),
            )
            score = score + op.Where(is_same, gained, op.Constant(value_float=0.0))
        else:
            score = op.Identity(score)
        mixed = op.Concat(mixed, op.MatMul(op.Softmax(score, axis=-1), value), axis=2)
    return mixed


def _relative_attention(
    content: FLOAT,
    position: FLOAT,
    key: FLOAT,
    value: FLOAT,
    table: FLOAT,
    same: BOOL,
    gain: FLOAT,
    stride: int,
) -> FLOAT:
    if same is not None:
        return _attend(content, position, key, value, table, same, gain, stride=stride, has_segments=1)
    # Anything: the branch that reads them is not in the graph.
    nothing = op.Cast(op.Shape(content), to=onnx.TensorProto.BOOL)
    return _attend(content, position, key, value, table, nothing, content, stride=stride, has_segments=0)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.funnelformer.relative_attention.default: _relative_attention
}
