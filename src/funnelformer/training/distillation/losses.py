"""What a student is told to change: how far its vectors and states are from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["similarity_loss", "states_loss", "vectors_loss"]


def vectors_loss(ours: Float[Tensor, "B D"], theirs: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """1 - cos of each text's two vectors, averaged."""
    return 1 - F.cosine_similarity(ours, theirs, dim=-1).mean()


def similarity_loss(ours: Float[Tensor, "B D"], theirs: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """Squared difference of the cosines between the texts of a batch, averaged over pairs of two texts; of one text 0.

    The widths may differ.
    """
    mine, other = F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)
    number = len(ours)
    # The diagonals are 1 in both.
    return (mine @ mine.T - other @ other.T).square().sum() / max(1, number * (number - 1))


def states_loss(
    ours: Sequence[Float[Tensor, "B S D"]],
    theirs: Sequence[tuple[Float[Tensor, "B S D"], Bool[Tensor, "B S"]]],
) -> Float[Tensor, ""]:
    """Squared distance of the real states to the teacher's, over the square of the teacher's; averaged over the depths.

    In this form depths with large states count no more than others.
    """
    shares = []
    for mine, (other, keep) in zip(ours, theirs, strict=True):
        difference = (mine.float() - other).masked_fill(~keep[..., None], 0)
        shares.append(difference.square().sum() / other.square().sum())
    total: Tensor = sum(shares)  # type: ignore[assignment]
    return total / len(shares)
