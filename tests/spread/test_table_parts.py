"""Work items, parts, manifest and going on, without a cluster: what a worker does is called here."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import sys
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.base.errors import UserError
from funnelformer.data.tables import collect, iter_texts
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.config import EmbedConfig, PredictConfig
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.part_jobs import EmbedJob, PredictJob
from funnelformer.inference.predict import predict
from funnelformer.spread.engine_options import ClusterOptions
from funnelformer.spread.parts_manifest import (
    check_folder,
    describe,
    inside,
    missing,
    open_run,
    write_manifest,
)
from funnelformer.spread.ray_engine import Worker, on_cluster
from funnelformer.spread.storage import as_url, list_files, list_sources, read_range, write_whole
from funnelformer.spread.table_parts import PartMaker, scan_for
from funnelformer.spread.work_items import first_rows, read_item
from spread.workers import rows_made

TEXTS = [f"text {number}, with a comma and é" for number in range(23)]


def look(source, rows_per_part, taken=()):
    """A source as a worker looks through it for the texts of the column "text"."""
    return scan_for(EmbedJob(EmbedConfig("mini"), column="text"), list(taken), rows_per_part, source)


def called(maker, items):
    """What Ray Data gets of a worker."""
    pickled = np.empty(len(items), dtype=object)
    pickled[:] = [pickle.dumps(item) for item in items]
    return Worker(pickle.dumps(maker))({"index": np.arange(len(items)), "item": pickled})


def write_sources(folder):
    """The same 23 rows in every format, with blank lines, quoted line ends and small row groups in their way."""
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    lines = [json.dumps(row) for row in rows]
    (folder / "a.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "a.txt").write_bytes("\r\n".join(TEXTS).encode())
    with gzip.open(folder / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    with open(folder / "a.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "note"])
        writer.writerows([text, "two\nlines"] for text in TEXTS)
    (folder / "a.tsv").write_text("text\n" + "\n".join(TEXTS) + "\n", encoding="utf-8")
    pq.write_table(pa.table({"text": TEXTS, "id": range(23)}), folder / "a.parquet", row_group_size=6)


NAMES = ["a.csv", "a.json", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.tsv", "a.txt"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


@pytest.fixture
def memory(sources):
    """The same files in a store of objects, the one in memory that fsspec has."""
    store = fsspec.filesystem("memory")
    for name in NAMES:
        store.pipe_file(f"/in/{name}", (sources / name).read_bytes())
    yield "memory://in"
    store.rm("/", recursive=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["here", "store"])
def test_items_hold_the_rows_of_the_whole_file(sources, memory, name, place):
    source = f"{memory}/{name}" if place == "store" else str(sources / name)
    scanned = look(source, 5)
    assert [(item.first, item.rows) for item in scanned.items] == [(0, 5), (5, 5), (10, 5), (15, 5), (20, 3)]
    assert scanned.rows == 23
    assert scanned.bytes == (sources / name).stat().st_size
    whole = collect(iter_texts(sources / name)[1], "").columns
    assert whole["text"] == TEXTS
    for item in scanned.items:
        assert read_item(item).columns == {
            column: values[item.first : item.first + item.rows] for column, values in whole.items()
        }


def test_names_of_parts_follow_from_the_items(sources):
    first, again = (look(str(sources / "a.csv"), 5).items for _ in range(2))
    other = look(str(sources / "a.tsv"), 5).items
    assert [item.part for item in first] == [item.part for item in again]
    assert len({item.part for item in (*first, *other)}) == 10
    assert first[1].part.endswith("-000000000005-000005.parquet")


@pytest.mark.parametrize("place", ["here", "store"])
def test_a_bad_row_is_named_with_its_file_and_line(tmp_path, place):
    content = "\n".join(["text", "good", '"two\nlines"', '""', "good"]).encode()
    source = str(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_bytes(content)
    if place == "store":
        source = "memory://bad/bad.csv"
        fsspec.filesystem("memory").pipe_file("/bad/bad.csv", content)
    with pytest.raises(UserError) as error:
        look(source, 2)
    assert str(error.value) == f"{source}: row 3 (line 5): column 'text' is empty"


def test_errors_of_a_store_name_the_url():
    fsspec.filesystem("memory").pipe_file("/bad/bad.jsonl", b'{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match=r"^memory://bad/bad\.jsonl: line 2: "):
        look("memory://bad/bad.jsonl", 2)
    with pytest.raises(UserError, match=r"^memory://bad/none\.jsonl: cannot be read"):
        look("memory://bad/none.jsonl", 2)


def test_a_column_that_the_results_need_is_refused(sources):
    with pytest.raises(UserError, match=r"a\.csv: has a column 'note', which the results need; rename it"):
        look(str(sources / "a.csv"), 5, ["source", "note"])


def test_sources_are_files_patterns_or_folders(sources, memory):
    here = [str(sources / name) for name in NAMES]
    assert list_sources(str(sources)) == here
    assert list_sources(str(sources / "*.jsonl*")) == here[2:4]
    assert list_sources(memory) == [f"{memory}/{name}" for name in NAMES]
    assert list_sources(f"{memory}/*.jsonl*") == [f"{memory}/a.jsonl", f"{memory}/a.jsonl.gz"]
    assert list_sources(f"{memory}/**/a.[ct]sv") == [f"{memory}/a.csv", f"{memory}/a.tsv"]
    assert list_sources(f"{memory}/a.csv") == [f"{memory}/a.csv"]
    for nothing in (f"{memory}/*.parq", "memory://other"):
        with pytest.raises(UserError, match=r"no data files found; allowed suffixes: \.csv, "):
            list_sources(nothing)


def test_a_url_survives_being_a_path():
    assert as_url("s3:/bucket/folder") == as_url("s3://bucket/folder") == "s3://bucket/folder"
    assert as_url("/data/x") == "/data/x"


@pytest.mark.parametrize("place", ["here", "store"])
def test_parts_manifest_and_going_on(sources, tmp_path, place):
    """What a worker writes, twice over, is every row once with the vector of its text; only missing parts are made."""
    out = str(tmp_path / "out") if place == "here" else "memory://out"
    names = ["a.csv", "a.parquet"]
    job = EmbedJob(EmbedConfig("mini", device="cpu", normalize=True))
    assert job.prepare(first_rows(str(sources / "a.csv"), 4)) == [
        "using column 'text' as the text (guessed; set it with --text)"
    ]
    scans = [scan_for(job, [], 5, str(sources / name)) for name in names]
    items = [item for one in scans for item in one.items]
    schema = pa.unify_schemas([one.schema for one in scans])
    check_folder(out, resume=False)
    description = describe({"model": "mini", "max_length": None}, "mini", scans)
    open_run(out, description)
    maker = PartMaker(job, schema, out)
    for item in items[:3]:
        maker(item)
    with pytest.raises(UserError, match=f"the part {items[3].part} of .*a.csv is gone"):
        write_manifest(out, description, items, {}, {})
    assert missing(out, items) == items[3:]
    with pytest.raises(UserError, match="is not empty; pass --resume to continue its run"):
        check_folder(out, resume=False)
    check_folder(out, resume=True)
    open_run(out, description)
    made = called(maker, items)
    assert made["index"] == list(range(len(items)))
    assert set(made["error"]) == {""}
    manifest = write_manifest(out, description, items, {"funnelformer": "1"}, {"here:1": {"parts": 10}})
    written = list_files(out)
    assert json.loads(read_range(f"{out}/manifest.json", 0, written["manifest.json"])) == manifest
    assert manifest["rows"] == 46
    assert [part["first_row"] for part in manifest["parts"]] == [1, 6, 11, 16, 21] * 2
    found = {}
    for part in manifest["parts"]:
        content = read_range(inside(out, part["file"]), 0, part["bytes"])
        for row in pq.read_table(pa.BufferReader(content)).to_pylist():
            assert found.setdefault((row["source"], row["row"]), row) is row
    vectors = load_embedder("mini", device="cpu", normalize=True).vectors(TEXTS)
    for name in names:
        for number, text in enumerate(TEXTS):
            row = found.pop((str(sources / name), number + 1))
            assert row["text"] == text
            assert row["note"] == ("two\nlines" if name == "a.csv" else None)
            assert row["embedding"] == pytest.approx(vectors[number], abs=1e-5)
    assert found == {}
    if place == "store":
        fsspec.filesystem("memory").rm("/out", recursive=True)


def test_a_change_is_refused_by_name(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    out = str(tmp_path / "out")
    scans = [look(str(tmp_path / "a.txt"), 1)]
    before = describe({"model": "mini", "max_length": None}, "mini", scans)
    open_run(out, before)
    changed = describe({"model": "mini", "max_length": 8}, "mini", scans)
    with pytest.raises(UserError, match="setting max_length changed from None to 8 since the run began"):
        open_run(out, changed)
    files = {name: digest for name, digest in before["model_files"].items() if name != "config.json"}
    with pytest.raises(UserError, match=r"the model's file config\.json is gone since"):
        open_run(out, before | {"model_files": files})
    item = scans[0].items[1]
    (tmp_path / "a.txt").write_text("one\nTWO\n")
    again = describe({"model": "mini", "max_length": None}, "mini", [look(str(tmp_path / "a.txt"), 1)])
    with pytest.raises(UserError, match=r"source .*a\.txt changed since the run began"):
        open_run(out, again)
    (tmp_path / "a.txt").write_text("one\n")
    made = called(PartMaker(EmbedJob(EmbedConfig("mini")), scans[0].schema, out), [item])
    assert made["error"] == [f"{tmp_path / 'a.txt'}: changed while it was read"]
    assert not list_files(f"{out}/parts")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.0.0.1:6379", "--ray-address 10.0.0.1:6379: no cluster answers (refused)"),
        (None, "--engine ray: Ray does not start on this machine (refused)"),
    ],
)
def test_a_cluster_that_does_not_answer_is_named(monkeypatch, address, message):
    def init(**options):
        raise ConnectionError("refused")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with (
        pytest.raises(UserError) as caught,
        on_cluster(ClusterOptions(engine="ray", ray_address=address)),
    ):
        pass
    assert str(caught.value) == message


def test_a_folder_of_something_else_is_not_gone_on_with(tmp_path):
    write_whole(str(tmp_path / "out" / "mine.txt"), b"mine")
    with pytest.raises(UserError, match="is not empty; choose another"):
        check_folder(str(tmp_path / "out"), resume=False)
    with pytest.raises(UserError, match=r"has no run\.json"):
        check_folder(str(tmp_path / "out"), resume=True)


def test_labels_are_those_of_one_machine(toy, tmp_path):
    names = {0: "no", 1: "yes, maybe"}
    tokenizer = load_tokenizer(toy.tokenizer)
    config = FunnelformerConfig.from_name("B1-1H16", vocab_size=len(tokenizer), id2label=names)
    FunnelformerForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    source = tmp_path / "a.txt"
    source.write_text("\n".join(TEXTS[:7]))
    predict(str(tmp_path / "model"), str(source), out=tmp_path / "out.jsonl", device="cpu")
    expected = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    job = PredictJob(PredictConfig(str(tmp_path / "model"), device="cpu"))
    rows = rows_made(job, source, tmp_path / "out", 3)
    assert [row.pop("row") for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert {row.pop("source") for row in rows} == {str(source)}
    for row, one in zip(rows, expected, strict=True):
        assert (row["text"], row["prediction"]) == (one["text"], one["prediction"])
        assert row["probability"] == pytest.approx(one["probability"], abs=2e-6)
        assert row["probabilities"] == pytest.approx(one["probabilities"], abs=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray_address": "1.2.3.4:5"}, "--ray-address needs --engine ray"),
        ({"resume": True}, "--resume needs --engine ray"),
        ({"rows_per_part": 7}, "--rows-per-part needs --engine ray"),
        ({"engine": "ray", "overwrite": True}, "--overwrite does not go with --engine ray"),
        ({"engine": "ray", "rows_per_part": 0}, "--rows-per-part is 0; allowed: 1 or more"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        EmbedConfig("mini", "x.txt", **options)
