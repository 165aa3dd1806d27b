"""Prepared data in work items, without a cluster: whoever makes a part, the bytes are those of one machine."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import pickle
import random

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.support import number_tokenizer, words
from funnelformer.base.errors import UserError
from funnelformer.corpus import prepare as prepare_module
from funnelformer.corpus.documents import everywhere
from funnelformer.corpus.prepare import prepare
from funnelformer.corpus.prepare_config import PrepareConfig
from funnelformer.corpus.spread_parts import CorpusMaker, survey

# Some have no text, some are longer than what a document of a .txt file may have, and one begins with the mark that is
# dropped at the beginning of a file.
TEXTS = [words(5 + number % 700, 25 + number % 700 + number % 9) for number in range(60)]
TEXTS[7] = "\ufeff" + TEXTS[7]


def write_sources(folder):
    """The same texts in every form, among rows without any."""
    rows = [{"text": text} if number % 4 else {"id": 1, "text": text} for number, text in enumerate(TEXTS)]
    rows[3:3] = [{"text": ""}, {"text": None}, {"id": 2}]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    with open(folder / "b.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "note"])
        writer.writerows([text, "two\nlines"] for text in ("", *TEXTS, ""))
    (folder / "c.txt").write_bytes("\n\n\n".join([*TEXTS, "\n".join(TEXTS * 20)]).encode())
    pq.write_table(pa.table({"text": [None, *TEXTS, ""]}), folder / "d.parquet", row_group_size=7)
    with gzip.open(folder / "e.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_sources(folder)
    number_tokenizer().save_pretrained(folder / "tok")
    return folder


@pytest.fixture
def config(corpus, tmp_path):
    def make(*train, out="out", **changes):
        values = {"tokenizer": corpus / "tok", "out": tmp_path / out, "block_size": 32, "workers": 1}
        values |= {"validation_fraction": 0.1, "part_chars": 1500}
        return PrepareConfig(train=[str(name) for name in train], **{**values, **changes})

    return make


@pytest.fixture
def spread_here(monkeypatch):
    """The work of a cluster in this process: items in another order, each pickled, some twice."""
    made = []

    def make_all(maker, items, sizes, options, title):
        order = list(range(len(items)))
        random.Random(3).shuffle(order)
        maker = pickle.loads(pickle.dumps(maker))
        for number in (*order, *order[:2]):
            maker(pickle.loads(pickle.dumps(items[number])))
            made.append(items[number])
        assert len(sizes) == len(items)

    monkeypatch.setattr(prepare_module, "make_all", make_all)
    monkeypatch.setattr(
        prepare_module, "each", lambda function, items, title: [function(item) for item in items]
    )
    monkeypatch.setattr(prepare_module, "on_cluster", lambda options: contextlib.nullcontext())
    return made


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("names", [["*.jsonl", "*.csv", "*.txt", "*.parquet"], ["*.json", "*.gz", "c.txt"]])
@pytest.mark.parametrize("group_bytes", [16_000_000, 1])
def test_the_bytes_are_those_of_one_machine(
    corpus, config, spread_here, monkeypatch, capsys, names, group_bytes
):
    """Also with every file a group of its own, and when a part is lost and the run goes on."""
    monkeypatch.setattr(prepare_module, "_GROUP_BYTES", group_bytes)
    train = [corpus / name for name in names]
    expected = prepare(config(*train, out="one"))
    assert prepare(config(*train, engine="ray")) == expected
    one, many = (files_of(config(out=out).out) for out in ("one", "out"))
    assert one == many
    assert len([name for name in one if name.startswith("parts/")]) > 8
    items = len(spread_here) - 2
    if names[0] == "*.jsonl":  # each part by itself; the others can only be read from their beginning
        assert items == len([name for name in one if name.startswith("parts/")])
    out = config().out
    shard = sorted(out.glob("train-*.arrow"))[2]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.arrow") if path != shard}
    shard.unlink()
    prepare(config(*train, engine="ray"))
    assert files_of(out) == one
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert f"{len(list((out / 'parts').iterdir())) - 1} of" in capsys.readouterr().err


def test_from_a_store_of_objects_as_from_files(corpus, config, spread_here):
    store = fsspec.filesystem("memory")
    for path in corpus.glob("*.*"):
        store.pipe_file(f"/texts/{path.name}", path.read_bytes())
    prepare(config(corpus / "*.jsonl", corpus / "*.parquet", out="one"))
    prepare(config("memory://texts/*.jsonl", "memory://texts/*.parquet", engine="ray"))
    assert files_of(config().out) == files_of(config(out="one").out)
    store.rm("/texts", recursive=True)


def test_a_folder_stands_for_its_files(corpus):
    names = ["a.json", "a.jsonl", "b.csv", "c.txt", "d.parquet", "e.jsonl.gz"]
    found = [source for source in everywhere([str(corpus)]) if source.parent == corpus]
    assert [source.name for source in found] == names


def test_a_row_that_is_no_text_is_named_before_a_part_is_made(tmp_path, config, spread_here):
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n\n{"text": 3}\n')
    with pytest.raises(UserError) as error:
        prepare(config(tmp_path / "bad.jsonl", engine="ray"))
    assert str(error.value) == f"{tmp_path / 'bad.jsonl'}: row 2 (line 3): column 'text' is not text but 3"
    with pytest.raises(UserError) as of_one:
        prepare(config(tmp_path / "bad.jsonl"))
    assert str(of_one.value) == str(error.value)
    assert spread_here == []


@pytest.mark.parametrize("name", ["a.jsonl", "e.jsonl.gz"])
def test_a_source_that_changed_is_named(corpus, config, tmp_path, name):
    copy = tmp_path / name
    copy.write_bytes((corpus / name).read_bytes())
    item = survey(None, 1500, (0, everywhere([str(copy)]))).items[-1]
    content = b"\n".join(json.dumps({"text": text}).encode() for text in TEXTS[:2])
    copy.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    chosen = config(copy)
    with pytest.raises(UserError, match=rf"{name}.* changed while it was read"):
        CorpusMaker(chosen.tokenizer, chosen.rows, None, chosen.out)(item)
    assert not list(chosen.out.glob("**/*-00000-00005*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray_address": "1.2.3.4:5"}, "--ray-address needs --engine ray"),
        ({"worker_cpus": 2}, "--worker-cpus needs --engine ray"),
        ({"engine": "ray", "shard": "1/2"}, "--shard does not go with --engine ray"),
        ({"out": "s3://bucket/out"}, "--out s3://bucket/out: name a folder; training maps the files"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        PrepareConfig(**{"train": ["x.txt"], "tokenizer": "tok", "out": "out", **options})
