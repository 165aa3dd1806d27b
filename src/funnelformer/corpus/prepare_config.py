"""What `prepare` can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ..base.errors import UserError
from ..base.options import SEED, Files, Form, Sentences, at_least, check_ranges, grouped, num_usable_cores
from .row_settings import RowSettings

__all__ = ["PrepareConfig"]


@grouped(
    most="train tokenizer out block_size workers",
    data="form passes sentences text_column validation_fraction",
    model="stride",
    run="seed shard",
    output="part_chars",
)
@dataclass(kw_only=True)
class PrepareConfig:
    """What `prepare` can be told."""

    train: Files
    "Files or globs (txt with an empty line between documents, jsonl, csv, tsv, parquet; .gz, .zst, .bz2, .xz), a \
folder of `Dataset.save_to_disk`, or a Hub name user/name[:config]."
    tokenizer: Path
    "Tokenizer folder or vocabulary file."
    out: Path
    "Folder to write; what is finished in it is kept."
    block_size: int = 512
    "Tokens of a training sequence."
    form: Form = "single"
    "single: packed documents. continuation: pairs A, B with B the continuation or not. structure: B follows A, \
precedes it, or is from elsewhere (needed for the objective mlm+sso)."
    stride: int = 1
    "2^(blocks - 1) of a funnel that truncates: ends rows where its pooled lengths stay whole."
    passes: int = 1
    "Times that the text is used, in another order or as other pairs."
    sentences: Sentences = "lines"
    "What a sentence is: a line, or also what punctuation ends."
    text_column: str | None = None
    "Column of the text in tables."
    validation_fraction: float = 0.01
    "Fraction of the documents held out."
    part_chars: int = 32_000_000
    "Characters of text in an output file; memory is a few times that for each worker."
    seed: Annotated[int, SEED] = 42
    "Seed of the order of documents and of the pairs."
    workers: Annotated[int, at_least(1)] = field(default_factory=num_usable_cores)
    "Processes; their number does not change the result."
    shard: str = "1/1"
    "Do part i of n of the work, as 3/8; n such jobs, anywhere and in any order, fill the folder."

    def __post_init__(self) -> None:
        self.tokenizer, self.out = Path(self.tokenizer), Path(self.out)
        check_ranges(self)
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard is {self.shard!r}; allowed: i/n with i from 1 to n, as 3/8")
        self.rows  # noqa: B018 - checks the settings

    @property
    def rows(self) -> RowSettings:
        return RowSettings(**{name: getattr(self, name) for name in RowSettings.__dataclass_fields__})

    @property
    def job(self) -> tuple[int, int]:
        """This job's number from 1, and how many there are."""
        number, count = self.shard.split("/")
        return int(number), int(count)
