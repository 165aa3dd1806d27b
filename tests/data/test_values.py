"""Values of a table: what is a text, a label, an amount; which rows are left out."""

import json
import math

import pytest

from data.support import error_of, table, write
from funnelformer.base.errors import short
from funnelformer.data.bad_rows import BadRows
from funnelformer.data.tables import TaskColumns, guess_columns, read_table
from funnelformer.data.values import Labels, build_labels, load_task


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "is empty"),
        (" \t", "is empty"),
        (None, "is not text but None"),
        (math.nan, "is not text but nan"),
        (3, "is not text but 3"),
        ("\ud800", "has half of a surrogate pair, which is not a character"),
    ],
)
def test_bad_texts(value, problem):
    message = error_of(load_task, table(text=["fine", value]), TaskColumns("text"))
    assert message == f"train.tsv: row 2 (line 3): column 'text' {problem}"


def test_labels_are_ordered_as_numbers_or_as_text():
    assert build_labels(table(label=["10", "9", "10", "-1"]), "label").names == ("-1", "9", "10")
    assert build_labels(table(label=["10", "b", "9", "b"]), "label").names == ("10", "9", "b")
    assert build_labels(table(label=[True, False, True]), "label").names == ("false", "true")
    assert build_labels(table(label=[1.0, 0, 2.5, 1]), "label").names == ("0", "1", "2.5")
    assert build_labels(table(label=["NA", "None", "NA"]), "label").names == ("NA", "None")


def ids(table, labels):
    return load_task(table, TaskColumns("text", None, "label"), labels=labels)["label"]


def test_ids_of_labels():
    labels = build_labels(table(label=["pos", "neg", "pos"]), "label")
    assert labels.id_of == {"neg": 0, "pos": 1}
    assert list(ids(table(text=["a", "b"], label=["pos", "neg"]), labels)) == [1, 0]
    message = (
        "dev.tsv: row 2 (line 3): column 'label' has 'poss', which is not one of the model's labels; "
        "did you mean 'pos'?; known labels: neg, pos"
    )
    assert error_of(ids, table("dev.tsv", text=["a", "b"], label=["pos", "poss"]), labels) == message
    many = Labels(tuple(str(i) for i in range(30)))
    assert error_of(ids, table(text=["a"], label=["x"]), many).endswith(", 19, ...")


def test_labels_of_a_config():
    assert Labels.from_id2label({"10": "c", "2": "b", "0": "a"}).names == ("a", "b", "c")
    assert Labels.from_id2label({1: "b", 0: "a"}).id_of == {"a": 0, "b": 1}


@pytest.mark.parametrize("value", ["", "  ", None, math.nan])
def test_missing_labels(value):
    message = error_of(build_labels, table(label=["a", "b", value]), "label")
    assert message == f"train.tsv: row 3 (line 4): column 'label' has no label ({value!r})"


@pytest.mark.parametrize("value", [[1], "[1]"])
def test_a_list_is_no_class(value):
    message = error_of(build_labels, table(label=["a", "b", value]), "label")
    assert message == (
        f"train.tsv: row 3 (line 4): column 'label' has a list ({short(value)}); "
        "texts with several labels are for --multi-label"
    )


def test_labels_that_are_no_classes():
    message = "only one class, 'x', in train.tsv: nothing to learn"
    assert error_of(build_labels, table(label=["x", "x"]), "label") == message
    message = error_of(build_labels, table(label=["0.1", "0.2", "0.3"]), "label")
    assert "3 different labels in 3 rows" in message
    assert "--regression" in message
    assert "1001 different" in error_of(build_labels, table(label=[str(i) for i in range(1001)] * 2), "label")


def amounts(values):
    data = table(text=["a"] * len(values), label=values)
    return list(load_task(data, TaskColumns("text", None, "label"), kind="regression")["label"])


def test_amounts():
    assert amounts(["1.5", " 2", "3", "0.25"]) == [1.5, 2.0, 3.0, 0.25]
    assert amounts([3, 0.25]) == [3.0, 0.25]


@pytest.mark.parametrize("value", ["nan", "inf", "x", "", "1_0", None, True, math.inf, [1]])
def test_bad_amounts(value):
    message = error_of(amounts, [1, value])
    assert message == f"train.tsv: row 2 (line 3): column 'label' is not a finite number ({value!r})"


# ---- several labels


def several(values, separator=None):
    """The names of all labels, and a row of 0 and 1 for each value."""
    data = table(text=["a"] * len(values), label=values)
    labels = build_labels(data, "label", several=True, separator=separator)
    columns = TaskColumns("text", None, "label", separator)
    return labels.names, list(load_task(data, columns, kind="multi-label", labels=labels)["label"])


def test_several_labels_as_lists_and_as_texts():
    expected = (("a", "b", "c"), [[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    assert several([["c", "b"], ["a"], []]) == expected
    assert several(["c, b", "a", ""], ",") == expected
    assert several(["b c", "a"]) == (("a", "b c"), [[0, 1], [1, 0]])
    assert several([[1, 10], None, 2]) == (("1", "2", "10"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]])


def test_bad_sets_of_labels():
    assert error_of(several, [["a"], ["b", "b"]]).endswith(
        "row 2 (line 3): column 'label' has the label 'b' twice"
    )
    assert error_of(several, [["a"], [None]]).endswith("row 2 (line 3): column 'label' has no label (None)")
    assert error_of(several, [[], ["a"]]) == "only one class, 'a', in train.tsv: nothing to learn"
    assert error_of(several, [[], None]) == "train.tsv: column 'label' has no label in any row"


# ---- tasks


def test_load_task_for_classes_scores_and_texts():
    data = table(a=["x", "y"], b=["u", "v"], c=["1", "2"], other=["", ""])
    classes = load_task(data, TaskColumns("a", "b", "c"), labels=Labels(("2", "1")))
    assert classes.to_dict() == {"text": ["x", "y"], "text_pair": ["u", "v"], "label": [1, 0]}
    assert classes.dataset().features["label"].dtype == "int64"
    scores = load_task(data, TaskColumns("b", None, "c"), kind="regression")
    assert scores.to_dict() == {"text": ["u", "v"], "label": [1.0, 2.0]}
    assert load_task(data, TaskColumns("a")).to_dict() == {"text": ["x", "y"]}


def test_bad_rows_are_left_out_and_counted_once():
    """A row with two bad values is one; so is one whose label alone is bad."""
    data = table(text=["x", "", "y", "z"], label=["a", "", "c", "b"])
    bad = BadRows(skip=True)
    task = load_task(data, TaskColumns("text", None, "label"), labels=Labels(("a", "b")), bad=bad)
    assert task.to_dict() == {"text": ["x", "z"], "label": [0, 1]}
    assert bad.problems == [
        "train.tsv: row 2 (line 3): column 'text' is empty",
        "train.tsv: row 3 (line 4): column 'label' has 'c', which is not one of the model's labels; "
        "known labels: a, b",
    ]
    empty = table(text=["", " "])
    message = error_of(load_task, empty, TaskColumns("text"), bad=BadRows(skip=True))
    assert message == "train.tsv: none of its 2 rows can be used"


def test_empty_texts_where_all_rows_count():
    data = table(text=["", "b"], other=["c", ""])
    task = load_task(data, TaskColumns("text", "other"), may_be_empty=True)
    assert task.to_dict() == {"text": ["", "b"], "text_pair": ["c", ""]}
    assert "is not text" in error_of(load_task, table(text=[None]), TaskColumns("text"), may_be_empty=True)


def test_load_task_errors():
    data = table("dev.tsv", text=["x"], label=["a"])
    with pytest.raises(ValueError, match="needs labels="):
        load_task(data, TaskColumns("text", None, "label"))
    message = error_of(load_task, data, TaskColumns("text", None, "lable"), kind="regression")
    assert message == "dev.tsv: no column 'lable'; did you mean 'label'?; it has 'text', 'label'"


def test_a_table_from_file_to_task(tmp_path):
    rows = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]
    read = read_table(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    columns, _ = guess_columns(read)
    task = load_task(read, columns, labels=build_labels(read, columns.label))
    assert task.to_dict() == {"text": ["good", "bad"], "label": [1, 0]}
