"""What the demo fetches: the file we know or none, and names that stay in their folder."""

from __future__ import annotations

import hashlib
import zipfile

import fetch
import pytest


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Writes an archive of these files; its weights are the ones that are wanted."""

    def write(files: dict[str, bytes]):
        path = tmp_path / "model.zip"
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return path

    monkeypatch.setattr(fetch, "WEIGHTS_SHA256", hashlib.sha256(b"weights").hexdigest())
    return write


def test_the_encoder_is_unpacked_once(tmp_path, archive):
    folder = tmp_path / "encoder"
    packed = archive({"model.safetensors": b"weights", "1_Pooling/config.json": b"{}"})
    fetch.unpack_encoder(folder, packed)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"{}"
    packed.unlink()
    fetch.unpack_encoder(folder, packed)


def test_other_weights_are_refused_and_not_kept(tmp_path, archive):
    packed = archive({"config.json": b"{}", "model.safetensors": b"other"})
    with pytest.raises(fetch.FetchError, match=r"model\.safetensors has SHA-256 d9298a10.*, wanted "):
        fetch.unpack_encoder(tmp_path / "encoder", packed)
    assert not (tmp_path / "encoder" / "model.safetensors").exists()


def test_weights_that_changed_since_are_refused(tmp_path, archive):
    folder = tmp_path / "encoder"
    fetch.unpack_encoder(folder, archive({"model.safetensors": b"weights"}))
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(fetch.FetchError, match="SHA-256"):
        fetch.unpack_encoder(folder)


def test_an_archive_without_weights_is_refused(tmp_path, archive):
    with pytest.raises(fetch.FetchError, match=r"has no model\.safetensors"):
        fetch.unpack_encoder(tmp_path / "encoder", archive({"config.json": b"{}"}))


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "C:outside", "..\\outside"])
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path, archive, name):
    packed = archive({"config.json": b"{}", name: b"x", "model.safetensors": b"weights"})
    with pytest.raises(fetch.FetchError, match="leads out of its folder"):
        fetch.unpack_encoder(tmp_path / "encoder", packed)
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_another_package_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_download", lambda project, version: b"something else")
    file = tmp_path / fetch.PACKAGE
    with pytest.raises(fetch.FetchError, match=r"vaderSentiment-3\.3\.2\.tar\.gz has SHA-256"):
        fetch.fetch_package(file)
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_there_is_checked_and_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_download", None)
    monkeypatch.setattr(fetch, "PACKAGE_SHA256", hashlib.sha256(b"package").hexdigest())
    file = tmp_path / fetch.PACKAGE
    file.write_bytes(b"package")
    fetch.fetch_package(file)
    file.write_bytes(b"another")
    with pytest.raises(fetch.FetchError, match="wanted"):
        fetch.fetch_package(file)


def test_a_source_distribution_is_found_where_pip_looks_and_not_run(tmp_path, monkeypatch):
    """In a folder of pip's configuration: the wheel beside it is passed over, and setup.py would end the test."""
    links = tmp_path / "links"
    links.mkdir()
    content = b"no archive at all, so that whatever opened it would fail"
    (links / "madeupproject-1.0.tar.gz").write_bytes(content)
    (links / "madeupproject-1.0-py3-none-any.whl").write_bytes(b"a wheel")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    assert fetch._download("madeupproject", "1.0") == content
    with pytest.raises(fetch.FetchError, match="no package index that pip knows has"):
        fetch._download("madeupproject", "2.0")
