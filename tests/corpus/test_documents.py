"""Streaming documents, and holding some out."""

import gzip

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.support import error_of, write
from funnelformer.corpus import documents as corpus
from funnelformer.corpus.documents import SavedDataset, expand_sources, in_validation, iter_documents

# ---- documents


def test_documents_of_text_are_parted_by_empty_lines(tmp_path):
    path = write(tmp_path / "a.txt", "\n\none\ntwo\r\n \n\n\nthree\n\n")
    assert list(iter_documents([path])) == ["one\ntwo", "three"]
    assert list(iter_documents(path)) == ["one\ntwo", "three"]


def test_documents_of_tables(tmp_path):
    a = write(tmp_path / "a.tsv.gz", gzip.compress(b"id\ttext\n1\tone\n2\t\n"))
    b = write(tmp_path / "b.csv", 'id,text\n1,"two\n2"\n')
    c = write(tmp_path / "c.jsonl", '{"text": "three", "id": 3}\n{"id": 4}\n{"text": null}\n')
    d = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["four"], "id": [1]}), d)
    assert list(iter_documents([d, c, b, a])) == ["one", "two\n2", "three", "four"]
    assert list(iter_documents(tmp_path / "[ab].*", text_column="id")) == ["1", "2", "1"]


def test_a_text_without_empty_lines_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_CHARS", 8)
    path = write(tmp_path / "a.txt", "abcd\nefgh\nij\n\nk\n")
    assert list(iter_documents(path)) == ["abcd\nefgh", "ij", "k"]


def test_documents_of_a_saved_data_set(tmp_path):
    """The part called train, or the only one; files come first."""
    data = datasets.Dataset.from_dict({"text": ["one", "", "two"], "id": [1, 2, 3]})
    data.save_to_disk(tmp_path / "a")
    datasets.DatasetDict({"test": data.select([0]), "train": data.select([2])}).save_to_disk(tmp_path / "b")
    file = write(tmp_path / "c.txt", "three")
    given = [tmp_path / "b", file, tmp_path / "a"]
    assert list(iter_documents(given)) == ["three", "one", "two", "two"]
    assert "column 'id' is not text but 1" in error_of(iter_documents, tmp_path / "a", "id")


def test_what_is_looked_up_on_the_hub(tmp_path, monkeypatch):
    """user/name of no local folder; a mistyped path is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    assert expand_sources("user/name:config") == [SavedDataset("user/name:config")]
    assert "no such file" in error_of(expand_sources, "texts/a")
    assert "no such file; there is no folder 'user'" in error_of(expand_sources, "user/a.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funnelformer.corpus.documents.reach_hub", lambda *_: None)
        patch.setattr(datasets, "load_dataset", lambda name, config: {"train": [], "name": (name, config)})
        assert error_of(iter_documents, "user/name").startswith("user/name: there is no text")


def test_document_errors(tmp_path):
    good = write(tmp_path / "good.txt", "x\n")
    blank = write(tmp_path / "blank.txt", "\n \n")
    assert error_of(iter_documents, blank) == f"{blank}: there is no text in the corpus"
    pdf = write(tmp_path / "a.pdf", "x")
    assert f"{pdf}: unknown format '.pdf'; use one of .txt, .csv" in error_of(iter_documents, [good, pdf])
    table = write(tmp_path / "a.jsonl", '{"a": "x", "b": 1}\n\n{"a": "y", "b": "\\ud800"}\n')
    assert f"{table}: cannot tell which column is the text" in error_of(iter_documents, table)
    assert "no column 'c'; it has 'a', 'b'" in error_of(iter_documents, table, "c")
    message = f"{table}: row 1 (line 1): column 'b' is not text but 1"
    assert error_of(iter_documents, table, "b") == message
    half = write(tmp_path / "half.jsonl", '{"text": "x"}\n\n{"text": "\\ud800"}\n')
    assert "row 2 (line 3): column 'text' has half of a surrogate pair" in error_of(iter_documents, half)


# ---- hold-out


def test_the_hold_out_is_fixed_and_nested():
    documents = [f"document {i}" for i in range(4000)]
    held = {fraction: {d for d in documents if in_validation(d, fraction)} for fraction in (0.0, 0.1, 0.3)}
    assert not held[0.0]
    assert held[0.1] < held[0.3]
    assert abs(len(held[0.1]) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5  # four standard deviations
    # a later release must hold out the same documents
    assert [i for i in range(100) if in_validation(documents[i], 0.1)] == [40, 44, 59, 70, 81]
