"""Folders of data: their own files are read, whatever a card or a link in them says."""

from __future__ import annotations

import json
import socket

import datasets
import pytest

from data.support import error_of, write
from funnelformer.corpus.documents import documents_of, expand_sources
from funnelformer.data.tables import read_table
from funnelformer.tasks.releases import find_task
from funnelformer.tasks.task import read_part


@pytest.fixture
def secret(tmp_path):
    """A file beside the folder that is named."""
    return write(tmp_path / "secret.jsonl", '{"text": "secret", "label": "x"}\n')


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def offline(monkeypatch):
    """No name is looked up and no connection is made."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was asked: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def card(folder, data_files, name="README.md", **entries):
    configs = [{"config_name": "default", "data_files": data_files, **entries}]
    write(folder / name, f"---\nconfigs: {json.dumps(configs)}\n---\n# Data\n")


OUTSIDE = [
    "../secret.jsonl",
    "http://127.0.0.1:9/x.jsonl",
    "hf://datasets/a/b/x.jsonl",
    "zip://x::http://h/y.zip",
]


@pytest.mark.parametrize("named", [*OUTSIDE, "/etc/passwd", "~/x.jsonl"])
@pytest.mark.parametrize("form", ["text", "list", "split", "mapping"])
def test_a_card_that_names_other_files_is_refused(folder, secret, offline, named, form):
    write(folder / "a.jsonl", '{"text": "a"}\n')
    write(folder / "b.jsonl", '{"text": "b"}\n')
    data_files = {
        "text": named,
        "list": ["a.jsonl", named],
        "split": [{"split": "train", "path": ["a.jsonl", named]}],
        "mapping": {"train": named},
    }[form]
    card(folder, data_files)
    message = error_of(read_table, folder, split="train")
    assert message.startswith(f"{folder / 'README.md'}: names {named!r} as data, which is not in its folder")


def test_a_card_with_another_data_dir_is_refused(folder, secret, offline):
    for name in ("a", "b"):
        write(folder / f"{name}.jsonl", '{"text": "a"}\n')
    card(folder, "a.jsonl", data_dir="..")
    assert "names '..' as data" in error_of(read_table, folder, split="train")


def test_a_card_says_which_files_are_a_split(folder, offline):
    """Also of files whose names say nothing; of a pattern; a further file is left out."""
    for name in ("en/1", "en/2", "fr/1", "other"):
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / f"{name}.jsonl", json.dumps({"text": name}) + "\n")
    card(folder, [{"split": "train", "path": "en/*.jsonl"}, {"split": "test", "path": ["fr/1.jsonl"]}])
    assert read_table(folder, split="train").columns == {"text": ["en/1", "en/2"]}
    assert read_table(folder, split="test").columns == {"text": ["fr/1"]}
    assert "it has train, test" in error_of(read_table, folder, split="dev")
    card(folder, [{"split": "train", "path": "de/*.jsonl"}])
    assert "no table in the folder is called de/*.jsonl" in error_of(read_table, folder, split="train")


def test_splits_by_the_names_of_files_and_folders(folder, offline):
    for name in (
        "data/train-00000-of-00002",
        "data/train-00001-of-00002",
        "data/more-00000-of-00001",
        "x/dev/1",
    ):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        write(folder / f"{name}.jsonl", json.dumps({"text": name}) + "\n")
    train = read_table(folder, split="train")
    assert train.columns == {"text": ["data/train-00000-of-00002", "data/train-00001-of-00002"]}
    assert read_table(folder, split="validation").columns == {"text": ["x/dev/1"]}
    assert read_table(folder, split="more").columns == {"text": ["data/more-00000-of-00001"]}
    assert "has the splits more, train, validation; name one" in error_of(read_table, folder)


def test_a_script_of_a_folder_is_not_run(folder, tmp_path, offline):
    write(folder / "data.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    write(folder / "dataset_infos.json", json.dumps({"default": {"download_checksums": {OUTSIDE[1]: {}}}}))
    for name in ("a", "b"):
        write(folder / f"{name}.jsonl", json.dumps({"text": name}) + "\n")
    assert read_table(folder, split="train").columns == {"text": ["a", "b"]}
    assert not (tmp_path / "ran").exists()


def test_a_link_out_of_the_folder_is_refused(folder, secret):
    """A link inside the folder is a file of it."""
    write(folder / "test.jsonl", '{"text": "a"}\n')
    (folder / "dev.jsonl").symlink_to("test.jsonl")
    assert read_table(folder, split="dev").columns == {"text": ["a"]}
    (folder / "train.jsonl").symlink_to(secret)
    message = error_of(read_table, folder, split="train")
    assert message == (
        f"{folder / 'train.jsonl'}: is a link to {secret}, outside of the folder {folder}; name the file itself, or "
        "copy it there"
    )
    # Named by the user, a link is a file like others.
    assert read_table(folder / "train.jsonl").columns["text"] == ["secret"]


def test_links_of_the_cache_of_the_hub_are_followed(tmp_path):
    blob = tmp_path / "datasets--a--b/blobs/0123"
    blob.parent.mkdir(parents=True)
    write(blob, '{"text": "a"}\n')
    snapshot = tmp_path / "datasets--a--b/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").symlink_to("../../blobs/0123")
    assert read_table(snapshot, split="train").columns == {"text": ["a"]}


def test_a_task_file_that_is_a_link_is_refused(folder, tmp_path):
    outside = write(tmp_path / "elsewhere.tsv", "gj04\t1\t\tA text.\n")
    (folder / "train.tsv").symlink_to(outside)
    task = find_task("cola")
    assert f"is a link to {outside}" in error_of(read_part, task, str(folder), task.of_role("train")[0])


@pytest.mark.parametrize(
    "read", [read_table, lambda folder: list(documents_of(expand_sources([folder])[0], None))]
)
def test_a_saved_data_set_names_its_own_files(folder, tmp_path, read):
    datasets.Dataset.from_dict({"text": ["a b c"]}).save_to_disk(str(folder))
    other = tmp_path / "other"
    datasets.Dataset.from_dict({"text": ["secret"]}).save_to_disk(str(other))
    assert "no file of the folder" not in str(read(folder))
    state = json.loads((folder / "state.json").read_text())
    (name,) = (entry["filename"] for entry in state["_data_files"])
    state["_data_files"] = [{"filename": f"../other/{name}"}]
    (folder / "state.json").write_text(json.dumps(state))
    message = error_of(read, folder)
    assert message.startswith(
        f"{folder / 'state.json'}: names '../other/{name}', which is not a file of the folder"
    )


def test_class_names_of_parquet(folder):
    """As of a saved data set, whatever way the file is named."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    file = folder / "train-00000-of-00001.parquet"
    data.to_parquet(str(file))
    for table in (read_table(file), read_table(folder, split="train"), read_table(folder)):
        assert table.columns == {"text": ["a", "b"], "label": ["pos", "neg"]}
