"""Preparing a folder: the same bytes by any way, kept when interrupted, and refused in one line when it will not do."""

import dataclasses
import hashlib
import json
from pathlib import Path

import datasets
import pytest

from data.support import error_of, number_tokenizer, words, write
from funnelformer.corpus import parts
from funnelformer.corpus import prepare as prepare_module
from funnelformer.corpus.build import iter_parts, rows_from_text
from funnelformer.corpus.documents import iter_documents
from funnelformer.corpus.manifest import hash_tokenizer, is_shard, is_split, length_histogram
from funnelformer.corpus.prepare import prepare
from funnelformer.corpus.prepare_config import PrepareConfig
from funnelformer.corpus.prepared import is_prepared, open_prepared, read_manifest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three files of 40 documents of 8 sentences, and a tokenizer."""
    folder = tmp_path_factory.mktemp("corpus")
    for name in "abc":
        texts = []
        for document in range(40):
            first = 5 + (ord(name) + 11 * document) % 800
            texts.append("\n".join(words(first + 4 * s, first + 4 * s + 4 + document % 3) for s in range(8)))
        write(folder / f"{name}.txt", "\n\n".join(texts))
    number_tokenizer().save_pretrained(folder / "tok")
    return folder


@pytest.fixture
def settings(corpus, tmp_path):
    def make(out="out", **changes):
        values = {
            "train": [str(corpus / "*.txt")],
            "tokenizer": corpus / "tok",
            "out": tmp_path / out,
            "block_size": 32,
            "validation_fraction": 0.1,
            "part_chars": 2000,
            "workers": 1,
        }
        return PrepareConfig(**{**values, **changes})

    return make


def content(folder):
    """Every file but those that tell of the jobs."""
    return {
        path.name: path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != "settings.json" and path.parent.name != "jobs"
    }


def test_what_is_in_the_folder(settings, corpus):
    config = settings()
    counts = prepare(config)
    manifest = read_manifest(config.out)
    assert is_prepared(config.out)
    assert manifest["tokenizer_sha256"] == hash_tokenizer(number_tokenizer())
    assert manifest["rows"] == dataclasses.asdict(config.rows)
    assert [source["name"] for source in manifest["sources"]] == ["a.txt", "b.txt", "c.txt"]
    total = 0
    for split, entry in manifest["splits"].items():
        assert entry["documents"] == counts[f"{split}_documents"] == sum(entry["document_lengths"].values())
        assert entry["tokens"] == counts[f"{split}_tokens"]
        assert len(entry["shards"]) > 3
        for shard in entry["shards"]:
            path = config.out / shard["file"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
            assert len(datasets.Dataset.from_file(str(path))) == shard["rows"]
        total += entry["documents"]
    assert total == 120
    # 32 to 48 tokens a document
    assert set(manifest["splits"]["train"]["document_lengths"]) == {"32"}
    data = open_prepared(config.out, number_tokenizer())
    assert {split: len(rows) for split, rows in data.items()} == {
        split: entry["rows"] for split, entry in manifest["splits"].items()
    }


def test_a_histogram_counts_by_powers_of_two():
    assert length_histogram([1, 2, 3, 4, 7, 8, 1000]) == {"1": 1, "2": 2, "4": 2, "8": 1, "512": 1}


@pytest.mark.parametrize("form", ["single", "structure"])
def test_one_file_prepared_is_the_rows_made_in_memory(settings, corpus, form):
    config = settings(train=[str(corpus / "a.txt")], form=form, seed=5)
    prepare(config)
    data = open_prepared(config.out, number_tokenizer())
    expected = rows_from_text(corpus / "a.txt", number_tokenizer(), config.rows)
    assert {s: d[:] for s, d in data.items()} == {s: d[:] for s, d in expected.items()}


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_workers(settings):
    prepare(settings("one", form="structure"))
    prepare(settings("two", form="structure", workers=2))
    assert content(settings("one").out) == content(settings("two").out)
    assert len(content(settings("one").out)) > 10


@pytest.mark.parametrize("jobs", [2, 3, 5])
@pytest.mark.parametrize("group_bytes", [16_000_000, 1])
def test_the_bytes_do_not_depend_on_jobs(settings, monkeypatch, jobs, group_bytes):
    """In any order of the jobs; with one group of files, or one for each."""
    monkeypatch.setattr(prepare_module, "_GROUP_BYTES", group_bytes)
    prepare(settings("whole"))
    for number in reversed(range(1, jobs + 1)):
        assert ("manifest.json" in content(settings("parts").out)) is False
        counts = prepare(settings("parts", shard=f"{number}/{jobs}"))
    assert "jobs_missing" not in counts
    assert content(settings("whole").out) == content(settings("parts").out)


def test_the_seed_changes_the_rows(settings):
    prepare(settings("one"))
    prepare(settings("two", seed=1))
    one, two = content(settings("one").out), content(settings("two").out)
    assert one.keys() == two.keys()
    assert all(one[name] != two[name] for name in one if name.startswith("train"))


def test_an_interrupted_run_keeps_what_is_finished(settings, monkeypatch):
    """Only what is not finished is made again; what a kill left half-written is no obstacle."""
    prepare(settings("whole"))
    config, made = settings("out"), []
    original = parts.build_part

    def build(documents, tokenizer, rows, key):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(key)
        return original(documents, tokenizer, rows, key)

    monkeypatch.setattr(parts, "build_part", build)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert "the preparation is not finished; run funnelformer prepare again" in error_of(
        open_prepared, config.out, number_tokenizer()
    )
    # As if killed between the rows of a part and the file of its counts.
    (config.out / "parts" / "00000-00002.json").unlink()
    monkeypatch.setattr(parts, "build_part", lambda *a: made.append(a[3]) or original(*a))
    prepare(config)
    assert made[:3] == [(0, 0), (0, 1), (0, 2)]
    assert made[3:] == sorted(set(made[3:]))
    assert made[3] == (0, 2)
    assert content(settings("whole").out) == content(config.out)
    made.clear()
    prepare(config)
    assert made == []


def test_parts_made_by_other_means(settings, corpus, tmp_path):
    """The functions an engine would call give the same shards; their folder trains."""
    config = settings(train=[str(corpus / "a.txt")])
    prepare(config)
    out, tokenizer = tmp_path / "own", number_tokenizer()
    for number, texts in enumerate(iter_parts(iter_documents(corpus / "a.txt"), config.part_chars)):
        parts.prepare_part(texts, tokenizer, config.rows, (0, number), out)
    parts.finish_parts(out, tokenizer, config.rows)
    ours, theirs = content(config.out), content(out)
    assert ours.keys() == theirs.keys()
    assert all(theirs[name] == ours[name] for name in ours if name != "manifest.json")
    assert len(open_prepared(out, tokenizer, block_size=32)["train"]) > 20


def test_a_folder_begun_otherwise_is_refused(settings, corpus):
    prepare(settings())
    out = settings().out
    for change, expected in (
        ({"seed": 1}, "was begun with seed = 42, now it is 1; choose another --out"),
        ({"block_size": 64}, "was begun with block_size = 32, now it is 64"),
        ({"shard": "1/2"}, "was begun with jobs = 1, now it is 2"),
        (
            {"train": [str(corpus / "a.txt")]},
            "was begun with other files: b.txt differs; choose another --out",
        ),
    ):
        assert expected in error_of(prepare, settings(**change))
    (out.parent / "full").mkdir()
    write(out.parent / "full" / "x", "x")
    assert "full is not empty, and prepare did not begin it" in error_of(prepare, settings("full"))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_shards_that_cannot_be(settings, shard):
    assert error_of(settings, shard=shard) == f"--shard is {shard!r}; allowed: i/n with i from 1 to n, as 3/8"


def test_text_that_gives_nothing(settings, tmp_path):
    blank = write(tmp_path / "blank.txt", "\n \n")
    assert error_of(prepare, settings(train=[str(blank)])) == "blank.txt: there is no text in the corpus"
    little = write(tmp_path / "little.txt", "4 5 6")
    assert "the text gives no row" in error_of(prepare, settings("b", train=[str(little)]))


def test_jobs_that_are_missing_are_named(settings):
    counts = prepare(settings(shard="2/3"))
    assert counts["jobs_missing"] == "1/3, 3/3"
    assert error_of(read_manifest, settings().out).endswith(
        "the preparation is not finished; run funnelformer prepare again (--shard 1/3, 3/3)"
    )


def test_data_that_do_not_fit_the_training(settings):
    config, tokenizer = settings(), number_tokenizer()
    prepare(config)
    other = number_tokenizer()
    other.add_tokens(["new"])
    assert "was prepared with another tokenizer" in error_of(open_prepared, config.out, other)
    message = error_of(open_prepared, config.out, tokenizer, block_size=64)
    assert message == (
        f"{config.out}: was prepared in blocks of 32 tokens, which cannot fill blocks of 64; "
        "leave out --block-size, or prepare the text again"
    )
    message = error_of(open_prepared, config.out, tokenizer, pairs=True)
    assert message.endswith("was prepared with form 'single'; this objective needs --form structure")


def test_broken_and_missing_shards(settings):
    config, tokenizer = settings(), number_tokenizer()
    prepare(config)
    entry = read_manifest(config.out)["splits"]["train"]["shards"][1]
    file = config.out / entry["file"]
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    size = f"it has {len(whole) - 7:,} of {len(whole):,} bytes"
    assert f"{file}: this shard is broken, {size}" in error_of(open_prepared, config.out, tokenizer)
    file.write_bytes(bytes(len(whole)))
    assert f"{file}: this shard is broken (" in error_of(open_prepared, config.out, tokenizer)
    file.unlink()
    message = f"{file}: this shard is missing; run funnelformer prepare again"
    assert error_of(open_prepared, config.out, tokenizer) == message
    # And that does mend it: the part's file of counts does not stand for files that are not there.
    prepare(config)
    assert file.read_bytes() == whole
    (config.out / "manifest.json").write_text("{")
    assert f"{config.out / 'manifest.json'}: line 1: not valid JSON" in error_of(
        open_prepared, config.out, tokenizer
    )


def test_the_hash_of_a_tokenizer_is_of_its_ids_alone():
    one, other = number_tokenizer(), number_tokenizer()
    one("4 5 6", truncation=True, max_length=4, padding="max_length")
    assert hash_tokenizer(one) == hash_tokenizer(other)
    other.add_tokens(["new"])
    assert hash_tokenizer(one) != hash_tokenizer(other)


def test_what_a_file_says_of_a_split_is_checked():
    entry = {"rows": 3, "row_tokens": 40, "documents": 2, "tokens": 42, "document_lengths": {"16": 2}}
    entry |= {"file": "train-00003-00012.arrow", "bytes": 900, "sha256": "ab"}
    assert is_split("train", entry)
    assert is_shard("train", entry)
    for change in ({"rows": -1}, {"rows": True}, {"tokens": None}, {"document_lengths": {"3": 1}}):
        assert not is_split("train", entry | change)
    assert not is_split("test", entry)
    assert not is_split("train", [entry])
    outside = ("../train-00003-00012.arrow", "/train-00003-00012.arrow", "train-00003-00012.arrow\n")
    for name in (*outside, "validation-00003-00012.arrow", "train-00003.arrow", "train-3-12.arrow", 3):
        assert not is_shard("train", entry | {"file": name})
    for change in ({"bytes": 1 << 63}, {"rows": 3.0}, {"sha256": None}):
        assert not is_shard("train", entry | change)


def test_settings_are_readable(settings):
    config = settings()
    prepare(config)
    assert json.loads((config.out / "settings.json").read_text())["rows"]["block_size"] == 32
