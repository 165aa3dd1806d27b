"""Tables of texts and labels: read the formats, find the columns, check every row, number the labels."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funnelformer.data.files import (
    check_file,
    decode_lines,
    iter_lines,
    plain_suffix,
    read_bytes,
)
from funnelformer.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import datasets

__all__ = [
    "FORMATS",
    "Labels",
    "Table",
    "TaskColumns",
    "build_labels",
    "check_column",
    "check_texts",
    "guess_columns",
    "guess_text_column",
    "iter_rows",
    "load_task",
    "parse_scores",
    "read_table",
    "read_texts",
    "row_name",
    "text_problem",
]

MAX_LABELS = 1000
_SHOWN_LABELS = 20

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

Line = tuple[int, str]
Row = tuple[int | None, dict[str, Any]]


def row_name(name: str, index: int, line: int | None) -> str:
    """Return "train.tsv: row 3 (line 4)" for row 2 counted from 0, without the line when it is None."""
    return f"{name}: row {index + 1}" + (f" (line {line})" if line is not None else "")


@dataclass(frozen=True)
class Table:
    """Rows of one source: `columns` of equal length, and each row's line in the file (None: not known)."""

    name: str
    columns: dict[str, list[Any]]
    lines: list[int | None]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """Name a row, counted from 0, for a message: "train.tsv: row 3 (line 4)"."""
        return row_name(self.name, index, self.lines[index])


@dataclass(frozen=True)
class TaskColumns:
    """The columns a task uses; None for a column the task does not have."""

    text: str
    text_pair: str | None = None
    label: str | None = None


# ---- rows of one file


def _fields(names: list[str], fields: list[str], name: str, line: int) -> dict[str, str]:
    if len(fields) != len(names):
        raise UserError(f"{name}: line {line}: {len(fields)} fields, but the header has {len(names)}")
    return dict(zip(names, fields, strict=True))


def _header(names: list[str], name: str) -> list[str]:
    for column in names:
        if names.count(column) > 1:
            raise UserError(f"{name}: line 1: the header names column {column!r} twice")
    return names


def _tsv_rows(lines: Iterator[Line], name: str) -> Iterator[Row]:
    _, first = next(lines)
    names = _header(first.split("\t"), name)
    for number, line in lines:
        if line or len(names) == 1:
            yield number, _fields(names, line.split("\t"), name, number)


def _csv_rows(lines: Iterator[Line], name: str) -> Iterator[Row]:
    reader = csv.reader((line + "\n" for _, line in lines), strict=True)
    names: list[str] | None = None
    while True:
        start = reader.line_num + 1
        # The limit is global to the process and 128 KiB by default, less than a long document.
        limit = csv.field_size_limit(sys.maxsize)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{name}: line {start}: not valid CSV ({error})") from error
        finally:
            csv.field_size_limit(limit)
        if fields is None:
            return
        if not fields:
            continue
        if names is None:
            names = _header(fields, name)
        else:
            yield start, _fields(names, fields, name, start)


def _parse_json(text: str, name: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{name}: line {first_line + error.lineno - 1}"
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{name}: line {first_line}: not usable JSON ({_one_line(error)})") from error


def _json_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object of columns, found {type(value).__name__}")
    return value


def _jsonl_rows(lines: Iterable[Line], name: str) -> Iterator[Row]:
    for number, line in lines:
        if line.strip():
            value = _parse_json(line, name, number)
            yield number, _json_object(value, f"{name}: line {number}")


def _json_rows(lines: Iterator[Line], name: str) -> Iterator[Row]:
    """Read an array of objects, in memory; a file that does not start with "[" is read as JSON lines."""
    kept = list(lines)
    if not next((line for _, line in kept if line.strip()), "").lstrip().startswith("["):
        yield from _jsonl_rows(kept, name)
        return
    values = _parse_json("\n".join(line for _, line in kept), name, 1)
    for index, value in enumerate(values):
        yield None, _json_object(value, f"{name}: row {index + 1}")


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    compressed = path.suffix.lower() != ".parquet"
    source = io.BytesIO(read_bytes(path)) if compressed else check_file(path)
    try:
        with pq.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield None, row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({_one_line(error)})") from error


_READERS: dict[str, Callable[[Iterator[Line], str], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
}
FORMATS = (*_READERS, ".parquet")


def iter_rows(path: str | Path) -> Iterator[Row]:
    """Yield (line number or None, {column: value}) of a file, in constant memory but for a JSON array.

    csv has RFC 4180 quoting, tsv has none; both need a header, skip blank lines, and give every value as
    text. Any format may be compressed (.gz, .bz2, .xz, .zst). Raises UserError with the line of a bad row.
    """
    path = Path(path)
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix not in _READERS:
        check_file(path)
        raise UserError(
            f"{path}: unknown format {suffix!r}; use one of {', '.join(FORMATS)}, or those with .gz"
        )
    return _READERS[suffix](iter_lines(path), str(path))


# ---- tables


def _collect(rows: Iterable[Row], name: str) -> Table:
    columns: dict[str, list[Any]] = {}
    lines: list[int | None] = []
    for index, (line, row) in enumerate(rows):
        for column, value in row.items():
            columns.setdefault(column, [None] * index).append(value)
        if len(row) < len(columns):  # a JSON object may leave a column out
            for values in columns.values():
                values.extend([None] * (index + 1 - len(values)))
        lines.append(line)
    if not lines:
        raise UserError(f"{name}: there are no rows of data in it")
    return Table(name, columns, lines)


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def read_table(source: str | Path, *, split: str | None = None) -> Table:
    """Read a table from a file, a folder, or a data set on the Hugging Face Hub.

    source: a file of one of `FORMATS`, compressed or not; a folder with one file a split (`train.tsv`),
    written by `Dataset.save_to_disk`, or in a layout `datasets` knows; or a Hub name, `user/name` or
    `name:config`.
    split: which part of a folder or Hub data set, needed when it has several; a file has only one.
    Raises UserError when it cannot be read or has no rows.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, split)
    is_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", str(source)) and not str(source).startswith(".")
    if path.exists() or plain_suffix(path) in FORMATS or not is_name:
        return _collect(iter_rows(path), str(source))
    return _read_hub(str(source), split)


def _read_folder(folder: Path, split: str | None) -> Table:
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    files = [] if saved else [path for path in folder.iterdir() if plain_suffix(path) in FORMATS]
    # Our own readers, not the csv builder of `datasets`: that one turns the text "NA" into a missing value.
    wanted = [path for path in files if split is None or path.name.partition(".")[0] == split]
    if len(wanted) == 1:
        return _collect(iter_rows(wanted[0]), str(wanted[0]))

    import datasets

    try:
        data = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(str(folder))
    except Exception as error:  # anything a builder may raise
        raise UserError(f"{folder}: no table can be read from this folder ({_one_line(error)})") from error
    return _from_datasets(data, str(folder), split)


def _read_hub(name: str, split: str | None) -> Table:
    import datasets

    repository, _, config = name.partition(":")
    try:
        data = datasets.load_dataset(repository, config or None)
    except Exception as error:  # network, Hub and builder errors have no common base class
        near = sorted(entry.name for entry in Path(repository).parent.glob("*"))
        hint = did_you_mean(Path(repository).name, near)
        raise UserError(f"{name}: no such file{hint}, nor a data set ({_one_line(error)})") from error
    return _from_datasets(data, name, split)


def _from_datasets(data: Any, name: str, split: str | None) -> Table:
    import datasets

    if isinstance(data, Mapping):
        known = ", ".join(data)
        if split is None and len(data) > 1:
            raise UserError(f"{name}: has the splits {known}; name one of them")
        if split is not None and split not in data:
            raise UserError(f"{name}: no split {split!r}{did_you_mean(split, data)}; it has {known}")
        data = data[split or next(iter(data))]
        name = f"{name} [{data.split}]" if data.split else name
    columns = data.with_format("arrow")[:].to_pydict()
    for column, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):  # stored as numbers; -1 is the custom for "no label"
            names = [*feature.names, None]
            columns[column] = [names[-1 if i is None else i] for i in columns[column]]
    if len(data) == 0:
        raise UserError(f"{name}: there are no rows of data in it")
    return Table(name, columns, [None] * len(data))


def read_texts(source: str | Path) -> Table:
    """Read texts to predict on: a table as `read_table`, a .txt file with one text a line, or "-" for stdin.

    stdin has one text a line, or JSON lines when its first character is "{". Plain text becomes column
    `text`. Blank lines of plain text stay rows, so that `check_texts` can name them. Raises UserError as
    `read_table`.
    """
    if str(source) != "-":
        if plain_suffix(source) != ".txt":
            return read_table(source)
        name, lines = str(source), list(iter_lines(source))
    else:
        name, lines = "stdin", list(decode_lines(sys.stdin.buffer, "stdin"))
        if next((line for _, line in lines if line.strip()), "").lstrip().startswith("{"):
            return _collect(_jsonl_rows(lines, name), name)
    return _collect(((number, {"text": line}) for number, line in lines), name)


# ---- columns


def check_column(column: str, names: Iterable[str], where: str) -> str:
    """Return `column` when it is one of `names`; otherwise raise UserError with the nearest and all."""
    names = list(names)
    if column not in names:
        known = ", ".join(repr(name) for name in names)
        raise UserError(f"{where}: no column {column!r}{did_you_mean(column, names)}; it has {known}")
    return column


def _first_named(wanted: Iterable[str], names: Iterable[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(list(names))}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def guess_text_column(names: Sequence[str], where: str) -> str:
    """Return the column that is plainly the text: by its name, or the only one beside the label.

    Raises UserError, asking for --text, when it is not plain.
    """
    label = _first_named(_LABEL_NAMES, names)
    rest = [name for name in names if name != label] or list(names)
    found = _first_named(_TEXT_NAMES, rest) or (rest[0] if len(rest) == 1 else None)
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
    """Check the column names that were given, guess the others, and say in words what was guessed.

    Only plain names are guessed. A pair is guessed only when neither of its texts was given. Without
    `need_label` no label is guessed. Raises UserError for a name that is not there, one used twice, or no
    plain guess.
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

    label_name = label or _first_named(_LABEL_NAMES, free)
    if text is None and text_pair is None:
        for pair in _PAIR_NAMES:
            first, second = (_first_named([name], free) for name in pair)
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


# ---- values


def text_problem(value: Any) -> str | None:
    """Say in a few words why a value cannot be tokenised as a text; None when it can."""
    if not isinstance(value, str):
        return f"is not text but {_short(value)}"
    if not value.strip():
        return "is empty"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell one as "\ud800"
        return "has half of a surrogate pair, which is not a character"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_texts(table: Table, column: str) -> list[str]:
    """Return a column of texts; raise UserError for the first row that is empty, not text, or not Unicode."""
    values = table.columns[check_column(column, table.columns, table.name)]
    for index, value in enumerate(values):
        if problem := text_problem(value):
            raise UserError(f"{table.where(index)}: column {column!r} {problem}")
    return values


def _label_texts(table: Table, column: str) -> list[str]:
    values = table.columns[check_column(column, table.columns, table.name)]
    texts = []
    for index, value in enumerate(values):
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            value = str(int(value))  # pandas writes whole numbers beside a gap as 1.0
        elif isinstance(value, float) and math.isfinite(value):
            value = repr(value)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{table.where(index)}: column {column!r} has no label ({_short(value)})")
        texts.append(value)
    return texts


@dataclass(frozen=True)
class Labels:
    """The class names of a classifier, in the order of their ids."""

    names: tuple[str, ...]

    @cached_property
    def id_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @classmethod
    def from_id2label(cls, id2label: Mapping[Any, str]) -> Labels:
        """Take the names from a model's config, whose keys are ids (numbers, or text in raw JSON)."""
        by_id = {int(number): name for number, name in id2label.items()}
        return cls(tuple(str(by_id[number]) for number in sorted(by_id)))

    def encode(self, table: Table, column: str) -> list[int]:
        """Return each row's label id; raise UserError for a missing one or one not seen in training."""
        texts = _label_texts(table, column)
        for index, text in enumerate(texts):
            if text not in self.id_of:
                shown = ", ".join(self.names[:_SHOWN_LABELS]) + (
                    ", ..." if len(self.names) > _SHOWN_LABELS else ""
                )
                raise UserError(
                    f"{table.where(index)}: label {_short(text)} was not seen in training"
                    f"{did_you_mean(text, self.names)}; known labels: {shown}"
                )
        return [self.id_of[text] for text in texts]


def build_labels(table: Table, column: str) -> Labels:
    """Number the labels of a training table: in numeric order when all are whole numbers, else sorted.

    Raises UserError for a missing label, one class only, more than `MAX_LABELS`, or (from 3 rows on) as many
    classes as rows.
    """
    texts = _label_texts(table, column)
    names = set(texts)
    if len(names) == 1:
        raise UserError(f"only one class, {texts[0]!r}, in {table.name}: nothing to learn")
    if len(names) > MAX_LABELS or len(names) == len(texts) > 2:
        raise UserError(
            f"{table.name}: column {column!r} has {len(names)} different labels in {len(texts)} rows, "
            "too many for classes; choose another with --label, or pass --regression when they are amounts"
        )
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return Labels(tuple(sorted(names, key=lambda name: (int(name), name))))
    return Labels(tuple(sorted(names)))


def parse_scores(table: Table, column: str) -> list[float]:
    """Return a column of numbers for regression; raise UserError for the first that is not a finite one."""
    values = table.columns[check_column(column, table.columns, table.name)]
    scores = []
    for index, value in enumerate(values):
        try:
            score = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            raise UserError(
                f"{table.where(index)}: column {column!r} is not a finite number ({_short(value)})"
            )
        scores.append(score)
    return scores


def load_task(
    table: Table, columns: TaskColumns, *, labels: Labels | None = None, regression: bool = False
) -> datasets.Dataset:
    """Check one table and return what a model needs of it, row for row.

    The fields are `text`, `text_pair` when `columns` has one, and `label` when `columns` has one: the class
    id by `labels`, or with `regression` a float. Raises UserError for a missing column and for the first bad
    row; ValueError when a class label is asked for without `labels`.
    """
    import datasets

    data: dict[str, list[Any]] = {"text": check_texts(table, columns.text)}
    features: dict[str, Any] = {"text": datasets.Value("string")}
    if columns.text_pair is not None:
        data["text_pair"] = check_texts(table, columns.text_pair)
        features["text_pair"] = datasets.Value("string")
    if columns.label is not None and regression:
        data["label"] = parse_scores(table, columns.label)
        features["label"] = datasets.Value("float64")
    elif columns.label is not None:
        if labels is None:
            raise ValueError(
                "load_task needs labels=, from build_labels or Labels.from_id2label, for classes"
            )
        data["label"] = labels.encode(table, columns.label)
        features["label"] = datasets.Value("int64")
    return datasets.Dataset.from_dict(data, features=datasets.Features(features))
