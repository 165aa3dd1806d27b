"""How the encoder shortens one text: the tokens of each vector, and the attention of the pooled queries."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Funnel", "Stage"]


@dataclass(frozen=True)
class Stage:
    """One block of the encoder.

    members: for each of the block's S vectors, the numbers (from 0) of the tokens that were merged into it.
    looks: [S][K], the attention weights of the pooled queries in the block's first layer, over the K vectors of the
        block before; the mean of the heads. None if no query is pooled, or if the mixer has no attention.
    """

    mixer: str
    members: list[list[int]]
    looks: list[list[float]] | None


@dataclass(frozen=True)
class Funnel:
    num_tokens: int
    stages: list[Stage]
