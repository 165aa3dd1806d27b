"""The settings that decide which rows a text becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ..base.errors import UserError, did_you_mean
from ..base.options import Form, Sentences

__all__ = ["FORMS", "RowSettings"]

FORMS = get_args(Form)


@dataclass(frozen=True)
class RowSettings:
    """The settings that decide which rows a part of the text becomes.

    block_size: ids of a row, special ones and padding included.
    form: "single" packs documents; "continuation" makes pairs in which B continues A half of the time; "structure"
        makes pairs in which B follows A, precedes it, or comes from another document, each a third of the time.
    stride: 2^(blocks - 1) for a funnel with `truncate_seq`. The last stride - 1 ids of a sequence never reach its last
        block, so a row ends before them with its [SEP], and they are padding. 1 leaves none out.
    passes: how often the text is used, each time in another order and as other pairs.
    sentences: where sentences end, see `encode.split_sentences`.
    validation_fraction: share of the documents to hold out, 0 to below 1. part_chars: characters of text in a part.
    Raises UserError for a value that is not allowed.
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
                f"with these options it needs at least {least + self.stride - 1} ids"
            )

    @property
    def num_usable(self) -> int:
        """Ids of a full row, without the padding in place of the ids that the funnel would drop."""
        return self.block_size - (self.stride - 1)
