"""Narrow token embeddings with a projection behind them, begun as the best approximation to wide ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import UserError
from ...modeling import FunnelformerModel
from ...modeling.encoder import Embeddings

__all__ = ["check_size", "factorised"]

# The power of a token's frequency that is its weight in the approximation: 1 forgets the rare ones, 0 the common ones.
_FREQUENCY_POWER = 0.75
# The most frequent tokens, [CLS] and [SEP] among them, keep exactly what they have: an encoder leans on them.
_NUM_EXACT = 32
# Of the largest code's norm: above 1, so that what a position adds changes the normed vector nearly linearly.
_ROOM = 1.5
# Tokens that tell what a position adds, the most frequent ones.
_NUM_TOLD = 256


def check_size(model: FunnelformerModel, size: int) -> None:
    """Raise UserError if this model's embeddings cannot be narrowed to `size`."""
    width = model.config.hidden_size
    if model.embeddings.projection is not None:
        raise UserError(f"--embedding-size {size}: the model's embeddings have a projection already")
    if not size < width:
        raise UserError(f"--embedding-size {size}: allowed is less than the model's width {width}")


@torch.no_grad()
def factorised(model: FunnelformerModel, size: int, counts: np.ndarray) -> FunnelformerModel:
    """The same model with token embeddings of width W = `size`, and a projection from W to D.

    The embeddings of the new model are normed before they are projected, those of the old one have the width D when
    they are normed. What the old ones give for a token, y = LN(token + mean position + segment 0), is approximated in
    W - 2 directions, see `_directions`: y = mean + V c. The last two entries of the new vector are such that all new
    vectors have the mean 0 and one norm; so the LayerNorm, with gain 1, changes nothing, and the projection is V with
    the mean as its bias. Positions and segments become what they add to y in those directions, on average over frequent
    tokens.
    counts: [vocabulary] how often each token is in the texts.
    Raises UserError as `check_size`.
    """
    check_size(model, size)
    old = model.embeddings
    config: Any = copy.deepcopy(model.config)
    config.embedding_size = size
    new = FunnelformerModel(config, add_decoder=model.decoder is not None)
    state = {
        name: tensor for name, tensor in model.state_dict().items() if not name.startswith("embeddings.")
    }
    missing, unexpected = new.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("embeddings.") for name in missing)
    new.train(model.training)

    rest = _base(old)
    normed: Callable[[Tensor], Tensor] = old.layer_norm
    outputs = normed(old.word_embeddings.weight + rest)
    frequency = torch.from_numpy(counts).double() + 1
    mean, directions = _directions(outputs.double(), frequency, size - 2)
    codes = (outputs - mean) @ directions
    whole, scale = _with_one_norm(codes)
    new.embeddings.word_embeddings.weight.copy_(whole)
    new.embeddings.layer_norm.weight.fill_(1)
    new.embeddings.layer_norm.bias.zero_()
    assert new.embeddings.projection is not None
    new.embeddings.projection.weight.zero_()
    new.embeddings.projection.weight[:, : size - 2] = directions / scale
    new.embeddings.projection.bias.copy_(mean)
    if old.absolute:
        frequent = frequency.topk(min(_NUM_TOLD, len(frequency))).indices
        words = old.word_embeddings.weight[frequent] + rest
        before = outputs[frequent]

        def added(vector: Tensor) -> Tensor:
            """What a vector that takes part in the sum adds to y, in the new width."""
            code = (normed(words + vector) - before).mean(0) @ directions
            return torch.cat([code * scale, code.new_zeros(2)])

        positions, segments = old.position_embeddings.weight, old.token_type_embeddings.weight
        middle = positions.mean(0)
        new.embeddings.position_embeddings.weight.copy_(
            torch.stack([added(position - middle) for position in positions])
        )
        new.embeddings.token_type_embeddings.weight.copy_(
            torch.stack([added(segment - segments[0]) for segment in segments])
        )
    return new


def _directions(outputs: Tensor, frequency: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The mean [D], and so many orthogonal directions [D, number], for outputs [vocabulary, D] of tokens.

    The most frequent tokens lie in the first ones exactly; the others are the principal ones of what is left.
    """
    exact = frequency.topk(min(_NUM_EXACT, number // 2)).indices
    weight = frequency**_FREQUENCY_POWER
    weight[exact] = 0
    weight = (weight / weight.sum())[:, None]
    mean = (weight * outputs).sum(0)
    centred = outputs - mean
    first, _ = torch.linalg.qr(centred[exact].T)
    rest = centred - centred @ first @ first.T
    _, principal = torch.linalg.eigh((rest * weight).T @ rest)
    others = principal[:, len(principal) - (number - len(exact)) :].flip(1)  # the largest first
    return mean.float(), torch.cat([first, others], dim=1).float()


def _base(old: Embeddings) -> Tensor:
    """What the sum of a token's embeddings has beside the token's own: the mean position and segment 0."""
    if not old.absolute:
        return torch.zeros_like(old.layer_norm.weight)
    return old.position_embeddings.weight.mean(0) + old.token_type_embeddings.weight[0]


def _with_one_norm(codes: Tensor) -> tuple[Tensor, float]:
    """Codes [V, W - 2], scaled, with two entries more: rows [V, W] with the mean 0 and the norm sqrt(W); and the scale.

    Of the two entries a and b the sum is minus the code's, and the squares make up what its square lacks.
    """
    total, square = codes.sum(1), codes.square().sum(1)
    norm = _ROOM * (square + total.square() / 2).max()
    difference = (2 * (norm - square) - total.square()).clamp(min=0).sqrt()
    last = torch.stack([(difference - total) / 2, -(difference + total) / 2], dim=1)
    scale = float((codes.size(1) + 2) / norm) ** 0.5
    return torch.cat([codes, last], dim=1) * scale, scale
