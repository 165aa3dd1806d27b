"""One table of rules for what a table may hold, tried on every format: csv, tsv, JSON lines, parquet, Arrow."""

from __future__ import annotations

import csv
import io
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.support import table, write
from funnelformer.base.errors import UserError
from funnelformer.data.tables import guess_columns, read_table
from funnelformer.data.values import build_labels, load_task, nearly_the_same
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.releases import find_task
from funnelformer.tasks.task import read_part

FORMATS = ("csv", "tsv", "jsonl", "parquet", "arrow")


def save(folder, form, names, rows, prefix=""):
    """A table in a format; None where the format has no way to say it. prefix: of the file's text."""
    path = folder / f"table.{form}"
    if form in ("csv", "tsv"):
        if any(not isinstance(value, str) for row in rows for value in row):
            return None
        out = io.StringIO()
        if form == "csv":
            csv.writer(out, lineterminator="\n").writerows([names, *rows])
        elif any("\n" in value or "\t" in value for row in rows for value in row):
            return None
        else:
            out.write("".join("\t".join(row) + "\n" for row in [names, *rows]))
        return write(path, prefix + out.getvalue())
    if form == "jsonl":
        lines = [
            "{"
            + ", ".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in zip(names, row, strict=False))
            + "}"
            for row in rows
        ]
        return write(path, prefix + "\n".join(lines) + "\n")
    columns = [
        pa.array([row[number] if number < len(row) else None for row in rows]) for number in range(len(names))
    ]
    arrow = pa.Table.from_arrays(columns, names=[prefix + names[0], *names[1:]])
    if form == "parquet":
        pq.write_table(arrow, path)
        return path
    if len(set(names)) < len(names) or "\0" in "".join(names):
        return None  # `datasets` writes none
    datasets.Dataset(arrow).save_to_disk(str(path))
    return path


def used(path):
    """What a fine-tuning on texts with classes makes of a file: texts and names of the labels."""
    read = read_table(path)
    columns, _ = guess_columns(read)
    labels = build_labels(read, columns.label)
    data = load_task(read, columns, labels=labels)
    return list(zip(data["text"], [labels.names[number] for number in data["label"]], strict=True))


TWO = [["a b", "x"], ["c d", "y"]]
GOOD = [("a b", "x"), ("c d", "y")]
# What it is, names, rows, text before the file, and what comes of it: the rows, or a part of the one line.
RULES = [
    ("plain", ["text", "label"], TWO, "", GOOD),
    ("a byte order mark", ["text", "label"], TWO, "\ufeff", GOOD),
    (
        "one column without a name, as pandas writes it",
        ["", "text", "label"],
        [["0", *r] for r in TWO],
        "",
        GOOD,
    ),
    ("another column", ["text", "label", "id"], [[*r, "1"] for r in TWO], "", GOOD),
    (
        "white space of Unicode inside",
        ["text", "label"],
        [["a\u00a0b\u2028", "x"], ["c", "y"]],
        "",
        [("a\u00a0b\u2028", "x"), ("c", "y")],
    ),
    (
        "a name twice",
        ["text", "label", "text"],
        [["a", "x", "b"], ["c", "y", "d"]],
        "",
        "names column 'text' twice",
    ),
    (
        "two columns without a name",
        ["", "", "text", "label"],
        [["0", "1", *r] for r in TWO],
        "",
        "names column '' twice",
    ),
    *(
        (
            f"two names that look alike, {what}",
            ["text", "label", other],
            [[*r, "z"] for r in TWO],
            "",
            f"names the columns '{first}' and '{second}', which differ only in white space or in how they are",
        )
        for what, first, other, second in (
            ("a space before", "text", " text", " text"),
            ("a space behind", "text", "text ", "text "),
            ("a space without a break", "label", "label\u00a0", "label\\xa0"),
            ("a mark behind", "text", "text\u2060", "text\\u2060"),
            ("a space of no width", "text", "te\u200bxt", "te\\u200bxt"),
        )
    ),
    (
        "names that differ by the form of a letter",
        ["text", "label", "\u00e9", "e\u0301"],
        [[*r, "1", "2"] for r in TWO],
        "",
        "which differ only in white space or in how they are written",
    ),
    (
        "two names that differ by capital letters, both of them a guess",
        ["text", "Text", "label"],
        [["a", "b", "x"], ["c", "d", "y"]],
        "",
        "has the columns 'text' and 'Text', either of which could be meant by 'text'",
    ),
    (
        "two names that differ by capital letters, none of them a guess",
        ["text", "label", "id", "ID"],
        [[*r, "1", "2"] for r in TWO],
        "",
        GOOD,
    ),
    ("NUL in a name", ["text\0", "label"], TWO, "", "with the character NUL; is the file UTF-16?"),
    (
        "NUL in a text",
        ["text", "label"],
        [["a\0b", "x"], ["c", "y"]],
        "",
        "column 'text' has the character NUL",
    ),
    ("an empty text", ["text", "label"], [["a", "x"], ["", "y"]], "", "column 'text' is empty"),
    ("a blank text", ["text", "label"], [["a", "x"], [" \u3000", "y"]], "", "column 'text' is empty"),
    ("no label", ["text", "label"], [["a", "x"], ["c", ""]], "", "column 'label' has no label ('')"),
    ("a row too short", ["text", "label"], [["a", "x"], ["c"]], "", ("1 fields", "has no label (None)")),
    ("no rows", ["text", "label"], [], "", "no rows of data"),
    (
        "no column for the label",
        ["text", "other", "more"],
        [["a", "x", "1"], ["c", "y", "2"]],
        "",
        "cannot tell which column is the label",
    ),
    ("one class", ["text", "label"], [["a", "x"], ["c", "x"]], "", "only one class, 'x'"),
    (
        "labels that differ by a space",
        ["text", "label"],
        [["a", "x"], ["b", "x "], ["c", "y"], ["d", "y"]],
        "",
        "the labels 'x' and 'x ', which differ only in white space or in how they are written",
    ),
    (
        "labels that differ by their form",
        ["text", "label"],
        [["a", "\u00e9"], ["b", "e\u0301"], ["c", "y"], ["d", "y"]],
        "",
        "which differ only in white space or in how they are written; write them alike",
    ),
    (
        "labels that differ by what is not shown",
        ["text", "label"],
        [["a", "x"], ["b", "\ufeffx"], ["c", "y"], ["d", "y"]],
        "",
        "the labels 'x' and '\\ufeffx', which differ only in white space",
    ),
    (
        "numbers written in two ways",
        ["text", "label"],
        [["a", "1"], ["b", "1.0"], ["c", "2"], ["d", "2"]],
        "",
        "the labels '1' and '1.0', which differ only in white space or in how they are written",
    ),
    (
        "a list written as text",
        ["text", "label"],
        [["a", "['x', 'y']"], ["c", "['y']"]],
        "",
        "texts with several labels are for --multi-label",
    ),
    (
        "a list",
        ["text", "label"],
        [["a", ["x"]], ["c", ["y"]]],
        "",
        "texts with several labels are for --multi-label",
    ),
    (
        "a text that is a number",
        ["text", "label"],
        [[1, "x"], [2, "y"]],
        "",
        "column 'text' is not text but 1",
    ),
    ("a text that is a list", ["text", "label"], [[["a"], "x"], [["c"], "y"]], "", "is not text but ['a']"),
    (
        "a text that is an object",
        ["text", "label"],
        [[{"a": 1}, "x"], [{"a": 2}, "y"]],
        "",
        "is not text but {'a': 1}",
    ),
    ("a text that is missing", ["text", "label"], [["a", "x"], [None, "y"]], "", "is not text but None"),
    ("a label that is NaN", ["text", "label"], [["a", 1.0], ["c", float("nan")]], "", "has no label (nan)"),
    ("labels that are numbers", ["text", "label"], [["a", 1], ["c", 0]], "", [("a", "1"), ("c", "0")]),
    (
        "whole numbers with a gap's .0",
        ["text", "label"],
        [["a", 1.0], ["c", 0.0]],
        "",
        [("a", "1"), ("c", "0")],
    ),
    (
        "labels that are true and false",
        ["text", "label"],
        [["a", True], ["c", False]],
        "",
        [("a", "true"), ("c", "false")],
    ),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rule", RULES, ids=[rule[0] for rule in RULES])
def test_rules(tmp_path, form, rule):
    what, names, rows, prefix, wanted = rule
    path = save(tmp_path, form, names, rows, prefix)
    if path is None:
        pytest.skip("the format has no way to say it")
    if isinstance(wanted, list):
        assert used(path) == wanted
        return
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    # A file of JSON without a row is empty.
    wanted = (*wanted, "the file is empty", "cannot be read as a table") if what == "no rows" else wanted
    with pytest.raises(UserError) as caught:
        used(path)
    assert any(part in str(caught.value) for part in wanted), str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def several(values):
    read = table(text=["a"] * len(values), label=values)
    columns, _ = guess_columns(read)
    labels = build_labels(read, "label", several=True)
    rows = load_task(read, columns, kind="multi-label", labels=labels)["label"]
    return [[name for name, has in zip(labels.names, row, strict=True) if has] for row in rows]


@pytest.mark.parametrize(
    "values",
    [
        [["a", "b"], ["b"], []],
        ['["a", "b"]', '["b"]', "[]"],
        ["['a', 'b']", "['b']", ""],
    ],
)
def test_lists_written_as_text_are_lists(values):
    assert several(values) == [["a", "b"], ["b"], []]


@pytest.mark.parametrize("values", [[[0, 1, 0], [1, 1, 0]], ["[0, 1]", "[1, 0]"], [[0.0, 1.0], [1.0, 1.0]]])
def test_yes_and_no_to_each_label_is_refused(values):
    with pytest.raises(
        UserError, match=r"has a list of \d numbers 0 and 1 in every row, which look like yes or no"
    ):
        several(values)


def test_names_0_and_1_in_lists_of_several_lengths():
    assert several([[0, 1], [1], []]) == [["0", "1"], ["1"], []]


def test_labels_that_differ_by_capital_letters_are_classes_with_a_warning():
    warning = "the labels 'Pos' and 'pos' differ only in capital letters; they count as two classes"
    assert nearly_the_same(["Pos", "neg", "pos"]) == warning
    warning = "the labels '01' and '1' differ only in zeros before a number; they count as two classes"
    assert nearly_the_same(["01", "1", "10"]) == warning
    assert nearly_the_same(["Pos", "neg", "0", "10", "a01", "a1"]) is None


def test_tokens_and_tags_of_a_csv_file_are_lists(tmp_path):
    task = find_task("ner")
    path = write(tmp_path / "train.csv", "tokens,tags\n\"['the', 'cat']\",\"['O', 'B-animal']\"\n")
    examples = kind_of(task).examples(read_part(task, str(path), task.of_role("train")[0]))
    assert examples[:] == {"tokens": [["the", "cat"]], "tags": [["O", "B-animal"]]}


@pytest.mark.parametrize(
    ("line", "token"),
    [
        ("New\u00a0York B-place", "New\u00a0York"),
        ("10\u2009000\tO", "10\u2009000"),
        ("New York\tB-place", "New York"),
        ("\u00a0\tO", "\u00a0"),
        ("\u3000 O", "\u3000"),
        ("cat NN  I-NP \t B-animal", "cat NN  I-NP"),
        ("cat NN B-NP O", "cat"),
        ("cat\tNN\tB-NP\tO", "cat"),
        ("  cat   O  ", "cat"),
    ],
)
def test_lines_of_tokens_are_cut_at_spaces_and_tabs_alone(tmp_path, line, token):
    task = find_task("ner")
    path = write(tmp_path / "train.txt", f"{line}\nruns O\n\n")
    read = read_part(task, str(path), task.of_role("train")[0])
    assert read.columns["tokens"] == [[token, "runs"]]
    assert read.columns["tags"][0][1] == "O"
