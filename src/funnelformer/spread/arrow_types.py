"""Arrow types for the columns of a table that is read in chunks: each chunk may widen them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["common_schema"]


def common_schema(schema: pa.Schema | None, columns: dict[str, list[Any]], name: str) -> pa.Schema:
    """Widen a schema so that it also holds the values of another chunk of the table.

    schema: the types of the chunks before, None for the first chunk. columns: name -> values of this chunk; a name may
    be new, and one of `schema` may be missing here. name: the source, for messages.
    Returns the schema: first the columns that this chunk lacks, then those that it has. Numbers are widened (int64 and
    float64 become float64), and a column of nulls takes the type of its first values.
    Raises UserError naming the column if no one Arrow type holds its values, as of texts and numbers.
    """
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
                "change the column, or write another format, without --engine ray"
            ) from None
        fields.append(found)
    rest = [] if schema is None else [field for field in schema if field.name not in columns]
    return pa.schema([*rest, *fields])
