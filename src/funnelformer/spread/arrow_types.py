"""The types of Arrow that hold the values of a table's columns, chunk after chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["common_schema"]


def common_schema(schema: pa.Schema | None, columns: dict[str, list[Any]], name: str) -> pa.Schema:
    """The types that hold these values and those before. Raises UserError for a column that has no type."""
    import pyarrow as pa

    fields = []
    for column, values in columns.items():
        try:
            found = pa.field(column, pa.array(values).type)
            before = None if schema is None or column not in schema.names else schema.field(column)
            if before is not None:
                both = [pa.schema([before]), pa.schema([found])]
                found = pa.unify_schemas(both, promote_options="permissive").field(column)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            problem = "values of several types" if isinstance(error, pa.ArrowException) else "a value"
            if isinstance(error, UnicodeEncodeError):
                problem = "half of a surrogate pair"
            raise UserError(
                f"{name}: column {column!r} has {problem}, which parquet cannot hold ({one_line(error)}); "
                "write .jsonl or .npy"
            ) from None
        fields.append(found)
    rest = [] if schema is None else [field for field in schema if field.name not in columns]
    return pa.schema([*rest, *fields])
