"""A run goes on with the data it began with, or is refused: the file that changed is named."""

from __future__ import annotations

import json
import shutil

import pytest

from training.toy import FINETUNE, PRETRAIN, animal_rows, fails, interrupted_at, run, tree, write_table


@pytest.fixture
def data(tmp_path):
    return write_table(tmp_path / "train.tsv", animal_rows(32)), write_table(
        tmp_path / "dev.tsv", animal_rows(16, seed=1)
    )


def swapped(rows):
    """As many bytes: only a hash tells."""
    return [(text, {"yes": "no ", "no": "yes"}[label].strip()) for text, label in rows]


def begun(toy, data, out, *flags):
    """The options of a run that was interrupted after its second checkpoint."""
    options = (
        "--model",
        toy.pretrained,
        "--train",
        data[0],
        "--dev",
        data[1],
        "--out",
        out,
        "--epochs",
        4,
        *flags,
    )
    with interrupted_at(9):
        assert run(FINETUNE, *options) == 130
    return options


@pytest.mark.parametrize("flag", ["--resume", "--auto-resume"])
@pytest.mark.parametrize("which", [0, 1])
def test_changed_data_are_refused(toy, data, tmp_path, capsys, flag, which):
    out = tmp_path / "out"
    options = begun(toy, data, out)
    original = data[which].read_bytes()
    write_table(data[which], swapped(animal_rows(32 if which == 0 else 16, seed=which)))
    assert len(data[which].read_bytes()) == len(original)
    before = tree(out)
    message = fails(capsys, FINETUNE, *options, flag)
    assert message.startswith(f"{data[which]}: has changed since the run in {out} began")
    assert tree(out) == before
    data[which].write_bytes(original)
    assert run(FINETUNE, *options, flag) == 0
    # A finished run is compared as well.
    write_table(data[which], [*animal_rows(16), ("a new one .", "maybe")])
    assert f"{data[which]}: has changed" in fails(capsys, FINETUNE, *options, flag)


def test_a_new_tokenizer_is_refused(toy, data, tmp_path, capsys):
    tokenizer, out = tmp_path / "tok", tmp_path / "out"
    shutil.copytree(toy.tokenizer, tokenizer)
    options = begun(toy, data, out, "--tokenizer", tokenizer)
    file = tokenizer / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert f"{file}: has changed" in fails(capsys, FINETUNE, *options, "--resume")


def test_files_of_a_folder(toy, tmp_path, capsys):
    """A file that is new, changed or gone."""
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    for name, seed in (("train", 0), ("dev", 1)):
        write_table(folder / f"{name}.tsv", animal_rows(32, seed=seed))
    options = begun(toy, (folder, folder), out)
    extra = folder / "notes.txt"
    extra.write_text("x")
    assert f"{extra}: is new since the run" in fails(capsys, FINETUNE, *options, "--resume")
    extra.unlink()
    moved = (folder / "dev.tsv").rename(tmp_path / "moved.tsv")
    assert f"{folder / 'dev.tsv'}: is not there since" in fails(capsys, FINETUNE, *options, "--resume")
    moved.rename(folder / "dev.tsv")
    assert run(FINETUNE, *options, "--resume") == 0


def test_seeds_and_sweeps(toy, data, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--model", toy.pretrained, "--train", data[0], "--dev", data[1], "--out", out, "--steps", 2)
    options = (*options, "--evaluate-every", 2, "--seeds", 2)
    assert run(FINETUNE, *options) == 0
    write_table(data[0], swapped(animal_rows(32)))
    assert f"{data[0]}: has changed since the run in {out} began" in fails(
        capsys, FINETUNE, *options, "--resume"
    )


def test_pretraining_on_changed_text(toy, tmp_path, capsys):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "out"
    corpus.write_bytes(toy.corpus.read_bytes())
    options = ("--train", corpus, "--tokenizer", toy.tokenizer, "--out", out)
    with interrupted_at(11):
        assert run(PRETRAIN, *options) == 130
    corpus.write_text(corpus.read_text().replace("cat", "dog"))
    assert f"{corpus}: has changed since" in fails(capsys, PRETRAIN, *options, "--resume")
    corpus.write_bytes(toy.corpus.read_bytes())
    assert run(PRETRAIN, *options, "--resume") == 0


def test_preparing_changed_text(toy, tmp_path, capsys):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "out"
    corpus.write_bytes(toy.corpus.read_bytes())
    options = (
        "--train",
        corpus,
        "--tokenizer",
        toy.tokenizer,
        "--out",
        out,
        "--workers",
        1,
        "--block-size",
        16,
    )
    assert run("prepare", *options) == 0
    corpus.write_text(corpus.read_text().replace("cat", "dog"))
    message = fails(capsys, "prepare", *options)
    assert message == f"{out} was begun with other files: corpus.txt differs; choose another --out"


def test_the_hashes_are_in_the_folder(toy, data, tmp_path):
    begun(toy, data, tmp_path / "out")
    noted = json.loads((tmp_path / "out" / "inputs.json").read_text())["sha256"]
    assert {str(file) for file in data} <= noted.keys()
    assert all(len(value) == 64 for value in noted.values())
