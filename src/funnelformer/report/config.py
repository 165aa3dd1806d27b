"""What `report` can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..base.options import grouped

__all__ = ["ReportConfig"]


@grouped(most="runs out")
@dataclass
class ReportConfig:
    """What `report` can be told."""

    runs: Annotated[list[Path], Parameter(consume_multiple=True)]
    "Folders of runs of finetune (also with seeds or a sweep), pretrain and lra."
    _: KW_ONLY
    out: Path
    "HTML file to write; it needs no other file and no network."

    def __post_init__(self) -> None:
        self.runs, self.out = [Path(run) for run in self.runs], Path(self.out)
