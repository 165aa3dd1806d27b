"""Check the values of a table: what counts as a text, a label or an amount, and which rows have one."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from ..base.errors import UserError, as_seen, did_you_mean, short
from .bad_rows import OnBadRow, refuse
from .example_rows import Rows
from .tables import Table, TaskColumns, check_column

if TYPE_CHECKING:
    import datasets

__all__ = [
    "BadValue",
    "Labels",
    "Reader",
    "TextKind",
    "build_labels",
    "check_rows",
    "load_task",
    "nearly_the_same",
    "read_amount",
    "read_label",
    "read_text",
    "text_problem",
    "written_list",
]

TextKind = Literal["classification", "regression", "multi-label"]
# Converts a value to what a model needs, or raises BadValue.
Reader = Callable[[Any], Any]

MAX_LABELS = 1000
_SHOWN_LABELS = 20


class BadValue(ValueError):  # noqa: N818 - a remark on a value, which `check_rows` makes a UserError
    """A value that cannot be used. The message continues "column 'x' ", as in "is empty"."""


def text_problem(value: Any) -> str | None:
    """Say in a few words why a value cannot be tokenised as a text; None if it can."""
    if not isinstance(value, str):
        return f"is not text but {short(value)}"
    if not value.strip():
        return "is empty"
    if "\0" in value:
        return "has the character NUL, which no text has; is the file UTF-16?"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell one as "\ud800"
        return "has half of a surrogate pair, which is not a character"
    return None


def read_text(value: Any) -> str:
    if problem := text_problem(value):
        raise BadValue(problem)
    text: str = value
    return text


def read_amount(value: Any) -> float:
    """Convert a number, or a text that spells one, to a float. Raises BadValue if it is not finite."""
    try:
        amount = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        amount = math.nan
    if not math.isfinite(amount):
        raise BadValue(f"is not a finite number ({short(value)})")
    return amount


def read_label(value: Any) -> str:
    """The name of a class, as text; a whole number has no ".0". Raises BadValue if there is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))  # pandas writes whole numbers beside a gap as 1.0
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if not isinstance(value, str) or not value.strip():
        raise BadValue(f"has no label ({short(value)})")
    return value


def written_list(value: Any) -> list[Any] | None:
    """The list that a text spells in JSON or Python, as in csv files ('["a", "b"]'); None for any other value."""
    if not isinstance(value, str) or not (value.strip().startswith("[") and value.strip().endswith("]")):
        return None
    try:
        found = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            found = json.loads(value)  # of true, false, null
        except (ValueError, RecursionError):
            return None
    return found if isinstance(found, list) else None


def _read_class(value: Any) -> str:
    """The name of a text's only class. Raises BadValue for a list."""
    if isinstance(value, list | tuple) or written_list(value) is not None:
        raise BadValue(f"has a list ({short(value)}); texts with several labels are for --multi-label")
    return read_label(value)


def read_several(value: Any, separator: str | None) -> list[str]:
    """The names of the classes of a text that may have any number of them; none for None or an empty value.

    value: a list, or a text that spells one ('["a", "b"]'), or one label. separator: cut a text at this string instead.
    Raises BadValue for a label that occurs twice, or that is not a name.
    """
    if value is None or value == "":
        return []
    if separator is None:
        spelt = written_list(value)
        value = value if spelt is None else spelt
    elif isinstance(value, str):
        value = [part.strip() for part in value.split(separator) if part.strip()]
    if not isinstance(value, list | tuple):
        value = [value]
    names = [read_label(item) for item in value]
    for name in names:
        if names.count(name) > 1:
            raise BadValue(f"has the label {name!r} twice")
    return names


@dataclass(frozen=True)
class Labels:
    """The class names of a classifier, in the order of their ids."""

    names: tuple[str, ...]

    @cached_property
    def id_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def settings(self) -> dict[str, Any]:
        """The keys id2label and label2id of a model's config."""
        return {"id2label": dict(enumerate(self.names)), "label2id": self.id_of}

    @classmethod
    def from_id2label(cls, id2label: Mapping[Any, str]) -> Labels:
        """Take the names from id2label of a model's config; its keys are ids, as numbers or (in raw JSON) as text.

        Raises UserError if two classes have one name, because a result by name would lose a probability.
        """
        by_id = {int(number): name for number, name in id2label.items()}
        names = tuple(str(by_id[number]) for number in sorted(by_id))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"model config: id2label has two classes with the name {short(twice)}")
        return cls(names)

    def id(self, name: str) -> int:
        """The id of a name. Raises BadValue for an unknown name."""
        if name not in self.id_of:
            shown = ", ".join(self.names[:_SHOWN_LABELS]) + (
                ", ..." if len(self.names) > _SHOWN_LABELS else ""
            )
            raise BadValue(
                f"has {short(name)}, which is not one of the model's labels{did_you_mean(name, self.names)}; "
                f"known labels: {shown}"
            )
        return self.id_of[name]

    def read(self, value: Any) -> int:
        """The id of the class that a value names. Raises BadValue for an unknown name."""
        return self.id(read_label(value))

    def read_several(self, value: Any, separator: str | None) -> list[float]:
        """A number for each class, in order: 1 if the value names it, else 0. Raises BadValue for an unknown name."""
        ids = {self.id(name) for name in read_several(value, separator)}
        return [float(number in ids) for number in range(len(self.names))]


def build_labels(
    table: Table,
    column: str,
    *,
    several: bool = False,
    separator: str | None = None,
    bad: OnBadRow = refuse,
) -> Labels:
    """Collect the labels of a training table and number them: by value if all are whole numbers, else by name.

    several: each row may have any number of labels, see `read_several`; otherwise it must have one.
    bad: is called with a message about a row without a label.
    Raises UserError if
    - there is no label, only one class, or more than `MAX_LABELS` classes;
    - every row has a class of its own (from 3 rows on, without `several`);
    - two labels look the same, because they differ only in white space or in the form of their characters;
    - with `several`, each row has a list of 0 and 1 instead of names.
    """
    read: Reader = (
        (lambda value: read_several(value, separator)) if several else lambda value: [_read_class(value)]
    )
    if several:
        _refuse_one_hot(table, column, separator)
    rows = check_rows(table, {"names": (column, read)}, bad)["names"]
    names = {name for row in rows for name in row}
    _refuse_alike(names, table.name, column)
    if len(names) == 1:
        raise UserError(f"only one class, {next(iter(names))!r}, in {table.name}: nothing to learn")
    if not names:
        raise UserError(f"{table.name}: column {column!r} has no label in any row")
    if len(names) > MAX_LABELS or (not several and len(names) == len(rows) > 2):
        raise UserError(
            f"{table.name}: column {column!r} has {len(names)} different labels in {len(rows)} rows, "
            "too many for classes; choose another with --label, or pass --regression when they are amounts"
        )
    return Labels(_ordered(names))


def _refuse_one_hot(table: Table, column: str, separator: str | None) -> None:
    """Raise UserError if every row has a list of 0 and 1 of one length: yes or no for each class, not names."""
    rows = [
        value for value in table.columns[check_column(column, table.columns, table.name)] if value is not None
    ]
    lists: list[Any] = [written_list(value) if separator is None else None for value in rows]
    lists = [
        value if isinstance(value, list | tuple) else spelt for value, spelt in zip(rows, lists, strict=True)
    ]
    if not lists or not all(isinstance(value, list | tuple) for value in lists):
        return
    sizes = {len(value) for value in lists}
    if (
        len(sizes) == 1
        and sizes.isdisjoint({0, 1})
        and all(item in (0, 1) for value in lists for item in value)
    ):
        raise UserError(
            f"{table.name}: column {column!r} has a list of {sizes.pop()} numbers 0 and 1 in every row, which look "
            "like yes or no to each label; write the names of the labels that a text has"
        )


def _refuse_alike(names: Iterable[str], where: str, column: str) -> None:
    """Raise UserError for two names that look the same (as white space or forms of a character) or are one number."""
    first: dict[str, str] = {}
    for name in sorted(names):
        key = as_seen(name)
        if re.fullmatch(r"[+-]?[0-9]+[.]0*", key):  # 1.0 is 1
            key = key.partition(".")[0]
        if key in first:
            raise UserError(
                f"{where}: column {column!r} has the labels {first[key]!r} and {name!r}, which differ "
                "only in white space or in how they are written; write them alike"
            )
        first[key] = name


def nearly_the_same(labels: Iterable[str]) -> str | None:
    """A warning about the first two labels that differ only in capital letters, or in zeros before a number.

    They stay two classes, but are often one that was meant. None if there are no such labels.
    """
    first: dict[str, str] = {}
    for name in labels:
        key = re.sub(r"^([+-]?)0+(?=[0-9]+$)", r"\1", name.casefold())
        if key in first:
            what = "capital letters" if name.casefold() == first[key].casefold() else "zeros before a number"
            return f"the labels {first[key]!r} and {name!r} differ only in {what}; they count as two classes"
        first[key] = name
    return None


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    names = list(names)
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def check_rows(
    table: Table, fields: Mapping[str, tuple[str, Reader]], bad: OnBadRow = refuse
) -> dict[str, list[Any]]:
    """Read some columns of a table, and keep the rows in which every value can be used.

    fields: name -> (column, reader); the reader converts a value, or raises BadValue.
    bad: is called for each other row, with a message about its first value that cannot be used; if it returns, the row
        is left out.
    Returns name -> the values that the reader gave, one for each row kept, in their order.
    Raises UserError for a column that the table does not have, and what `bad` raises.
    """
    columns = {
        name: (column, read, table.columns[check_column(column, table.columns, table.name)])
        for name, (column, read) in fields.items()
    }
    result: dict[str, list[Any]] = {name: [] for name in fields}
    for index in range(len(table)):
        row = {}
        for name, (column, read, values) in columns.items():
            try:
                row[name] = read(values[index])
            except BadValue as problem:
                bad(f"{table.where(index)}: column {column!r} {problem}")
                break
        else:
            for name, value in row.items():
                result[name].append(value)
    return result


def load_task(
    table: Table,
    columns: TaskColumns,
    *,
    kind: TextKind = "classification",
    labels: Labels | None = None,
    may_be_empty: bool = False,
    bad: OnBadRow = refuse,
) -> Rows:
    """Check the rows of a table and return what a model needs from them.

    columns: of the texts and, for training or evaluation, of the label. kind: what the label is.
    labels: the classes; needed if `columns` has a label, except for "regression".
    may_be_empty: also take an empty text, because leaderboards want an answer for it.
    bad: is called with a message about a row that cannot be used, see `check_rows`.
    Returns the columns `text`, `text_pair` (if `columns` has one) and `label` (likewise): a class id for
    "classification", a float for "regression", and for "multi-label" one float, 0 or 1, for each class.
    Raises UserError if a column is missing, or if no row can be used; ValueError if `labels` is needed but None.
    """
    read_one: Reader = (
        (lambda value: value if value == "" else read_text(value)) if may_be_empty else read_text
    )
    fields: dict[str, tuple[str, Reader]] = {"text": (columns.text, read_one)}
    if columns.text_pair is not None:
        fields["text_pair"] = (columns.text_pair, read_one)
    if columns.label is not None:
        fields["label"] = (columns.label, _target(kind, labels, columns.separator))
    data = check_rows(table, fields, bad)
    if not data["text"]:
        raise UserError(f"{table.name}: none of its {len(table)} rows can be used")
    return Rows(data, partial(_features, tuple(data), kind))


def _target(kind: TextKind, labels: Labels | None, separator: str | None) -> Reader:
    """The reader of labels of a kind."""
    if kind == "regression":
        return read_amount
    if labels is None:
        raise ValueError("load_task needs labels=, from build_labels or Labels.from_id2label, for classes")
    if kind == "multi-label":
        known = labels
        return lambda value: known.read_several(value, separator)
    return labels.read


def _features(names: Sequence[str], kind: TextKind) -> datasets.Features:
    """The types of the columns that `load_task` makes."""
    import datasets

    label: dict[TextKind, Any] = {
        "classification": datasets.Value("int64"),
        "regression": datasets.Value("float64"),
        "multi-label": datasets.List(datasets.Value("float32")),
    }
    text = datasets.Value("string")
    return datasets.Features({name: label[kind] if name == "label" else text for name in names})
