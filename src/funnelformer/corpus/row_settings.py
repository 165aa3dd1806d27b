"""What decides the rows that text becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ..base.errors import UserError, did_you_mean
from ..base.options import Form, Sentences

__all__ = ["FORMS", "RowSettings"]

FORMS = get_args(Form)


@dataclass(frozen=True)
class RowSettings:
    """What decides the rows that a part of the text becomes.

    form: "single" packs documents; "continuation" makes pairs whose B is the true continuation half of the time;
        "structure" pairs whose B follows A, precedes it, or is from elsewhere, each a third of the time.
    stride: 2^(blocks - 1) of a funnel with `truncate_seq`. Its last stride - 1 ids never reach the last block, so a row
        ends before them with its [SEP], and padding takes their place; 1 leaves none out.
    passes: times that the text is used, in another order, as other pairs.
    """

    block_size: int
    form: Form = "single"
    stride: int = 1
    passes: int = 1
    sentences: Sentences = "lines"
    validation_fraction: float = 0.0
    seed: int = 0
    part_chars: int = 32_000_000

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(
                f"form: {self.form!r}; allowed: {', '.join(FORMS)}{did_you_mean(self.form, FORMS)}"
            )
        if self.sentences not in get_args(Sentences):
            raise UserError(f"sentences: {self.sentences!r}; allowed: {', '.join(get_args(Sentences))}")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction: {self.validation_fraction} is not in the range from 0 to below 1"
            )
        if self.passes < 1 or self.part_chars < 1:
            raise UserError(f"passes: {self.passes}, part_chars: {self.part_chars}; allowed: 1 or more")
        if self.stride < 1 or self.stride & (self.stride - 1) or self.block_size % self.stride:
            raise UserError(
                f"stride: {self.stride} is not a power of two that divides block_size {self.block_size}"
            )
        least = 3 if self.form == "single" else 7
        if self.num_usable < least:
            raise UserError(
                f"block_size: {self.block_size} leaves no room for text; "
                f"with these options it needs {least + self.stride - 1} ids and more"
            )

    @property
    def num_usable(self) -> int:
        """Ids of a full row without the padding that takes the place of what the funnel would cut off."""
        return self.block_size - (self.stride - 1)
