"""FNet's mixer: the real part of a Fourier transform over the sequence and over the hidden size.

Source: Lee-Thorp et al. 2022, arXiv:2105.03824, section 3.2; equal to transformers' FNet in
tests/mixers/test_mixers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from ..config.model_config import FunnelformerConfig
from .mixer import CallShape, MixerFlops
from .sequence import Packing, SequenceState, packed, padded

__all__ = ["Fourier", "FourierInputs", "prepare"]


@dataclass(frozen=True)
class FourierInputs:
    """How long each sequence is; None when padding counts as tokens (`padding` other than "exact"), or is absent.

    chirp: exp(-i pi j^2 / n) of token j in a sequence of n tokens, 0 at padding.
    kernel: the transform of conj(chirp), read around 0, over the `span` points of the convolution.
    packing: of the hidden states, see `SequenceState`.
    """

    lengths: Int[Tensor, "B 1"] | None = None
    chirp: Complex[Tensor, "B T"] | None = None
    kernel: Complex[Tensor, "B M"] | None = None
    packing: Packing | None = None


@dataclass(frozen=True)
class FourierMatrices:
    """The transforms of an exported graph as products, which need no algorithm for each length.

    tokens: cosine and sine of 2 pi j k / n for tokens j and k of a sequence of n, 0 where k is padding.
    width: the same over the hidden size.
    ONNX Runtime 1.31's DFT takes 1.5 to 5 times as long from 64 to 1,024 tokens, and at lengths that are no power of
    two it is off by 0.01 where these are by 4e-5.
    """

    tokens: tuple[Float[Tensor, "#B T T"], Float[Tensor, "#B T T"]]
    width: tuple[Float[Tensor, "1 D D"], Float[Tensor, "1 D D"]]


def prepare(
    queries: SequenceState, keys: SequenceState, config: FunnelformerConfig, like: Tensor, training: bool
) -> FourierInputs | FourierMatrices:
    """Collect the inputs of a stage from its state; `queries` and `keys` are the same."""
    if torch.compiler.is_exporting():
        return _matrices(keys, config, like)
    if keys.keep is None or config.padding != "exact":
        return FourierInputs()
    length = keys.keep.size(1)
    places = torch.arange(length, device=like.device)[None]
    lengths = ((places + 1) * keys.keep).amax(1, keepdim=True).clamp(min=1)
    # j^2 modulo 2n in integers: as a float the angle of a far token would have lost its digits.
    angle = (places * places % (2 * lengths)).double() * math.pi / lengths
    chirp = torch.polar(torch.ones_like(angle), -angle).to(
        torch.complex128 if like.dtype == torch.float64 else torch.complex64
    )
    span = 1
    while (
        span < 2 * length - 1
    ):  # a power of two; under torch.compile a comparison, so that lengths share graphs
        span *= 2
    kernel = chirp.new_zeros(keys.keep.size(0), span)
    kernel[:, :length] = chirp.conj()
    kernel[:, span - length + 1 :] = chirp[:, 1:].conj().flip(1)
    return FourierInputs(lengths, chirp * keys.keep, torch.fft.fft(kernel), keys.packing)


def _matrices(keys: SequenceState, config: FunnelformerConfig, like: Tensor) -> FourierMatrices:
    places = torch.arange(like.size(1), device=like.device)[None]
    lengths, keep = places[:, -1:] + 1, None
    if keys.keep is not None and config.padding == "exact":
        lengths = ((places + 1) * keys.keep).amax(1, keepdim=True).clamp(min=1)
        keep = keys.keep[:, None].to(like.dtype)
    cosine, sine = _waves(places, lengths, like.dtype)
    if keep is not None:
        cosine, sine = cosine * keep, sine * keep
    width = torch.arange(like.size(2), device=like.device)[None]
    return FourierMatrices((cosine, sine), _waves(width, width[:, -1:] + 1, like.dtype))


def _waves(
    places: Int[Tensor, "1 N"], lengths: Int[Tensor, "#B 1"], dtype: torch.dtype
) -> tuple[Float[Tensor, "#B N N"], Float[Tensor, "#B N N"]]:
    """Cosine and sine of 2 pi j k / n; j k modulo n in integers, as in `prepare`."""
    lengths = lengths[..., None]
    turns = (places[:, :, None] * places[:, None] % lengths).to(dtype) / lengths.to(dtype)
    angle = 2 * math.pi * turns
    return angle.cos(), angle.sin()


class Fourier(nn.Module):
    """The mixer "fourier", without parameters. Across a pooling step it reads the pooled sequence.

    A padded sequence is transformed at its own length, by Bluestein's algorithm: the same result as alone.
    """

    prepare = staticmethod(prepare)
    start_extra = None
    reads_unpooled = False
    gives_weights = False
    weights_read = ()

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()

    def init_weights(self, draw: Callable[[Tensor], None]) -> None:
        """There are none."""

    @staticmethod
    def flops(config: FunnelformerConfig, shape: CallShape) -> MixerFlops:
        """None: a Fourier transform is no matrix product."""
        return MixerFlops()

    def forward(
        self,
        queries: Float[Tensor, "B T D"],
        keys: Float[Tensor, "B T D"],
        inputs: Any,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """Mix `keys`, which are the `queries`, in float32 at least."""
        dtype = keys.dtype
        if isinstance(inputs, FourierMatrices):
            # The real part of (C - iS) x (C' - iS').
            wide = keys.float()
            (cosine, sine), (width_cosine, width_sine) = inputs.tokens, inputs.width
            return (cosine @ (wide @ width_cosine) - sine @ (wide @ width_sine)).to(dtype), None
        keys = padded(keys, inputs.packing)
        wide = keys if dtype == torch.float64 else keys.float()
        if inputs.lengths is None:
            return torch.fft.fft2(wide, dim=(1, 2)).real.to(dtype), None
        # The input is real, so half of the hidden frequencies give the other half.
        half = _transform_each(torch.fft.rfft(wide, dim=2), inputs)
        places = torch.arange(keys.size(1), device=keys.device)[None]
        index = torch.where(places < inputs.lengths, -places % inputs.lengths, places)
        mirrored = half.real.gather(1, index[..., None].expand(-1, -1, half.size(2)))
        num_rest = keys.size(2) - half.size(2)
        mixed = torch.cat([half.real, mirrored[:, :, 1 : num_rest + 1].flip(2)], dim=2).to(dtype)
        return packed(mixed, inputs.packing), None


def _transform_each(x: Complex[Tensor, "B T F"], inputs: FourierInputs) -> Complex[Tensor, "B T F"]:
    """The transform of each sequence at its own length n: jk = (j^2 + k^2 - (k - j)^2) / 2 makes it a convolution."""
    assert inputs.chirp is not None
    assert inputs.kernel is not None
    chirp, kernel = inputs.chirp[..., None], inputs.kernel[..., None]
    spectrum = torch.fft.fft(x * chirp, n=kernel.size(1), dim=1) * kernel
    return torch.fft.ifft(spectrum, dim=1)[:, : x.size(1)] * chirp
