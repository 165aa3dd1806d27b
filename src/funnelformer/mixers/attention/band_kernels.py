"""Triton kernels of relative attention: scores are computed tile by tile and never stored.

A tile is BM queries by BN = STRIDE * BM keys. Query i and key j belong to row STRIDE * (Q - 1 - i) + j of the table
of distances. So tile (m, n) reads 2 * BN rows of it, those of blocks n - m - 1 ("left") and n - m ("right"), block t
starting at row STRIDE * Q + t * BN; and query r of the tile reads BN rows in a run, from STRIDE * (BM - 1 - r) on.
What it reads of left and of right fills just one row of BN scores, turned by as much: `_skewed`. The right block of a
tile is the left block of the next one, so all positions of a row of tiles cost one product a tile, as the contents do.

Hidden states are [B, T, H, E] in memory, the table [H, R, E]; statistics are [B, H, Q]. Products are summed in float32.
Every sum has one owner and one order: two runs give the same bits.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
# ruff: noqa: N803 - what is known when a kernel is compiled is in capitals, as everywhere in Triton

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["IS_INTERPRETED", "keys_kernel", "mix_kernel", "queries_kernel", "table_kernel"]

# Decided when the kernels are made, as Triton decides it.
IS_INTERPRETED = bool(triton.knobs.runtime.interpret)

# Triton's interpreter has no products of bfloat16.
_IN_FLOAT32 = tl.constexpr(IS_INTERPRETED)

# Lengths change from batch to batch: no variant of a kernel for each.
_LENGTHS = ["num_queries", "num_keys", "num_distances", "batch_size", "group_size"]


@triton.jit
def _load(start, rows, num_rows, row_size, HEAD_SIZE: tl.constexpr, BE: tl.constexpr):
    """Some rows of one head, zeros where there are none."""
    places = tl.arange(0, BE)
    is_row = (rows >= 0) & (rows < num_rows)
    mask = is_row[:, None] & (places < HEAD_SIZE)[None, :]
    return tl.load(start + rows[:, None] * row_size + places[None, :], mask=mask, other=0.0)


@triton.jit
def _store(start, rows, num_rows, row_size, values, HEAD_SIZE: tl.constexpr, BE: tl.constexpr):
    places = tl.arange(0, BE)
    mask = (rows < num_rows)[:, None] & (places < HEAD_SIZE)[None, :]
    values = values.to(start.dtype.element_ty)
    tl.store(start + rows[:, None] * row_size + places[None, :], values, mask=mask)


@triton.jit
def _load_block(
    table, block, num_queries, num_distances, row_size,
    STRIDE: tl.constexpr, HEAD_SIZE: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """A block of the table, [BN, BE]."""
    rows = STRIDE * num_queries + block * BN + tl.arange(0, BN)
    return _load(table, rows, num_distances, row_size, HEAD_SIZE, BE)


@triton.jit
def _dot(a, b):
    if _IN_FLOAT32:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _product(a, b):
    """Rows of a by rows of b."""
    return _dot(a, tl.trans(b))


@triton.jit
def _first(STRIDE: tl.constexpr, BM: tl.constexpr):
    """The column of [left, right] at which the run of each query of a tile begins, [BM, 1]."""
    return (STRIDE * (BM - 1 - tl.arange(0, BM)))[:, None]


@triton.jit
def _skewed(left, right, STRIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Of [left, right] the BN columns that each query reads."""
    first, columns = _first(STRIDE, BM), tl.arange(0, BN)[None, :]
    both = tl.where(columns >= first, left, right)
    return tl.gather(both, (columns + first) & (BN - 1), 1)


@triton.jit
def _unskewed(gradient, STRIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The gradients of left and right in `_skewed`."""
    first, columns = _first(STRIDE, BM), tl.arange(0, BN)[None, :]
    both = tl.gather(gradient, (columns - first) & (BN - 1), 1)
    return tl.where(columns >= first, both, 0.0), tl.where(columns >= first, 0.0, both)


@triton.jit
def _is_same(query_segments_ptr, key_segments_ptr, batch, rows, columns, num_queries, num_keys):
    """Whether query and key are of one segment; the CLS segment, below zero, is of every one."""
    of_query = tl.load(query_segments_ptr + batch * num_queries + rows, mask=rows < num_queries, other=0)[
        :, None
    ]
    of_key = tl.load(key_segments_ptr + batch * num_keys + columns, mask=columns < num_keys, other=0)[None, :]
    return (of_query == of_key) | (of_query < 0) | (of_key < 0)


@triton.jit
def _relative(score, rows, columns, APART: tl.constexpr):
    """Zero for the tokens apart, which have a content score alone."""
    if APART > 0:
        score = tl.where((rows >= APART)[:, None] & (columns >= APART)[None, :], score, 0.0)
    return score


@triton.jit
def _score(
    content, position, terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr,
    batch, pair, rows, columns, num_queries, num_keys, APART: tl.constexpr,
):  # fmt: skip
    """The whole score of a tile; minus infinity where there is no key."""
    if terms_ptr is not None:
        terms = terms_ptr + 2 * (pair * num_queries + rows)
        other = tl.load(terms, mask=rows < num_queries, other=0.0).to(tl.float32)
        same = tl.load(terms + 1, mask=rows < num_queries, other=0.0).to(tl.float32)
        is_same = _is_same(query_segments_ptr, key_segments_ptr, batch, rows, columns, num_queries, num_keys)
        position += tl.where(is_same, same[:, None], other[:, None])
    score = content + _relative(position, rows, columns, APART)
    if key_bias_ptr is not None:
        bias = tl.load(key_bias_ptr + batch * num_keys + columns, mask=columns < num_keys, other=0.0)
        score += bias.to(tl.float32)[None, :]
    return tl.where((columns < num_keys)[None, :], score, float("-inf"))


@triton.jit
def _dropout(seed_ptr, rate, pair, rows, columns, num_keys):
    """What a weight is multiplied by: 0 or 1 / (1 - rate), the same whichever kernel asks."""
    random = tl.rand(tl.load(seed_ptr) + pair, rows[:, None] * num_keys + columns[None, :])
    return tl.where(random >= rate, 1.0 / (1.0 - rate), 0.0)


@triton.jit
def _backward(
    score, gradient, value, seed_ptr, along_ptr, top_ptr, total_ptr, rate,
    pair, rows, columns, num_queries, num_keys,
):  # fmt: skip
    """The weights that mixed the values of a tile, and the gradient of its scores."""
    places, is_row = pair * num_queries + rows, rows < num_queries
    along = tl.load(along_ptr + places, mask=is_row, other=0.0)
    top = tl.load(top_ptr + places, mask=is_row, other=0.0)
    total = tl.load(total_ptr + places, mask=is_row, other=1.0)
    weights = tl.exp(score - top[:, None]) / total[:, None]
    of_weights = _product(gradient, value)
    mixing = weights
    if seed_ptr is not None:
        factor = _dropout(seed_ptr, rate, pair, rows, columns, num_keys)
        mixing = weights * factor
        of_weights = of_weights * factor
    return mixing, weights * (of_weights - along[:, None])


@triton.jit(do_not_specialize=_LENGTHS)
def mix_kernel(
    content_ptr, position_ptr, key_ptr, value_ptr, table_ptr,
    terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr, seed_ptr,
    mixed_ptr, top_ptr, total_ptr,
    num_heads, num_queries, num_keys, num_distances, table_head_size, table_row_size, rate,
    APART: tl.constexpr, STRIDE: tl.constexpr, HEAD_SIZE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """One program a block of queries: the mixed values, and of each row the highest score and the sum of exp."""
    num_blocks = tl.cdiv(num_queries, BM)
    m = tl.program_id(0) % num_blocks
    pair = (tl.program_id(0) // num_blocks).to(tl.int64)
    batch, head = pair // num_heads, pair % num_heads
    row_size = num_heads * HEAD_SIZE
    of_queries = batch * num_queries * row_size + head * HEAD_SIZE
    of_keys = batch * num_keys * row_size + head * HEAD_SIZE
    table = table_ptr + head * table_head_size
    rows = m * BM + tl.arange(0, BM)
    content_query = _load(content_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
    position_query = _load(position_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    mixed = tl.zeros([BM, BE], tl.float32)
    distances = _load_block(
        table, -m - 1, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
    )
    left = _product(position_query, distances)
    for n in range(tl.cdiv(num_keys, BN)):
        columns = n * BN + tl.arange(0, BN)
        distances = _load_block(
            table, n - m, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
        )
        right = _product(position_query, distances)
        key = _load(key_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
        score = _score(
            _product(content_query, key), _skewed(left, right, STRIDE, BM, BN),
            terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr,
            batch, pair, rows, columns, num_queries, num_keys, APART,
        )  # fmt: skip
        left = right
        # The first block has a key, so the highest score is finite from there on.
        higher = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp(top - higher)
        weights = tl.exp(score - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        top = higher
        if seed_ptr is not None:
            weights = weights * _dropout(seed_ptr, rate, pair, rows, columns, num_keys)
        value = _load(value_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
        mixed = mixed * shrink[:, None] + _dot(weights.to(value.dtype), value)
    _store(mixed_ptr + of_queries, rows, num_queries, row_size, mixed / total[:, None], HEAD_SIZE, BE)
    tl.store(top_ptr + pair * num_queries + rows, top, mask=rows < num_queries)
    tl.store(total_ptr + pair * num_queries + rows, total, mask=rows < num_queries)


@triton.jit(do_not_specialize=_LENGTHS)
def queries_kernel(
    content_ptr, position_ptr, key_ptr, value_ptr, table_ptr,
    terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr, seed_ptr,
    gradient_ptr, along_ptr, top_ptr, total_ptr,
    content_gradient_ptr, position_gradient_ptr, terms_gradient_ptr,
    num_heads, num_queries, num_keys, num_distances, table_head_size, table_row_size, rate,
    APART: tl.constexpr, STRIDE: tl.constexpr, HEAD_SIZE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """One program a block of queries: the gradients of both queries and of the segment terms."""
    num_blocks = tl.cdiv(num_queries, BM)
    m = tl.program_id(0) % num_blocks
    pair = (tl.program_id(0) // num_blocks).to(tl.int64)
    batch, head = pair // num_heads, pair % num_heads
    row_size = num_heads * HEAD_SIZE
    of_queries = batch * num_queries * row_size + head * HEAD_SIZE
    of_keys = batch * num_keys * row_size + head * HEAD_SIZE
    table = table_ptr + head * table_head_size
    rows = m * BM + tl.arange(0, BM)
    content_query = _load(content_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
    position_query = _load(position_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
    gradient = _load(gradient_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
    of_content = tl.zeros([BM, BE], tl.float32)
    of_position = tl.zeros([BM, BE], tl.float32)
    of_other = tl.zeros([BM], tl.float32)
    of_same = tl.zeros([BM], tl.float32)
    pending = tl.zeros([BM, BN], tl.float32)
    distances = _load_block(
        table, -m - 1, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
    )
    left = _product(position_query, distances)
    for n in range(tl.cdiv(num_keys, BN)):
        columns = n * BN + tl.arange(0, BN)
        distances = _load_block(
            table, n - m, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
        )
        right = _product(position_query, distances)
        key = _load(key_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
        value = _load(value_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
        score = _score(
            _product(content_query, key), _skewed(left, right, STRIDE, BM, BN),
            terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr,
            batch, pair, rows, columns, num_queries, num_keys, APART,
        )  # fmt: skip
        left = right
        _, of_score = _backward(
            score, gradient, value, seed_ptr, along_ptr, top_ptr, total_ptr, rate,
            pair, rows, columns, num_queries, num_keys,
        )  # fmt: skip
        of_content += _dot(of_score.to(key.dtype), key)
        of_score = _relative(of_score, rows, columns, APART)
        if terms_ptr is not None:
            is_same = _is_same(
                query_segments_ptr, key_segments_ptr, batch, rows, columns, num_queries, num_keys
            )
            of_same += tl.sum(tl.where(is_same, of_score, 0.0), 1)
            of_other += tl.sum(tl.where(is_same, 0.0, of_score), 1)
        # A block of the table is the right one of this tile and the left one of the next: one product for both.
        of_left, of_right = _unskewed(of_score, STRIDE, BM, BN)
        of_left += pending
        pending = of_right
        distances = _load_block(
            table, n - m - 1, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
        )
        of_position += _dot(of_left.to(distances.dtype), distances)
    distances = _load_block(
        table,
        tl.cdiv(num_keys, BN) - 1 - m,
        num_queries,
        num_distances,
        table_row_size,
        STRIDE,
        HEAD_SIZE,
        BN,
        BE,
    )
    of_position += _dot(pending.to(distances.dtype), distances)
    _store(content_gradient_ptr + of_queries, rows, num_queries, row_size, of_content, HEAD_SIZE, BE)
    _store(position_gradient_ptr + of_queries, rows, num_queries, row_size, of_position, HEAD_SIZE, BE)
    if terms_ptr is not None:
        of_terms = terms_gradient_ptr + 2 * (pair * num_queries + rows)
        tl.store(of_terms, of_other, mask=rows < num_queries)
        tl.store(of_terms + 1, of_same, mask=rows < num_queries)


@triton.jit(do_not_specialize=_LENGTHS)
def keys_kernel(
    content_ptr, position_ptr, key_ptr, value_ptr, table_ptr,
    terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr, seed_ptr,
    gradient_ptr, along_ptr, top_ptr, total_ptr,
    key_gradient_ptr, value_gradient_ptr,
    num_heads, num_queries, num_keys, num_distances, table_head_size, table_row_size, rate,
    APART: tl.constexpr, STRIDE: tl.constexpr, HEAD_SIZE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """One program a block of keys: the gradients of keys and values."""
    num_blocks = tl.cdiv(num_keys, BN)
    n = tl.program_id(0) % num_blocks
    pair = (tl.program_id(0) // num_blocks).to(tl.int64)
    batch, head = pair // num_heads, pair % num_heads
    row_size = num_heads * HEAD_SIZE
    of_queries = batch * num_queries * row_size + head * HEAD_SIZE
    of_keys = batch * num_keys * row_size + head * HEAD_SIZE
    table = table_ptr + head * table_head_size
    columns = n * BN + tl.arange(0, BN)
    key = _load(key_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
    value = _load(value_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
    of_key = tl.zeros([BN, BE], tl.float32)
    of_value = tl.zeros([BN, BE], tl.float32)
    for m in range(tl.cdiv(num_queries, BM)):
        rows = m * BM + tl.arange(0, BM)
        position_query = _load(position_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
        distances = _load_block(
            table, n - m - 1, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
        )
        left = _product(position_query, distances)
        distances = _load_block(
            table, n - m, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
        )
        right = _product(position_query, distances)
        content_query = _load(content_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
        score = _score(
            _product(content_query, key), _skewed(left, right, STRIDE, BM, BN),
            terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr,
            batch, pair, rows, columns, num_queries, num_keys, APART,
        )  # fmt: skip
        gradient = _load(gradient_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
        mixing, of_score = _backward(
            score, gradient, value, seed_ptr, along_ptr, top_ptr, total_ptr, rate,
            pair, rows, columns, num_queries, num_keys,
        )  # fmt: skip
        of_value += _dot(tl.trans(mixing.to(gradient.dtype)), gradient)
        of_key += _dot(tl.trans(of_score.to(content_query.dtype)), content_query)
    _store(key_gradient_ptr + of_keys, columns, num_keys, row_size, of_key, HEAD_SIZE, BE)
    _store(value_gradient_ptr + of_keys, columns, num_keys, row_size, of_value, HEAD_SIZE, BE)


@triton.jit(do_not_specialize=_LENGTHS)
def table_kernel(
    content_ptr, position_ptr, key_ptr, value_ptr, table_ptr,
    terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr, seed_ptr,
    gradient_ptr, along_ptr, top_ptr, total_ptr,
    blocks_ptr,
    num_heads, num_queries, num_keys, num_distances, table_head_size, table_row_size, rate,
    batch_size, group_size,
    APART: tl.constexpr, STRIDE: tl.constexpr, HEAD_SIZE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """One program a diagonal of tiles, whose left and right block are the same two throughout, in a group of sequences.

    Writes the gradients of both to [groups, H, diagonals, 2, BN, E].
    """
    num_row_blocks, num_column_blocks = tl.cdiv(num_queries, BM), tl.cdiv(num_keys, BN)
    num_diagonals = num_row_blocks + num_column_blocks - 1
    diagonal = tl.program_id(0) % num_diagonals - (num_row_blocks - 1)
    head = (tl.program_id(0) // num_diagonals % num_heads).to(tl.int64)
    group = tl.program_id(0) // num_diagonals // num_heads
    row_size = num_heads * HEAD_SIZE
    table = table_ptr + head * table_head_size
    left_block = _load_block(
        table, diagonal - 1, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
    )
    right_block = _load_block(
        table, diagonal, num_queries, num_distances, table_row_size, STRIDE, HEAD_SIZE, BN, BE
    )
    left_sum = tl.zeros([BN, BE], tl.float32)
    right_sum = tl.zeros([BN, BE], tl.float32)
    for batch in range(group * group_size, tl.minimum((group + 1) * group_size, batch_size)):
        pair = batch * num_heads + head
        of_queries = (pair - head) * num_queries * HEAD_SIZE + head * HEAD_SIZE
        of_keys = (pair - head) * num_keys * HEAD_SIZE + head * HEAD_SIZE
        for m in range(tl.maximum(0, -diagonal), tl.minimum(num_row_blocks, num_column_blocks - diagonal)):
            rows = m * BM + tl.arange(0, BM)
            columns = (m + diagonal) * BN + tl.arange(0, BN)
            position_query = _load(position_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
            content_query = _load(content_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
            key = _load(key_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
            value = _load(value_ptr + of_keys, columns, num_keys, row_size, HEAD_SIZE, BE)
            left, right = _product(position_query, left_block), _product(position_query, right_block)
            score = _score(
                _product(content_query, key), _skewed(left, right, STRIDE, BM, BN),
                terms_ptr, query_segments_ptr, key_segments_ptr, key_bias_ptr,
                batch, pair, rows, columns, num_queries, num_keys, APART,
            )  # fmt: skip
            gradient = _load(gradient_ptr + of_queries, rows, num_queries, row_size, HEAD_SIZE, BE)
            _, of_score = _backward(
                score, gradient, value, seed_ptr, along_ptr, top_ptr, total_ptr, rate,
                pair, rows, columns, num_queries, num_keys,
            )  # fmt: skip
            of_left, of_right = _unskewed(_relative(of_score, rows, columns, APART), STRIDE, BM, BN)
            of_left, of_right = of_left.to(position_query.dtype), of_right.to(position_query.dtype)
            left_sum += _dot(tl.trans(of_left), position_query)
            right_sum += _dot(tl.trans(of_right), position_query)
    blocks = blocks_ptr + tl.program_id(0).to(tl.int64) * (2 * BN * HEAD_SIZE)
    _store(blocks, tl.arange(0, BN), BN, HEAD_SIZE, left_sum, HEAD_SIZE, BE)
    _store(blocks + BN * HEAD_SIZE, tl.arange(0, BN), BN, HEAD_SIZE, right_sum, HEAD_SIZE, BE)
