"""Reading tables, finding their columns, and checking and numbering what is in them."""

import gzip
import io
import sys
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.support import error_of, table, write
from funnelformer.data.bad_rows import BadRows
from funnelformer.data.data_source import DataFile, find_data
from funnelformer.data.formats import iter_rows
from funnelformer.data.tables import (
    TaskColumns,
    guess_columns,
    guess_text_column,
    read_table,
    read_text_table,
)
from funnelformer.data.values import load_task

# ---- formats


def test_tsv_takes_quotes_and_missing_markers_literally(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\nsay "hi\tNA\n\n\tnull\n')
    read = read_table(path)
    assert read.columns == {"text": ['say "hi', ""], "label": ["NA", "null"]}
    assert read.lines == [2, 4]
    assert read.where(1) == f"{path}: row 2 (line 4)"
    assert len(read) == 2


def test_csv_quotes_and_counts_lines(tmp_path):
    path = write(tmp_path / "a.csv", '\ufefftext,label\r\n"a ""b"",\r\nc",None\r\n\r\nd,007\r\n')
    read = read_table(path)
    assert read.columns == {"text": ['a "b",\nc', "d"], "label": ["None", "007"]}
    assert read.lines == [2, 5]


def test_csv_field_longer_than_the_default_limit(tmp_path):
    read = read_table(write(tmp_path / "a.csv", "text\n" + "x" * 300_000 + "\n"))
    assert len(read.columns["text"][0]) == 300_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_json_lines(tmp_path, name):
    path = write(tmp_path / name, '{"text": "a", "label": 1}\n\n{"text": "NaN", "extra": [1]}\n')
    read = read_table(path)
    assert read.columns == {"text": ["a", "NaN"], "label": [1, None], "extra": [None, [1]]}
    assert read.lines == [1, 3]


def test_json_array(tmp_path):
    read = read_table(write(tmp_path / "a.json", '[{"text": "a"},\n {"text": "b"}]'))
    assert read.columns == {"text": ["a", "b"]}
    assert read.where(1).endswith("a.json: row 2")


def test_parquet_plain_and_compressed(tmp_path):
    pq.write_table(pa.table({"text": ["a", ""], "n": [1, None]}), tmp_path / "a.parquet")
    again = write(tmp_path / "b.parquet.gz", gzip.compress((tmp_path / "a.parquet").read_bytes()))
    for path in (tmp_path / "a.parquet", again):
        assert read_table(path).columns == {"text": ["a", ""], "n": [1, None]}


def test_compressed_table(tmp_path):
    read = read_table(write(tmp_path / "a.tsv.gz", gzip.compress(b"text\nhello\n")))
    assert read.columns == {"text": ["hello"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "a\tb\n1\t2\n1\t2\t3\n", "line 3: 3 fields, but the header has 2"),
        ("a.csv", 'a,b\n"1\n1",2\n1\n', "line 4: 1 fields, but the header has 2"),
        ("a.csv", 'a,b\n1,2\n1,"2\n3,4\n', "line 3: not valid CSV (unexpected end of data)"),
        ("a.tsv", "a\ta\n1\t2\n", "line 1: the header names column 'a' twice"),
        ("a.tsv", "a\tb\n", "there are no rows of data in it"),
        ("a.csv", "a,b\n", "there are no rows of data in it"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2: not valid JSON (Expecting value at column"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: expected a JSON object of columns, found list"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}\n", "line 1: not usable JSON"),
        ("a.json", '[{"a": 1},\n{"a" 2}]', "line 2: not valid JSON (Expecting ':' delimiter at column 6)"),
        ("a.json", '[{"a": 1}, 2]', "row 2: expected a JSON object of columns, found int"),
        ("a.parquet", "nothing of the kind", "not a readable parquet file"),
        ("a.xls", "x", "unknown format '.xls'; use one of .csv, .tsv,"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    assert f"{path}: {message}" in error_of(read_table, path)


def test_bad_rows_are_left_out_and_counted(tmp_path):
    """A row of the wrong arity, a line that is no JSON, one that is no object; what comes after is read."""
    bad = BadRows(skip=True)
    path = write(tmp_path / "a.tsv", "a\tb\n1\t2\n1\n3\t4\t5\n6\t7\n")
    read = read_table(path, bad=bad)
    assert (read.columns, read.lines) == ({"a": ["1", "6"], "b": ["2", "7"]}, [2, 5])
    assert bad.problems == [
        f"{path}: line 3: 1 fields, but the header has 2",
        f"{path}: line 4: 3 fields, but the header has 2",
    ]
    assert bad.report() == f"2 bad rows left out; the first: {bad.problems[0]}"
    bad = BadRows(skip=True)
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": \n[1]\n{"a": 2}\n')
    assert read_table(path, bad=bad).columns == {"a": [1, 2]}
    assert [problem.split(": ")[1] for problem in bad.problems] == ["line 2", "line 3"]
    assert BadRows(skip=True).report() is None


def test_files_without_a_header(tmp_path):
    path = write(tmp_path / "a.csv", '"3","A ""b"""\n"1","c"\n')
    rows = list(iter_rows(path, columns=("label", "text")))
    assert rows == [(1, {"label": "3", "text": 'A "b"'}), (2, {"label": "1", "text": "c"})]
    path = write(tmp_path / "a.tsv", "x\ty\n\nz\n")
    message = f"{path}: line 3: 1 fields, but its rows have 2"
    assert error_of(iter_rows, path, columns=("a", "b")) == message


# ---- folders and the Hub


def test_folder_with_one_file_a_split(tmp_path):
    write(tmp_path / "train.tsv", "text\nNA\n")
    write(tmp_path / "test.tsv", "text\nb\n")
    assert read_table(tmp_path, split="train").columns == {"text": ["NA"]}
    assert read_table(tmp_path, split="test").columns == {"text": ["b"]}


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation"])
def test_the_names_of_a_validation_part(tmp_path, name):
    """Read here, quotes and all; of a saved data set too."""
    write(tmp_path / "train.tsv", "text\na\n")
    write(tmp_path / f"{name}.tsv", 'text\n"b\nc\nNA\n')
    data = datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"text": ["a"]}),
        **{name: datasets.Dataset.from_dict({"text": ["d"]})},
    )
    data.save_to_disk(str(tmp_path / "saved"))
    for split in ("validation", "dev"):
        assert read_table(tmp_path, split=split).columns == {"text": ['"b', "c", "NA"]}
        assert read_table(tmp_path / "saved", split=split).columns == {"text": ["d"]}


def test_csv_and_tsv_are_not_for_datasets(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("a.csv", "b.csv", "more/dev.tsv.gz"):
        write(tmp_path / name, "text\na\n")
    known = "name a file of it: a.csv, b.csv, more/dev.tsv.gz"
    message = f"{tmp_path}: no single table called validation in this folder; {known}"
    assert error_of(read_table, tmp_path, split="validation") == message
    assert error_of(read_table, tmp_path) == f"{tmp_path}: no single table in this folder; {known}"


def test_saved_dataset_gives_class_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    test = datasets.Dataset.from_dict({"text": ["c"], "label": [-1]}, features=features)
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(tmp_path))
    assert read_table(tmp_path, split="train").columns == {"text": ["a", "b"], "label": ["pos", "neg"]}
    assert read_table(tmp_path, split="test").columns == {"text": ["c"], "label": [None]}
    assert "has the splits train, test; name one of them" in error_of(read_table, tmp_path)
    message = error_of(read_table, tmp_path, split="tset")
    assert "no split 'tset'; did you mean 'test'?; it has train, test" in message


def test_folder_without_data(tmp_path):
    assert f"{tmp_path}: no table in this folder; allowed formats: .csv, " in error_of(read_table, tmp_path)


def test_hub_name_and_config(monkeypatch):
    asked = []

    def load(*args):
        asked.append(args)
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"]}))

    monkeypatch.setattr("funnelformer.data.tables.reach_hub", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_table("user/name").columns == {"text": ["a"]}
    assert read_table("glue:sst2", split="train").columns == {"text": ["a"]}
    assert asked == [("user/name", None), ("glue", "sst2")]


def test_hub_failure_is_one_line(tmp_path, monkeypatch):
    def fail(*args):
        raise ConnectionError("Couldn't reach it\nand more")

    write(tmp_path / "train.tsv", "x")
    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.chdir(tmp_path)
    assert error_of(read_table, "train.tvs").startswith(
        "train.tvs: no such file or folder; did you mean 'train.tsv'?, and HF_HUB_OFFLINE is set; "
    )
    monkeypatch.setattr("funnelformer.data.tables.reach_hub", lambda *_: None)
    message = "train.tvs: no such file; did you mean 'train.tsv'?, nor a data set (Couldn't reach it)"
    assert error_of(read_table, "train.tvs") == message


def test_a_missing_file_is_not_looked_for_on_the_hub():
    for name in ("nowhere/train.tsv", "texts.txt", "-"):
        assert f"{name}: no such file" in error_of(read_table, name)
        assert isinstance(find_data(name), DataFile)


# ---- texts to predict on


def test_read_text_table_of_a_file(tmp_path):
    read = read_text_table(write(tmp_path / "a.txt", "one\n\ntwo\n"))
    assert read.columns == {"text": ["one", "", "two"]}
    message = error_of(load_task, read, TaskColumns("text"))
    assert message.endswith("a.txt: row 2 (line 2): column 'text' is empty")
    assert read_text_table(write(tmp_path / "a.tsv", "x\ty\n1\t2\n")).columns == {"x": ["1"], "y": ["2"]}


@pytest.mark.parametrize(
    ("content", "columns"),
    [("one\n{two\n", {"text": ["one", "{two"]}), ('\n {"t": "a", "n": 1}\n', {"t": ["a"], "n": [1]})],
)
def test_read_text_table_of_stdin(monkeypatch, content, columns):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    assert read_text_table("-").columns == columns


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "stdin: there are no rows of data in it"),
        (b"a\n\xff\n", "stdin: line 2: not valid UTF-8 (byte 0xff at column 1)"),
        (b'{"a": 1}\n{\n', "stdin: line 2: not valid JSON"),
    ],
)
def test_read_text_table_of_bad_stdin(monkeypatch, content, message):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert message in error_of(read_text_table, "-")


# ---- columns


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["text", "label", "novel"], TaskColumns("text", None, "label")),
        (["id", "Sentence", "Label"], TaskColumns("Sentence", None, "Label")),
        (["sentence1", "sentence2", "score"], TaskColumns("sentence1", "sentence2", "score")),
        (["premise", "hypothesis", "label"], TaskColumns("premise", "hypothesis", "label")),
        (["idx", "question", "sentence", "label"], TaskColumns("question", "sentence", "label")),
        (["labels", "tweet"], TaskColumns("tweet", None, "labels")),
    ],
)
def test_guess_columns(names, expected):
    columns, messages = guess_columns(table(**{name: ["x"] for name in names}))
    assert columns == expected
    assert f"using column {expected.text!r} as the text (guessed; set it with --text)" in messages
    assert f"using column {expected.label!r} as the label (guessed; set it with --label)" in messages


def test_given_columns_are_not_announced():
    data = table(a=["x"], b=["y"], c=["z"])
    assert guess_columns(data, text="a", text_pair="b", label="c") == (TaskColumns("a", "b", "c"), [])


def test_a_given_text_is_not_turned_into_a_pair():
    data = table(sentence1=["x"], sentence2=["y"], label=["z"])
    assert guess_columns(data, text="sentence1")[0] == TaskColumns("sentence1", None, "label")


def test_guess_without_labels():
    assert guess_columns(table(tweet=["x"]), need_label=False)[0] == TaskColumns("tweet")
    assert guess_columns(table(label=["x"], tweet=["y"]), need_label=False)[0] == TaskColumns("tweet")
    given = guess_columns(table(a=["x"], text=["y"]), need_label=False, label="a")
    assert given[0] == TaskColumns("text", None, "a")


def test_columns_that_cannot_be_guessed():
    odd = table(a=["x"], b=["y"], label=["z"])
    message = "train.tsv: cannot tell which column is the text; set --text to one of 'a', 'b'"
    assert error_of(guess_columns, odd) == message
    message = "train.tsv: cannot tell which column is the label; set --label to one of 'a'"
    assert error_of(guess_columns, table(text=["x"], a=["y"])) == message
    assert "set --label to one of (none left)" in error_of(guess_columns, table(text=["x"]))
    assert "set --text" in error_of(guess_text_column, ["a", "b"], "x.csv")


def test_given_columns_that_are_not_there():
    data = table(review=["x"], stars=["y"])
    message = "train.tsv: no column 'reveiw'; did you mean 'review'?; it has 'review', 'stars'"
    assert error_of(guess_columns, data, text="reveiw") == message
    message = error_of(guess_columns, data, text="review", label="review")
    assert message == "train.tsv: column 'review' was given twice"
