"""How one text shortens: the tokens that each vector stands for, and where the pooled queries look."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Funnel", "Stage"]


@dataclass(frozen=True)
class Stage:
    """One block of the encoder.

    members: of each of its S vectors the tokens of the text that were merged into it, numbered from 0.
    looks: [S][K] what part of its attention each pooled query, in the block's first layer, gives each of the K vectors
        of the block before, as the mean over the heads; None where no query is pooled, or the mixer has no queries.
    """

    mixer: str
    members: list[list[int]]
    looks: list[list[float]] | None


@dataclass(frozen=True)
class Funnel:
    num_tokens: int
    stages: list[Stage]
