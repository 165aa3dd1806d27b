"""Relative attention in fused Triton kernels, forward and backward: memory grows with the length, not with its square.

What is linear in the length stays with PyTorch, autograd included: the biases of the query, the table of distances, the
two segment terms of each query. band_kernels.py has the rest.

Experimental: it is right in Triton's interpreter and compiles, but no GPU has run it yet. Where there is no band, that
is with absolute positions and after top pooling, it raises UserError, and so it does in an exported graph.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import typing
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...base.errors import UserError
from ...config.model_config import FunnelformerConfig
from .inputs import CLS_SEGMENT, AttentionInputs, pairs_of_same_segment
from .reference import segment_terms

if typing.TYPE_CHECKING:
    from . import Attention

__all__ = ["attend", "check_config", "with_pairs"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The gradient of the table: sequences are summed in groups, so many that there are about this many programs.
_PROGRAMS = 512


def attend(
    layer: Attention,
    query: Float[Tensor, "B H Q E"],
    key: Float[Tensor, "B H K E"],
    value: Float[Tensor, "B H K E"],
    inputs: AttentionInputs,
    dropout: float,
) -> tuple[Float[Tensor, "B H Q E"], None]:
    """As `reference.attend`, equal up to rounding; gives no weights.

    Scores, softmax and sums are float32 whatever the dtype.
    Raises UserError without Triton, without a GPU (other than in Triton's interpreter), for float64 and on export.
    """
    assert inputs.stride is not None  # `check_config` has seen to it
    if torch.compiler.is_exporting():
        raise UserError("attn_implementation='triton' cannot be exported; load the model with 'sdpa'")
    terms = seed = None
    if inputs.query_segments is not None:
        terms = torch.cat(segment_terms(layer, query), dim=-1)
    if layer.training and dropout:
        seed = torch.randint(1 << 62, (1,), device=query.device)
    table = layer.kept_table(inputs)
    if table is None:
        table = layer.distance_table(inputs)
    mixed, _, _ = _mix(
        # Autocast: the biases are float32.
        (query + layer.scaled(layer.content_bias)).to(value.dtype),
        (query + layer.scaled(layer.position_bias)).to(value.dtype),
        key,
        value,
        table.to(value.dtype),
        terms,
        inputs.query_segments,
        inputs.key_segments,
        inputs.mask_bias,
        seed,
        dropout,
        inputs.num_apart,
        inputs.stride,
    )
    return mixed, None


def check_config(config: FunnelformerConfig) -> None:
    """Raise UserError for a model in which there is no band of distances."""
    problem = None
    if config.position == "absolute":
        problem = "relative positions, and the model's are absolute"
    elif config.pooling == "top" and config.num_blocks > 1:
        problem = "tokens at equal distances, and pooling is 'top'"
    if problem:
        raise UserError(f"attn_implementation='triton' needs {problem}; 'sdpa' does not")


def with_pairs(inputs: AttentionInputs) -> AttentionInputs:
    """The inputs as the other implementations want them."""
    if inputs.query_segments is None or inputs.key_segments is None:
        return inputs
    same = pairs_of_same_segment(inputs.query_segments, inputs.key_segments, CLS_SEGMENT)
    return dataclasses.replace(inputs, same_segment=same, query_segments=None, key_segments=None)


def _refuse_unless_able(query: Tensor) -> None:
    problem = None
    if importlib.util.find_spec("triton") is None:
        problem = "the package triton, which is not installed"
    elif query.device.type != "cuda" and not _kernels().IS_INTERPRETED:
        problem = f"a GPU, and the model is on {query.device.type}"
    elif query.dtype not in _DTYPES:
        problem = f"float16, bfloat16 or float32, and this is {str(query.dtype).removeprefix('torch.')}"
    if problem:
        raise UserError(f"attn_implementation='triton' needs {problem}; 'sdpa' does not")


@functools.cache
def _kernels() -> ModuleType:
    from . import band_kernels

    return band_kernels


def _tiles(dtype: torch.dtype, stride: int) -> tuple[int, int]:
    """Rows and columns of a tile: powers of two from 16 up, `stride` columns a row.

    So small that registers suffice (float32: but for 24 bytes), compiled for sm_80 with heads of 64; those of 64 x 64
    spill. Not timed.
    """
    num_rows = max(16, (32 if dtype.itemsize == 2 else 16) // stride)
    return num_rows, stride * num_rows


class _Call:
    """What all kernels of one attention are given, in their layout.

    content, position, key, value: [B, T, H, E]. That is how the projections leave them: nothing is copied.
    """

    def __init__(
        self,
        content: Tensor,
        position: Tensor,
        key: Tensor,
        value: Tensor,
        table: Tensor,
        terms: Tensor | None,
        query_segments: Tensor | None,
        key_segments: Tensor | None,
        mask_bias: Tensor | None,
        seed: Tensor | None,
        rate: float,
        apart: int,
        stride: int,
    ) -> None:
        self.batch_size, self.num_heads, self.num_queries, self.head_size = content.shape
        self.num_keys, self.num_distances = key.size(2), table.size(-1)
        assert stride * self.num_queries + self.num_keys == self.num_distances
        table = table.transpose(1, 2)
        if table.stride(-1) != 1:
            table = table.contiguous()
        self.tensors = [
            *(_rows_first(x) for x in (content, position, key, value)),
            table,
            *(x if x is None else x.contiguous() for x in (terms, query_segments, key_segments)),
            mask_bias if mask_bias is None else mask_bias.contiguous(),
            seed,
        ]
        self.numbers = [
            self.num_heads,
            self.num_queries,
            self.num_keys,
            self.num_distances,
            table.stride(0),
            table.stride(1),
            rate,
        ]
        self.num_rows, self.num_columns = _tiles(content.dtype, stride)
        self.constants = {
            "APART": apart,
            "STRIDE": stride,
            "HEAD_SIZE": self.head_size,
            "BM": self.num_rows,
            "BN": self.num_columns,
            "BE": max(16, 1 << (self.head_size - 1).bit_length()),
            "num_warps": 4 if self.head_size <= 64 else 8,
            "num_stages": 2,
        }
        self.num_row_blocks = math.ceil(self.num_queries / self.num_rows)
        self.num_column_blocks = math.ceil(self.num_keys / self.num_columns)

    def run(
        self, kernel: Any, num_programs: int, *others: Tensor | None, sizes: tuple[int, ...] = ()
    ) -> None:
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(self.tensors[0]):
            kernel[(num_programs,)](*self.tensors, *others, *self.numbers, *sizes, **self.constants)


def _mix_forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    _refuse_unless_able(given[0])
    call = _Call(*given)
    mixed, top, total = _outputs(given[0])
    num_programs = call.batch_size * call.num_heads * call.num_row_blocks
    call.run(_kernels().mix_kernel, num_programs, _rows_first(mixed), top, total)
    return mixed, top, total


def _outputs(content: Float[Tensor, "B H Q E"], *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Space for the mixed values, and for the highest score and the sum of exp of each row."""
    top, total = (content.new_empty(content.shape[:3], dtype=torch.float32) for _ in range(2))
    return _rows_first_like(content), top, total


def _mix_backward(
    gradient: Tensor, mixed: Tensor, top: Tensor, total: Tensor, *given: Any
) -> tuple[Tensor, ...]:
    call, kernels = _Call(*given), _kernels()
    gradients = _gradients(gradient, mixed, top, total, *given)
    of_content, of_position, of_key, of_value, of_table, of_terms = gradients
    along = (gradient.float() * mixed.float()).sum(-1)
    known = (_rows_first(gradient.to(mixed.dtype)), along, top, total)
    num_pairs = call.batch_size * call.num_heads
    of_queries = (_rows_first(of_content), _rows_first(of_position), of_terms)
    call.run(kernels.queries_kernel, num_pairs * call.num_row_blocks, *known, *of_queries)
    of_keys = (_rows_first(of_key), _rows_first(of_value))
    call.run(kernels.keys_kernel, num_pairs * call.num_column_blocks, *known, *of_keys)
    of_table.copy_(_table_gradient(call, known))
    return gradients


def _gradients(
    gradient: Tensor,
    mixed: Tensor,
    top: Tensor,
    total: Tensor,
    content: Tensor,
    position: Tensor,
    *others: Any,
) -> tuple[Tensor, ...]:
    """Space for the gradients of the first six that are given; the segment terms' has no places without segments."""
    key, value, table, terms = others[:4]
    return (
        *(_rows_first_like(x) for x in (content, position, key, value)),
        torch.empty_like(table),
        content.new_empty(0) if terms is None else terms.new_empty(terms.shape),
    )


def _table_gradient(call: _Call, known: tuple[Tensor, ...]) -> Float[Tensor, "H E R"]:
    num_diagonals = call.num_row_blocks + call.num_column_blocks - 1
    num_groups = min(call.batch_size, math.ceil(_PROGRAMS / (num_diagonals * call.num_heads)))
    group_size = math.ceil(call.batch_size / num_groups)
    num_groups = math.ceil(call.batch_size / group_size)
    per_block = (call.num_columns, call.head_size)
    parts = known[1].new_empty(num_groups, call.num_heads, num_diagonals, 2, *per_block)
    num_programs = num_groups * call.num_heads * num_diagonals
    call.run(_kernels().table_kernel, num_programs, *known, parts, sizes=(call.batch_size, group_size))
    left, right = parts.sum(0).unbind(2)
    # The right block of a diagonal is the left one of the next.
    blocks = parts.new_zeros(call.num_heads, num_diagonals + 1, *per_block)
    blocks[:, :-1] += left
    blocks[:, 1:] += right
    # The first block ends at the first row that the last query of a full tile would read.
    start = call.num_columns * call.num_row_blocks - call.constants["STRIDE"] * call.num_queries
    return blocks.flatten(1, 2)[:, start : start + call.num_distances].transpose(1, 2)


def _rows_first(x: Float[Tensor, "B H T E"]) -> Float[Tensor, "B T H E"]:
    """The kernels' layout, without a copy of what has it already."""
    return x.transpose(1, 2).contiguous()


def _rows_first_like(x: Float[Tensor, "B H T E"]) -> Float[Tensor, "B H T E"]:
    """Space for as much, [B, T, H, E] in memory."""
    batch, heads, length, size = x.shape
    return x.new_empty(batch, length, heads, size).transpose(1, 2)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output, *inputs[:_NUM_TENSORS])
    ctx.options = inputs[_NUM_TENSORS:]


def _backward(ctx: Any, gradient: Tensor, *of_statistics: Tensor) -> tuple[Tensor | None, ...]:
    *gradients, of_terms = _mix_gradients(gradient, *ctx.saved_tensors, *ctx.options)
    return *gradients, of_terms if ctx.needs_input_grad[5] else None, *[None] * 7


# Operators of their own: torch.compile takes them as they are.
_GIVEN = (
    "Tensor content, Tensor position, Tensor key, Tensor value, Tensor table, Tensor? terms, Tensor? query_segments, "
    "Tensor? key_segments, Tensor? mask_bias, Tensor? seed, float rate, int apart, int stride"
)
_NUM_TENSORS = _GIVEN.count("Tensor")
_mix: Any = torch.library.custom_op(
    "funnelformer::fused_attention",
    _mix_forward,
    mutates_args=(),
    schema=f"({_GIVEN}) -> (Tensor, Tensor, Tensor)",
)
_mix_gradients: Any = torch.library.custom_op(
    "funnelformer::fused_attention_backward",
    _mix_backward,
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor mixed, Tensor top, Tensor total, {_GIVEN}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_mix.register_fake(_outputs)
_mix_gradients.register_fake(_gradients)
_mix.register_autograd(_backward, setup_context=_keep_for_backward)
