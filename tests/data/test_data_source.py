"""One rule says what a name given for data is, whichever command reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from funnelformer.corpus.documents import SavedDataset, expand_sources
from funnelformer.data.data_source import DataFile, DataFolder, HubData, find_data


def test_what_is_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "name").mkdir()
    (tmp_path / "file").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert find_data("user/name") == DataFolder(Path("user/name"), is_saved=False)
    (tmp_path / "user" / "name" / "state.json").write_text("{}")
    assert find_data("user/name") == DataFolder(Path("user/name"), is_saved=True)
    for name in ("file", "link", "user/nmae", "train.tsv", "data.txt.gz", "parts/*.txt", "/no/where", "a b"):
        assert find_data(name) == DataFile(Path(name)), name


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_data("imdb") == HubData("imdb")
    assert find_data("glue:cola") == HubData("glue", "cola")
    assert find_data("user/name-1.0:plain") == HubData("user/name-1.0", "plain")
    # Of a corpus too.
    assert expand_sources(["imdb", "user/name"]) == [SavedDataset("imdb"), SavedDataset("user/name")]
