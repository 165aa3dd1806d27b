"""From documents to training rows: hold some out, tokenise, pack or pair them, in independent parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..base.errors import UserError
from ..base.progress import counting
from .blocks import pack_rows
from .documents import Split, in_validation, iter_documents
from .encode import encode_documents
from .pairs import ELSEWHERE, FOLLOWS, PRECEDES, pair_rows
from .row_settings import RowSettings
from .rows import Rows, join_rows, table_of_rows

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast

__all__ = ["BuiltPart", "build_part", "iter_parts", "rows_from_text"]

D = TypeVar("D", bound=Any)

_LABELS = {"continuation": (FOLLOWS, ELSEWHERE), "structure": (FOLLOWS, PRECEDES, ELSEWHERE)}
SPLITS: tuple[Split, ...] = ("train", "validation")
TOO_FEW_DOCUMENTS = "there is one document to train on, but a part B from elsewhere needs two; give more text"


@dataclass(frozen=True)
class BuiltPart:
    """The rows of one part and split. document_lengths: tokens of each document they were made from."""

    rows: Rows
    document_lengths: np.ndarray


def iter_parts(
    documents: Iterable[D], part_chars: int, length: Callable[[D], int] = len
) -> Iterator[list[D]]:
    """Cut a stream of documents into lists of at least `part_chars` characters; the same documents give the same lists.

    What is left at the end joins the list before it if it is shorter than half of that.
    length: gives the number of characters of a document.
    """
    ready: list[D] | None = None
    part: list[D] = []
    num_chars = 0
    for document in documents:
        part.append(document)
        num_chars += length(document)
        if num_chars >= part_chars:
            if ready is not None:
                yield ready
            ready, part, num_chars = part, [], 0
    if ready is not None and num_chars < part_chars / 2:
        ready, part = ready + part, []
    yield from (documents for documents in (ready, part) if documents)


def build_part(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, settings: RowSettings, key: tuple[int, ...]
) -> dict[Split, BuiltPart]:
    """Make the rows of one part of the text, by split; they depend only on the arguments.

    key: the numbers of the part. Together with the seed they decide the order of its documents, and its pairs.
    """
    split_of = [in_validation(document, settings.validation_fraction) for document in documents]
    ids = (settings.block_size, settings.num_usable)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    built: dict[Split, BuiltPart] = {}
    for number, split in enumerate(SPLITS):
        own = [text for text, held in zip(documents, split_of, strict=True) if held == bool(number)]
        text = encode_documents(own, tokenizer, settings.sentences)
        if not text.num_documents:
            continue
        passes = []
        for number_of_pass in range(settings.passes):
            generator = np.random.default_rng((settings.seed, *key, number, number_of_pass))
            order = generator.permutation(text.num_documents)
            if settings.form == "single":
                passes.append(pack_rows(text, order, *ids, *special))
            else:
                passes.append(pair_rows(text, order, _LABELS[settings.form], generator, *ids, *special))
        built[split] = BuiltPart(join_rows(passes), text.document_lengths)
    return built


def rows_from_text(
    patterns: str | Path | Iterable[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    settings: RowSettings,
    text_column: str | None = None,
) -> dict[Split, datasets.Dataset]:
    """Make the rows of a corpus in memory, for texts so small that they need not be prepared on disk.

    Raises UserError as `iter_documents` does, and if the documents of a split do not fill one row.
    """
    import datasets

    parts: dict[Split, list[Rows]] = {}
    with counting("tokenising", sys.stderr.isatty()) as count:
        documents = iter_documents(patterns, text_column)
        for number, part in enumerate(iter_parts(documents, settings.part_chars)):
            for split, built in build_part(part, tokenizer, settings, (0, number)).items():
                parts.setdefault(split, []).append(built.rows)
                count(len(built.document_lengths), int(built.document_lengths.sum()))
    wanted = SPLITS if settings.validation_fraction else SPLITS[:1]
    result: dict[Split, datasets.Dataset] = {}
    for split in wanted:
        rows = join_rows(parts[split]) if split in parts else None
        check_filled(split, rows, settings)
        assert rows is not None
        result[split] = datasets.Dataset(datasets.table.InMemoryTable(table_of_rows(rows)))
    return result


def check_filled(split: Split, rows: Rows | None, settings: RowSettings) -> None:
    """Raise UserError if a split has no rows, or if text is packed and no row is full."""
    if settings.form == "single":
        if rows is not None and len(rows) and rows.num_tokens[0] == settings.num_usable:
            return
        remedy = "give more text, a smaller block size"
        raise UserError(
            f"the {split} part of the corpus does not fill one block of {settings.block_size} ids; {remedy}"
            + (" or another validation fraction" if settings.validation_fraction else "")
        )
    if rows is None or not len(rows):
        raise UserError(
            f"the {split} part of the corpus gives no pair of sentences; pairs need two documents, "
            "and documents of two sentences (one on each line; --sentences punctuation also cuts lines)"
        )
    if split == "train" and ELSEWHERE not in rows.structure:
        raise UserError(f"--train: {TOO_FEW_DOCUMENTS}")
