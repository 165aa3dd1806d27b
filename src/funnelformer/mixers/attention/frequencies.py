"""A few of the sinusoids that stand for all of them up to a distance, and what attention in a wider head needs.

Sinusoids of at most one radian a token are heavily oversampled: over a bounded range of distances a subset of the
frequencies gives all others as sums, with coefficients near 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

__all__ = ["WideInputs", "choose_frequencies", "prepare_wide"]

# How far a sum may be from its sinusoid, before the dtype's own rounding.
_TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-8}
_LOW_PRECISION = 1e-5
# Added to the score of a padded key: exp of it is 0 in every dtype, and float16 holds it.
_PADDED = -30000.0


@dataclass(frozen=True)
class WideInputs:
    """What the layers of a stage share when each score is one inner product.

    N chosen frequencies of the F = D / 2; rows of tokens apart (`separate_cls`) are zero in all but the last two.

    source: what the choice depends on besides model and dtype.
    coefficients: of each frequency in terms of the chosen ones, for the sines and for the cosines; they differ in
        training, where a dropout mask is in them.
    query_sines, query_cosines: at the position of each query.
    query_segments: one where the query is of that segment; the CLS segment is none of them. None: no segment score.
    query_constants: which of "other segment" and "same segment" a query's keys have in common.
    query_fill: one against the mask of the keys, then zeros up to a width that kernels like.
    key_features: what stands behind each key: cosines, sines, segments, a constant, the mask, zeros.
    """

    source: tuple[int, int]
    coefficients: Float[Tensor, "2 F N"]
    query_sines: Float[Tensor, "#B 1 Q N"]
    query_cosines: Float[Tensor, "#B 1 Q N"]
    query_segments: Float[Tensor, "B 1 Q S"] | None
    query_constants: Float[Tensor, "B 1 Q 2"] | None
    query_fill: Float[Tensor, "1 1 Q Z"]
    key_features: Float[Tensor, "#B 1 K X"]


@functools.lru_cache(maxsize=256)
def choose_frequencies(
    num_steps: int, unit: int, width: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Choose frequencies whose sines and cosines give those of all `width / 2` at every |t| <= num_steps * unit.

    unit: distances are multiples of it.
    Returns the N chosen frequencies in radians a token, and coefficients [N, width / 2]; both float64.
    Sine and cosine of a frequency are the same sum over the chosen ones: distances lie evenly around zero, so the best
    coefficients of exp(i t f) are real. Pivoted QR chooses, and the diagonal of R says when the rest is small enough.
    """
    half = width // 2
    frequencies = 10000.0 ** (-np.arange(half) / half)
    angles = unit * np.arange(num_steps + 1)[:, None] * frequencies
    _, r, order = scipy.linalg.qr(
        np.concatenate([np.sin(angles), np.cos(angles)]), mode="economic", pivoting=True
    )
    diagonal = np.abs(np.diag(r))
    number = int((diagonal > tolerance * diagonal[0]).sum())
    coefficients = np.zeros((number, half))
    coefficients[:, order[:number]] = np.eye(number)
    coefficients[:, order[number:]] = scipy.linalg.solve_triangular(r[:number, :number], r[:number, number:])
    return frequencies[order[:number]], coefficients


def prepare_wide(
    query_positions: Int[Tensor, "#B q"],
    key_positions: Int[Tensor, "#B k"],
    num_apart: int,
    reach: int,
    unit: int,
    query_segments: Int[Tensor, "B Q"] | None,
    key_segments: Int[Tensor, "B K"] | None,
    cls_segment: int,
    num_segments: int,
    keep: Bool[Tensor, "B K"] | None,
    head_size: int,
    dropout: float,
    like: Float[Tensor, "M P D"],
) -> WideInputs:
    """Collect the features of a stage; positions are of the tokens after those apart.

    reach: no distance is farther; all are multiples of `unit`.
    dropout: of the sinusoids. The reference drops each value of its table, here a dimension is dropped for all
        distances at once: one score has the same distribution, several of a row are more alike.
    Raises a RuntimeError (one_hot) when a segment id is not below `num_segments`.
    """
    num_steps = _round_up(-(-reach // unit))
    # torch.compile(dynamic=True) takes numbers of the config for variables, a state's width for none.
    table = _table(num_steps, unit, like.size(-1), like.dtype)
    # Angles need more than half precision, and those of far tokens more than single.
    frequencies = table[:, 0].to(like.device)
    both = table[:, 1:].T.to(like).expand(2, -1, -1)
    if dropout:
        both = both * F.dropout(torch.ones_like(both[..., :1]), dropout)
    key_angles = key_positions[:, None, :, None] * frequencies
    query_angles = query_positions[:, None, :, None] * frequencies

    def of_all(features: Tensor) -> Tensor:
        """Zeros for the tokens apart."""
        return F.pad(features, (0, 0, num_apart, 0)).to(like.dtype)

    parts = [of_all(key_angles.cos()), of_all(key_angles.sin())]
    one_hot = constants = None
    if query_segments is not None and key_segments is not None:
        own, other = (
            F.one_hot(segments[:, num_apart:].long(), num_segments)[:, None]
            for segments in (query_segments, key_segments)
        )
        of_cls = own[..., cls_segment, None].bool()
        one_hot = of_all(own.masked_fill(of_cls, 0))
        # A key of the CLS segment is of every one.
        parts.append(of_all(other | other[..., cls_segment, None]))
        if num_apart:
            # What all keys have in common would not matter, were it not for the one apart, which lacks it.
            constants = of_all(torch.cat([~of_cls, of_cls], dim=-1))
            parts.append(of_all(torch.ones_like(other[..., :1])))
    if keep is not None:
        padded = torch.zeros_like(keep, dtype=like.dtype).masked_fill(~keep, _PADDED)
        parts.append(padded[:, None, :, None])
    size = sum(part.size(-1) for part in parts)
    zeros = -(head_size + size) % 8
    num_queries, num_keys = query_positions.size(1) + num_apart, key_positions.size(1) + num_apart
    parts.append(like.new_zeros(1, 1, num_keys, zeros))
    fill = like.new_zeros(1, 1, num_queries, zeros)
    if keep is not None:
        fill = torch.cat([like.new_ones(1, 1, num_queries, 1), fill], dim=-1)
    batch = max(part.size(0) for part in parts)
    return WideInputs(
        source=(num_steps, unit),
        coefficients=both,
        query_sines=of_all(query_angles.sin()),
        query_cosines=of_all(query_angles.cos()),
        query_segments=one_hot,
        query_constants=constants,
        query_fill=fill,
        key_features=torch.cat([part.expand(batch, -1, -1, -1) for part in parts], dim=-1),
    )


def _round_up(num_steps: int) -> int:
    """A reach that several lengths share, so that few subsets are ever chosen: four to an octave.

    Under torch.compile a power of two: each is a graph of its own.
    """
    reach = 4
    if torch.compiler.is_compiling():
        while reach < num_steps:
            reach *= 2
        return reach
    step = max(1, 1 << max(0, (num_steps - 1).bit_length() - 3))
    return max(reach, -(-num_steps // step) * step)


def _tabulate(num_steps: int, unit: int, width: int, dtype: torch.dtype) -> Tensor:
    """The frequencies of `choose_frequencies` [N, 1 + F], each with its coefficients."""
    tolerance = _TOLERANCES.get(dtype, _LOW_PRECISION)
    frequencies, coefficients = choose_frequencies(num_steps, unit, width, tolerance)
    return torch.from_numpy(np.concatenate([frequencies[:, None], coefficients], axis=1))


# An operator of its own: a graph of torch.compile has its shape in numbers, also where lengths are variables.
_table: Callable[..., Tensor] = torch.library.custom_op(
    "funnelformer::frequency_table",
    _tabulate,
    mutates_args=(),
    schema="(int num_steps, int unit, int width, ScalarType dtype) -> Tensor",
)
_table.register_fake(lambda *args: torch.empty(_tabulate(*args).shape, dtype=torch.float64))  # type: ignore[attr-defined]
