"""Tables of texts and labels: read them from files, folders or the Hub, and find their columns."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError, did_you_mean, one_line
from ..base.files import decode_lines, iter_lines, plain_suffix
from ..base.hub import reach_hub
from ..base.streams import stdin_bytes
from .bad_rows import OnBadRow, refuse
from .columns import check_names, plain_name
from .data_source import DataFolder, HubData, find_data
from .formats import FORMATS, Line, Row, arrow_columns, iter_rows, jsonl_rows, row_name, with_first
from .local_folder import check_saved, split_files, table_files

__all__ = [
    "Table",
    "TaskColumns",
    "check_column",
    "collect",
    "guess_columns",
    "guess_single_text",
    "guess_text_column",
    "iter_texts",
    "no_rows",
    "read_table",
    "read_text_table",
]

# In order of preference, compared in lower case.
_PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("question", "sentence"),
)
_TEXT_NAMES = ("text", "sentence", "content", "document", "review", "passage", "body", "article", "comment")
_LABEL_NAMES = ("label", "labels", "class", "target", "category", "gold", "gold_label", "score", "rating")
# What the split that selects the checkpoint is called.
_VALIDATION = ("validation", "valid", "val", "dev")


@dataclass(frozen=True)
class Table:
    """Rows of one source.

    name: the source, for messages. columns: name -> values, all of equal length. lines: for each row its line in the
    file, counted from 1; None if not known.
    """

    name: str
    columns: dict[str, list[Any]]
    lines: list[int | None]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """Name a row, counted from 0, for a message: "train.tsv: row 3 (line 4)"."""
        return row_name(self.name, index, self.lines[index])

    def rows(self) -> Iterator[Row]:
        """The rows one by one, each with its line."""
        names = list(self.columns)
        for line, *values in zip(self.lines, *self.columns.values(), strict=True):
            yield line, dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class TaskColumns:
    """The names of the columns that a task uses; None if the task has no such column.

    separator: the string between the labels of a text that may have several.
    """

    text: str
    text_pair: str | None = None
    label: str | None = None
    separator: str | None = None


# ---- tables


def no_rows(name: str) -> UserError:
    """The error to raise for a source without rows."""
    return UserError(f"{name}: there are no rows of data in it")


def collect(rows: Iterable[Row], name: str) -> Table:
    """Put rows into a table, with None where a row lacks a column. Raises UserError if there are no rows."""
    columns: dict[str, list[Any]] = {}
    lines: list[int | None] = []
    for index, (line, row) in enumerate(rows):
        for column, value in row.items():
            # `setdefault` would make a list of so many places for every row.
            if column not in columns:
                columns[column] = [None] * index
            columns[column].append(value)
        if len(row) < len(columns):  # a JSON object may leave a column out
            for values in columns.values():
                values.extend([None] * (index + 1 - len(values)))
        lines.append(line)
    if not lines:
        raise no_rows(name)
    return _table(name, columns, lines)


def _table(name: str, columns: dict[str, list[Any]], lines: list[int | None]) -> Table:
    names = [plain_name(column) for column in columns]
    check_names(names, f"{name}: the table")
    return Table(name, dict(zip(names, columns.values(), strict=True)), lines)


def read_table(source: str | Path, *, split: str | None = None, bad: OnBadRow = refuse) -> Table:
    """Read a table from a file, a folder, or a data set on the Hugging Face Hub.

    source: a file in one of `FORMATS`, compressed or not; a folder with one file for each split (`train.tsv`), or
        written by `Dataset.save_to_disk`, or in a layout that `datasets` knows; or a Hub name: `user/name`, `name`, or
        either with `:config`.
    split: the split to read, if the folder or Hub data set has several. "validation" may also be called valid, val or
        dev there. It is ignored for a file.
    bad: is called with a message about a row that cannot be read, see `iter_rows`.
    Raises UserError if the source cannot be read or has no rows, or if there is no such split.
    """
    found = find_data(source)
    if isinstance(found, DataFolder):
        return _read_folder(found, split, bad)
    if isinstance(found, HubData):
        return _read_hub(found, str(source), split)
    return _read_file(found.path, bad)


def _read_file(path: Path, bad: OnBadRow) -> Table:
    return _with_class_names(collect(iter_rows(path, bad=bad), str(path)), [path])


def _names_of(split: str) -> tuple[str, ...]:
    """The names under which to look for a split; the given one comes first."""
    return (split, *_VALIDATION) if split in _VALIDATION else (split,)


def _read_folder(found: DataFolder, split: str | None, bad: OnBadRow) -> Table:
    folder, saved = found.path, found.is_saved
    files = [] if saved else table_files(folder)
    tables = [path for path in files if path.parent == folder]
    for name in (None,) if split is None else _names_of(split):
        wanted = [path for path in tables if name in (None, path.name.partition(".")[0])]
        if len(wanted) == 1:
            return _read_file(wanted[0], bad)
    # Several csv or tsv files are not joined into one table: the user names one of them.
    if any(plain_suffix(path) in (".csv", ".tsv") for path in files):
        called = "" if split is None else f" called {split}"
        names = [str(path.relative_to(folder)) for path in files]
        known = ", ".join(names if len(names) <= 8 else [*names[:8], "..."])
        raise UserError(f"{folder}: no single table{called} in this folder; name a file of it: {known}")

    if saved:
        import datasets

        check_saved(folder)
        try:
            data = datasets.load_from_disk(str(folder))
        except Exception as error:  # from Arrow, JSON or features; they have no common base class
            raise UserError(f"{folder}: this folder cannot be read as a table ({one_line(error)})") from error
        return _from_datasets(data, str(folder), split)
    splits = split_files(folder, files)
    if not splits:
        raise UserError(f"{folder}: no table in this folder; allowed formats: {', '.join(FORMATS)}")
    chosen = _choose(splits, str(folder), split)
    rows = itertools.chain.from_iterable(iter_rows(path, bad=bad) for path in splits[chosen])
    table = collect(rows, f"{folder} [{chosen}]")
    # With several files, a line number does not say in which file.
    table = table if len(splits[chosen]) == 1 else dataclasses.replace(table, lines=[None] * len(table))
    return _with_class_names(table, splits[chosen])


def _with_class_names(table: Table, files: Sequence[Path]) -> Table:
    """Replace class numbers by names, in a table from parquet files that `datasets` wrote."""
    if any(path.suffix.lower() != ".parquet" for path in files):
        return table
    import datasets
    import pyarrow.parquet as pq

    schema = pq.read_schema(files[0])
    if b"huggingface" not in (schema.metadata or {}):
        return table
    try:
        features = datasets.Features.from_arrow_schema(schema)
    except Exception as error:  # from JSON, or a type that `datasets` does not know
        raise UserError(
            f"{files[0]}: its metadata of `datasets` cannot be read ({one_line(error)})"
        ) from error
    columns = dict(table.columns)
    _name_classes(columns, features)
    return dataclasses.replace(table, columns=columns)


def _name_classes(columns: dict[str, list[Any]], features: Mapping[str, Any]) -> None:
    import datasets

    for column, feature in features.items():
        if column not in columns:
            continue
        if isinstance(feature, datasets.ClassLabel):  # stored as numbers; by custom, -1 is "no label"
            names = [*feature.names, None]
            columns[column] = [names[-1 if i is None else i] for i in columns[column]]
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.ClassLabel):
            columns[column] = [row and [feature.feature.names[i] for i in row] for row in columns[column]]


def _read_hub(found: HubData, name: str, split: str | None) -> Table:
    import datasets

    repository = found.repository
    try:
        reach_hub(repository, "dataset")
        data = datasets.load_dataset(repository, found.config)
    except UserError:
        raise
    except Exception as error:  # network, Hub and builder errors have no common base class
        near = sorted(entry.name for entry in Path(repository).parent.glob("*"))
        hint = did_you_mean(Path(repository).name, near)
        raise UserError(f"{name}: no such file{hint}, nor a data set ({one_line(error)})") from error
    return _from_datasets(data, name, split)


def _choose(splits: Iterable[str], name: str, split: str | None) -> str:
    """The split that you ask for, or the only one. Raises UserError if there is no such split, or no single one."""
    splits = list(splits)
    known = ", ".join(splits)
    if split is None and len(splits) > 1:
        raise UserError(f"{name}: has the splits {known}; name one of them")
    found = splits if split is None else [key for key in _names_of(split) if key in splits]
    if not found:
        raise UserError(f"{name}: no split {split!r}{did_you_mean(str(split), splits)}; it has {known}")
    return found[0]


def _from_datasets(data: Any, name: str, split: str | None) -> Table:
    if isinstance(data, Mapping):
        data = data[_choose(data, name, split)]
        name = f"{name} [{data.split}]" if data.split else name
    columns = arrow_columns(data.with_format("arrow")[:], name)
    _name_classes(columns, data.features)
    if len(data) == 0:
        raise no_rows(name)
    return _table(name, columns, [None] * len(data))


def read_text_table(source: str | Path) -> Table:
    """Read texts to predict on into a table, from all that `iter_texts` reads, or from stdin if `source` is "-"."""
    name, rows = iter_texts(source, stdin_bytes() if str(source) == "-" else None)
    return collect(rows, name)


def iter_texts(source: str | Path, stdin: Iterable[bytes] | None = None) -> tuple[str, Iterator[Row]]:
    """Return a name for messages, and an iterator over the rows of texts to predict on.

    source: a table as for `read_table`, or a .txt file with one text on each line. It is ignored if `stdin` is given.
    stdin: lines of text, or JSON lines if the first character that is not white space is "{".
    Plain text becomes the column "text"; its blank lines are rows too, so that messages can name them. A file is read
    piece by piece, see `iter_rows`; a folder or Hub data set is read into memory.
    Raises UserError as `read_table` does, also while the rows are read.
    """
    path = Path(source)
    if stdin is not None:
        first, lines = with_first(decode_lines(stdin, "stdin"))
        return "stdin", jsonl_rows(lines, "stdin") if first == "{" else _text_rows(lines)
    if plain_suffix(source) == ".txt":
        return str(source), _text_rows(iter_lines(source))
    if path.is_file() and plain_suffix(path) in FORMATS:
        return str(source), iter_rows(path)
    table = read_table(source)
    return table.name, table.rows()


def _text_rows(lines: Iterable[Line]) -> Iterator[Row]:
    return ((number, {"text": line}) for number, line in lines)


# ---- columns


def check_column(column: str, names: Iterable[str], where: str) -> str:
    """Return a column's name if it is one of `names`. Raises UserError, with the nearest name and all names, if not."""
    names = list(names)
    if column not in names:
        known = ", ".join(repr(name) for name in names)
        raise UserError(f"{where}: no column {column!r}{did_you_mean(column, names)}; it has {known}")
    return column


def _first_named(wanted: Iterable[str], names: Iterable[str], where: str) -> str | None:
    """The column with the first of the wanted names, in upper or lower case. Raises UserError if two have that name."""
    by_lower: dict[str, list[str]] = {}
    for name in names:
        by_lower.setdefault(name.lower(), []).append(name)
    found = next((by_lower[name] for name in wanted if name in by_lower), None)
    if found and len(found) > 1:
        known = " and ".join(map(repr, found))
        raise UserError(
            f"{where}: has the columns {known}, either of which could be meant by {found[0].lower()!r}; say which "
            "with --text, --text-pair and --label"
        )
    return found[0] if found else None


def guess_text_column(names: Sequence[str], where: str) -> str:
    """Return the column that is clearly the text: by its name, or because it is the only one apart from the label.

    Raises UserError, which asks for --text, if no column is clearly the text.
    """
    label = _first_named(_LABEL_NAMES, names, where)
    # A column without a name is the number of the row, as pandas writes it.
    rest = [name for name in names if name != label and name.strip()] or list(names)
    found = _first_named(_TEXT_NAMES, rest, where) or (rest[0] if len(rest) == 1 else None)
    if found is None:
        known = ", ".join(repr(name) for name in names)
        raise UserError(f"{where}: cannot tell which column is the text; set --text to one of {known}")
    return found


def guess_columns(
    table: Table,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    need_label: bool = True,
) -> tuple[TaskColumns, list[str]]:
    """Check the column names that were given and guess the others.

    Only well-known names are guessed. A pair is guessed only if neither of its texts is given. need_label: guess the
    label too, and refuse a table in which none is clear.
    Returns the columns, and a message for each guess.
    Raises UserError if a given column does not exist or is given twice, or if no guess is clear.
    """
    names = list(table.columns)
    given = [name for name in (text, text_pair, label) if name is not None]
    for name in given:
        check_column(name, names, table.name)
        if given.count(name) > 1:
            raise UserError(f"{table.name}: column {name!r} was given twice")
    free = [name for name in names if name not in given]
    messages = []

    def guessed(column: str, role: str, option: str) -> str:
        free.remove(column)
        messages.append(f"using column {column!r} as the {role} (guessed; set it with {option})")
        return column

    label_name = label or _first_named(_LABEL_NAMES, free, table.name)
    if text is None and text_pair is None:
        for pair in _PAIR_NAMES:
            first, second = (_first_named([name], free, table.name) for name in pair)
            if first and second:
                text, text_pair = (
                    guessed(first, "text", "--text"),
                    guessed(second, "second text", "--text-pair"),
                )
                break
    if text is None:
        candidates = [name for name in free if name != label_name] or free
        text = guessed(guess_text_column(candidates, table.name), "text", "--text")
    if label is None and need_label:
        if label_name is None or label_name not in free:
            known = ", ".join(repr(name) for name in free) or "(none left)"
            raise UserError(
                f"{table.name}: cannot tell which column is the label; set --label to one of {known}"
            )
        label = guessed(label_name, "label", "--label")
    return TaskColumns(text, text_pair, label), messages


def guess_single_text(table: Table, text: str | None) -> tuple[str, list[str]]:
    """The column of the only text, and messages, see `guess_columns`. Raises UserError also for a pair of texts."""
    columns, messages = guess_columns(table, text=text, need_label=False)
    if columns.text_pair is not None:
        raise UserError(
            f"{table.name}: has two columns of texts, {columns.text!r} and {columns.text_pair!r}; "
            "choose one with --text"
        )
    return columns.text, messages
