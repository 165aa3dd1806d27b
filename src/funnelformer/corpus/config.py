"""What `tokenizer` can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from ..base.options import Files, OutFolder, TextColumn, at_least, check_ranges, grouped

__all__ = ["TokenizerConfig"]


@grouped(
    most="train out vocab_size cased text_column",
    model="min_frequency max_length",
    output="overwrite",
)
@dataclass
class TokenizerConfig:
    """What `tokenizer` can be told."""

    train: Files
    "Text files or globs (txt, jsonl, csv, tsv, parquet; compressed or not)."
    out: OutFolder
    _: KW_ONLY
    vocab_size: Annotated[int, at_least(10)] = 30522
    "Largest size of the vocabulary."
    cased: bool = False
    "Keep capital letters and accents."
    min_frequency: Annotated[int, at_least(1)] = 2
    "Merge only pairs that occur at least this often."
    text_column: TextColumn = None
    max_length: Annotated[int, at_least(3)] = 512
    "Number of tokens, the two special ones included, after which the tokenizer cuts a text by default."
    overwrite: bool = False
    "Replace the tokenizer in a folder that is not empty."

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        check_ranges(self)
