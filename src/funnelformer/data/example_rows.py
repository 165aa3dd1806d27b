"""Rows of examples in memory, by column: the part of `datasets.Dataset` that we use, without the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    import datasets

__all__ = ["Examples", "Rows"]

Examples: TypeAlias = Union["Rows", "datasets.Dataset"]


class Rows:
    """Columns of equal length; the methods are those of `datasets.Dataset` with the same name."""

    def __init__(
        self, columns: Mapping[str, list[Any]], features: Callable[[], datasets.Features] | None = None
    ) -> None:
        """columns: name -> values. features: returns their types, which `dataset` needs if values do not show them."""
        self._columns = dict(columns)
        self._features = features

    @classmethod
    def from_list(
        cls, rows: Sequence[Mapping[str, Any]], features: Callable[[], datasets.Features] | None = None
    ) -> Rows:
        """Rows from dictionaries, all with the keys of the first one."""
        return cls({name: [row[name] for row in rows] for name in rows[0]} if rows else {}, features)

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), []))

    def __getitem__(self, key: str | int) -> Any:
        """A column by its name, or a row by its number, counted from 0."""
        if isinstance(key, str):
            return self._columns[key]
        return {name: values[key] for name, values in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def to_dict(self) -> dict[str, list[Any]]:
        return dict(self._columns)

    def select(self, numbers: Sequence[int]) -> Rows:
        """The rows with these numbers, in the order given."""
        columns = {name: [values[i] for i in numbers] for name, values in self._columns.items()}
        return Rows(columns, self._features)

    def remove_columns(self, name: str) -> Rows:
        return Rows({key: values for key, values in self._columns.items() if key != name})

    def map(
        self,
        function: Callable[..., Mapping[str, list[Any]]],
        *,
        batched: bool,
        remove_columns: list[str],
        with_indices: bool = False,
        batch_size: int = 1000,
        **ignored: Any,
    ) -> Rows:
        """The rows that `function` makes of batches of these rows; only the columns that it returns are kept.

        function: is called with the columns of up to `batch_size` rows, and with their numbers if `with_indices`; it
            may return more or fewer rows.
        batched, remove_columns: must be True, and the names of all columns.
        ignored: arguments of `datasets` about storage and display: features, desc.
        """
        assert batched
        assert remove_columns == self.column_names
        found: dict[str, list[Any]] = {}
        for start in range(0, len(self), batch_size):
            numbers = range(start, min(start + batch_size, len(self)))
            batch = {name: values[start : numbers.stop] for name, values in self._columns.items()}
            made = function(batch, list(numbers)) if with_indices else function(batch)
            for name, values in made.items():
                found.setdefault(name, []).extend(values)
        return Rows(found)

    def dataset(self) -> datasets.Dataset:
        """The rows as a `datasets.Dataset`, which the Trainer and the cache of `datasets` need."""
        import datasets

        features = None if self._features is None else self._features()
        return datasets.Dataset.from_dict(self._columns, features=features)
