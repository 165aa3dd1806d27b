"""What `info` can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from cyclopts import Parameter

from ..base.options import at_least, check_ranges, grouped

__all__ = ["LENGTHS", "InfoConfig"]

LENGTHS = (128, 512, 2048)


@grouped(most="model lengths json")
@dataclass
class InfoConfig:
    """What `info` can be told."""

    model: str
    "A model's folder, or a layout or preset (B4-4-4H768, L12H768, funnel-small)."
    _: KW_ONLY
    lengths: Annotated[tuple[int, ...], at_least(1), Parameter(consume_multiple=True)] = LENGTHS
    "Sequence lengths, in tokens, to count for."
    json: bool = False
    "Print JSON."

    def __post_init__(self) -> None:
        check_ranges(self)
