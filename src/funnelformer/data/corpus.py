"""Plain text for pretraining: stream documents, hold some out by hash, pack them into blocks of ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from funnelformer.data.files import expand_paths, iter_lines, plain_suffix
from funnelformer.data.tables import (
    FORMATS,
    check_column,
    guess_text_column,
    iter_rows,
    row_name,
    text_problem,
)
from funnelformer.errors import UserError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast

__all__ = ["Split", "in_validation", "iter_documents", "tokenize_corpus"]

Split = Literal["train", "validation"]

# A longer document of a text file is cut at a line end: memory stays constant where a file has no empty
# lines, and the hold-out can take a part of a book.
MAX_DOCUMENT_CHARS = 50_000
# The short block at the end of the corpus is worth keeping from this many tokens on.
MIN_TAIL_TOKENS = 32
_BATCH_CHARS = 1_000_000
_BATCH_DOCUMENTS = 1000
_FLUSH_TOKENS = 1 << 18  # few large pieces: faster to make and to index


def _text_documents(path: Path) -> Iterator[str]:
    lines: list[str] = []
    num_chars = 0
    for _, line in iter_lines(path):
        if line.strip():
            lines.append(line)
            num_chars += len(line) + 1
        if lines and (not line.strip() or num_chars > MAX_DOCUMENT_CHARS):
            yield "\n".join(lines)
            lines, num_chars = [], 0
    if lines:
        yield "\n".join(lines)


def _table_documents(path: Path, text_column: str | None) -> Iterator[str]:
    column: str | None = None
    for index, (line, row) in enumerate(iter_rows(path)):
        if column is None:  # the first row tells; later JSON objects may leave the column out
            if text_column is None:
                column = guess_text_column(list(row), str(path))
            else:
                column = check_column(text_column, row, str(path))
        text = row.get(column)
        if text is None or (isinstance(text, str) and not text.strip()):
            continue
        if problem := text_problem(text):
            raise UserError(f"{row_name(str(path), index, line)}: column {column!r} {problem}")
        yield text


def iter_documents(
    patterns: str | Path | Iterable[str | Path], text_column: str | None = None
) -> Iterator[str]:
    """Yield the documents of text files and tables, file by file in sorted order, in constant memory.

    patterns: names and globs. A .txt file has an empty line between documents (one that gets longer than
    `MAX_DOCUMENT_CHARS` is cut at a line end); a table (`tables.FORMATS`) has one document a row.
    Both may be compressed.
    text_column: the tables' column; by default the one that is plainly the text. Empty documents are skipped.
    Raises UserError for what cannot be read, an unknown format, and files without any text.
    """
    paths = expand_paths(patterns)
    for path in paths:
        if plain_suffix(path) not in (".txt", *FORMATS):
            known = ", ".join((".txt", *FORMATS))
            raise UserError(
                f"{path}: unknown format {plain_suffix(path)!r}; use one of {known}, or those with .gz"
            )
    empty = True
    for path in paths:
        is_text = plain_suffix(path) == ".txt"
        for document in _text_documents(path) if is_text else _table_documents(path, text_column):
            empty = False
            yield document
    if empty:
        names = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        raise UserError(f"{names}: there is no text in the corpus")


def in_validation(document: str, fraction: float) -> bool:
    """Tell whether a document belongs to the held-out part: by a hash of its text, so always the same way.

    fraction: expected share of documents, 0 to 1. Equal documents fall on the same side, and a document that
    is held out for one fraction is so for every larger one.
    """
    digest = hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _split_documents(documents: Iterable[str], split: Split, fraction: float) -> Iterator[str]:
    for document in documents:
        if in_validation(document, fraction) == (split == "validation"):
            yield document


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_chars = 0
    for document in documents:
        batch.append(document)
        num_chars += len(document)
        if num_chars >= _BATCH_CHARS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


@contextmanager
def _progress_line(show: bool) -> Iterator[Any]:
    """Give a function to call with the number of documents and tokens so far; the total is not known."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        task = progress.add_task("tokenising")

        def update(num_documents: int, num_tokens: int) -> None:
            text = f"tokenising: {num_documents:,} documents, {num_tokens:,} tokens"
            progress.update(task, description=text)

        yield update


def _token_stream(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, show_progress: bool
) -> Iterator[np.ndarray]:
    """Yield int32 arrays which joined are all documents' tokens, with one [SEP] between two documents."""
    num_documents = num_tokens = 0
    with _progress_line(show_progress) as update:
        for batch in _batches(documents):
            encoded = tokenizer(
                batch,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # documents longer than the model's limit are the rule here
            )
            for ids in encoded["input_ids"]:
                if not ids:  # nothing but control characters
                    continue
                if num_tokens:
                    yield np.array([tokenizer.sep_token_id], dtype=np.int32)
                yield np.array(ids, dtype=np.int32)
                num_tokens += len(ids)
            num_documents += len(batch)
            update(num_documents, num_tokens)


def _pack(stream: Iterable[np.ndarray], block_size: int, cls_id: int, sep_id: int) -> Iterator[np.ndarray]:
    """Cut a stream of tokens into arrays of rows `[CLS] tokens [SEP]`; the last may be one shorter row."""

    def framed(tokens: np.ndarray) -> np.ndarray:
        return np.pad(tokens, ((0, 0), (1, 1)), constant_values=((0, 0), (cls_id, sep_id)))

    def cut(held: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        joined = np.concatenate(held)
        num_full = len(joined) // body * body
        return framed(joined[:num_full].reshape(-1, body)), joined[num_full:]

    body = block_size - 2
    flush_tokens = max(body, _FLUSH_TOKENS)
    held: list[np.ndarray] = []
    num_held = 0
    for ids in stream:
        held.append(ids)
        num_held += len(ids)
        if num_held >= flush_tokens:
            rows, rest = cut(held)
            yield rows
            held, num_held = [rest], len(rest)
    if held:
        rows, rest = cut(held)
        if len(rows):
            yield rows
        if len(rest) >= MIN_TAIL_TOKENS:
            yield framed(rest[None])


def _arrow_table(rows: np.ndarray, cls_type_id: int) -> Any:
    import pyarrow as pa

    num_rows, length = rows.shape
    segments = np.zeros_like(rows)
    segments[:, 0] = cls_type_id
    offsets = pa.array(np.arange(0, num_rows * length + 1, length, dtype=np.int32))
    columns = {"input_ids": rows, "token_type_ids": segments}
    return pa.table({n: pa.ListArray.from_arrays(offsets, pa.array(v.ravel())) for n, v in columns.items()})


def tokenize_corpus(
    patterns: str | Path | Iterable[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    block_size: int,
    *,
    text_column: str | None = None,
    split: Split = "train",
    validation_fraction: float = 0.0,
    show_progress: bool = True,
) -> datasets.Dataset:
    """Tokenise a corpus and pack it into blocks `[CLS] tokens [SEP]` of exactly `block_size` ids.

    Documents follow one another with a [SEP] between two of them, so a block may hold parts of several. The
    last block is shorter, and dropped below `MIN_TAIL_TOKENS` tokens. The columns, lists of int32 in memory,
    are `input_ids`, and `token_type_ids`: the tokenizer's own for [CLS] (2 for the Funnel models), else 0.
    split, validation_fraction: which documents to take, those held out by `in_validation` or the others.
    Raises UserError as `iter_documents`, and when the documents taken do not fill one block.
    """
    import datasets
    import pyarrow as pa

    if block_size < 3:
        raise UserError(f"block_size: {block_size} has no room for a token between [CLS] and [SEP]")
    if not 0 <= validation_fraction < 1:
        raise UserError(f"validation_fraction: {validation_fraction} is not in the range from 0 to below 1")
    cls_type_id = next(iter(tokenizer("", return_token_type_ids=True)["token_type_ids"]), 0)
    documents = _split_documents(iter_documents(patterns, text_column), split, validation_fraction)
    stream = _token_stream(documents, tokenizer, show_progress)
    pieces = [
        _arrow_table(rows, cls_type_id)
        for rows in _pack(stream, block_size, tokenizer.cls_token_id, tokenizer.sep_token_id)
    ]
    if not pieces or len(pieces[0]["input_ids"][0]) < block_size:
        raise UserError(
            f"the {split} part of the corpus does not fill one block of {block_size} ids; "
            "give more text, a smaller block size"
            + (" or another validation fraction" if validation_fraction or split != "train" else "")
        )
    return datasets.Dataset(datasets.table.InMemoryTable(pa.concat_tables(pieces)))
