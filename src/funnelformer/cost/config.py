"""What `info` can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from cyclopts import Parameter

from ..base.options import grouped

__all__ = ["InfoConfig"]


@grouped(most="model lengths json")
@dataclass
class InfoConfig:
    """What `info` can be told."""

    model: str
    "A model's folder, or a layout or preset (B4-4-4H768, L12H768, funnel-small)."
    _: KW_ONLY
    lengths: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None
    "Tokens of the sequences to count for; by default 128, 512 and 2048."
    json: bool = False
    "Print JSON."
