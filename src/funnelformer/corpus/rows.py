"""Training sequences as arrays and as an Arrow table; all rows have one width, so either is one block of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

__all__ = ["NO_LABEL", "Rows", "join_rows", "rows_of_table", "table_of_rows"]

NO_LABEL = -100  # label of a row without a second part; torch's cross-entropy ignores it


@dataclass(frozen=True)
class Rows:
    """N sequences `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, padded to L ids.

    input_ids: [N, L] int32. word_starts: [N, L] bool, True where a word or a special token begins.
    num_tokens: [N] int32, the number of ids that are not padding. second_start: [N] int32, where B begins, or
    `num_tokens` without a B. structure: [N] int16, the label of the pair (`pairs.FOLLOWS` ...), or `NO_LABEL`.
    """

    input_ids: np.ndarray
    word_starts: np.ndarray
    num_tokens: np.ndarray
    second_start: np.ndarray
    structure: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def block_size(self) -> int:
        return int(self.input_ids.shape[1])


def join_rows(parts: Sequence[Rows]) -> Rows:
    """All rows in order. There must be at least one part."""
    return Rows(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Rows)))


def table_of_rows(rows: Rows) -> pa.Table:
    """A table with a column for each field; matrices become lists of fixed length."""
    columns = {}
    for field in fields(Rows):
        values = getattr(rows, field.name)
        array = pa.array(values.ravel())
        columns[field.name] = (
            pa.FixedSizeListArray.from_arrays(array, values.shape[1]) if values.ndim == 2 else array
        )
    return pa.table(columns)


def rows_of_table(table: pa.Table) -> Rows:
    """The reverse of `table_of_rows`; it copies nothing if the table has one chunk."""

    def values(name: str) -> np.ndarray:
        column = table[name].combine_chunks()
        array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_fixed_size_list(array.type):
            width = array.type.list_size
            return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        return array.to_numpy()

    return Rows(*(values(field.name) for field in fields(Rows)))
