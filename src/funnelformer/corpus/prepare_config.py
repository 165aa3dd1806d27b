"""What `prepare` can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..base.errors import UserError
from ..base.options import (
    FRACTION_FROM_0,
    SEED,
    Engine,
    Files,
    Form,
    Sentences,
    TextColumn,
    at_least,
    check_ranges,
    grouped,
)
from ..spread.engine_options import ClusterOptions
from ..spread.storage import as_url, is_remote
from .row_settings import RowSettings

__all__ = ["PrepareConfig"]


@grouped(
    most="train tokenizer out block_size form",
    data="passes sentences text_column validation_fraction",
    model="stride",
    run="seed shard",
    output="part_chars",
)
@dataclass(kw_only=True)
class PrepareConfig(ClusterOptions):
    """What `prepare` can be told."""

    train: Files
    "Files or globs (txt with an empty line between documents, jsonl, csv, tsv, parquet; .gz, .zst, .bz2, .xz), a \
folder of `Dataset.save_to_disk`, or a Hub name user/name[:config]."
    tokenizer: Path
    "Tokenizer folder or vocabulary file."
    out: Path
    "Folder to write; parts that are finished there are kept."
    block_size: Annotated[int, at_least(3)] = 512
    "Tokens of a training sequence."
    form: Form = "single"
    "single: documents packed into blocks. continuation: pairs A, B where B continues A or not. structure: B follows \
A, precedes it, or comes from elsewhere (the objective mlm+sso needs this)."
    stride: Annotated[int, at_least(1)] = 1
    "Give 2^(blocks - 1) for a funnel with truncate_seq, so that it drops no token at the end of a row."
    passes: Annotated[int, at_least(1)] = 1
    "How many times to use the text, each time in another order or as other pairs."
    sentences: Sentences = "lines"
    "Where sentences end: at the end of a line, or at punctuation too."
    text_column: TextColumn = None
    validation_fraction: Annotated[float, FRACTION_FROM_0] = 0.01
    "Fraction of the documents to hold out."
    part_chars: Annotated[int, at_least(1)] = 32_000_000
    "Characters of text in each output file. Each worker needs a few times that in memory."
    seed: Annotated[int, SEED] = 42
    "Seed for the order of documents and for the pairs."
    engine: Engine = "local"
    "ray spreads the parts over a cluster, and writes the same bytes; --train may then also be a folder, and its names \
may begin with s3://."
    workers: Annotated[int | None, at_least(1)] = None
    "Number of processes; it does not change the result. By default one for each core, with ray for each CPU of the \
cluster."
    shard: str = "1/1"
    "Do share i of n of the work, such as 3/8. The n jobs fill the folder together, in any order."

    def __post_init__(self) -> None:
        self.tokenizer, self.out = Path(self.tokenizer), Path(self.out)
        check_ranges(self)
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard is {self.shard!r}; allowed: i/n with i from 1 to n, as 3/8")
        self.check_engine("workers", shard=None if self.shard == "1/1" else self.shard)
        if is_remote(as_url(self.out)):
            raise UserError(f"--out {as_url(self.out)}: name a folder; training maps the files into memory")
        self.rows  # noqa: B018 - checks the settings

    @property
    def rows(self) -> RowSettings:
        return RowSettings(**{name: getattr(self, name) for name in RowSettings.__dataclass_fields__})

    @property
    def job(self) -> tuple[int, int]:
        """This job's number from 1, and how many there are."""
        number, count = self.shard.split("/")
        return int(number), int(count)
