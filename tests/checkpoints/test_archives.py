"""Released archives: what is read, what is refused, and that nothing is written elsewhere."""

from __future__ import annotations

import io
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funnelformer.base.errors import UserError
from funnelformer.checkpoints import archives
from funnelformer.checkpoints.convert import convert


def pack(source: Path, path: Path, inner: str = "release", mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(source, inner)
    return path


@pytest.fixture
def release(golden: Path, tmp_path: Path) -> Path:
    return pack(golden / "pt_single_sep", tmp_path / "B3H32.tar.gz")


def test_an_archive_converts_as_its_folder_does(golden: Path, release: Path, tmp_path: Path) -> None:
    report = convert(release, tmp_path / "a")
    convert(golden / "pt_single_sep", tmp_path / "b")
    assert (report.source, report.source_format) == (str(release), "original-torch")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        path.name for path in (tmp_path / "b").iterdir()
    }
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("mode", "name"), [("w", "x.tar"), ("w:gz", "x.tgz")])
def test_other_suffixes_and_no_inner_folder(golden: Path, tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for file in (golden / "pt_single_sep").iterdir():
            tar.add(file, file.name)
    assert convert(path, tmp_path / "out", dry_run=True).num_tensors == 63


def member(name: str, content: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry, content


EVIL: dict[str, tuple[tuple[tarfile.TarInfo, bytes], str]] = {
    "parent": (member("../evil.txt"), "would lie outside"),
    "deep parent": (member("a/b/../../../evil.txt"), "would lie outside"),
    "absolute": (member("/tmp/evil-of-a-test.txt"), "would lie outside"),
    "backslash": (member("..\\evil.txt"), "would lie outside"),
    "symbolic link": (member("link", b"", type=tarfile.SYMTYPE, linkname="/etc"), "link or a device"),
    "hard link": (member("link", b"", type=tarfile.LNKTYPE, linkname="../evil"), "link or a device"),
    "character device": (member("null", b"", type=tarfile.CHRTYPE), "link or a device"),
    "block device": (member("disk", b"", type=tarfile.BLKTYPE), "link or a device"),
    "pipe": (member("pipe", b"", type=tarfile.FIFOTYPE), "link or a device"),
    "twice": (member("release/vocab.uncased.txt"), "damaged"),
    "file as folder": (member("release/vocab.uncased.txt/x"), "damaged"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_members(kind: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry, content), expected = EVIL[kind]
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(golden / "pt_single_sep", "release")
        tar.addfile(entry, io.BytesIO(content))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(UserError, match=expected) as error:
        convert(path, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"evil.tar.gz", "temporary"}
    assert not list(temporary.iterdir())
    assert not Path("/tmp/evil-of-a-test.txt").exists()


def test_bombs(tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.tar.gz"
    with tarfile.open(zeros, "w:gz") as tar:
        entry, content = member("model.pt", bytes(40 << 20))
        tar.addfile(entry, io.BytesIO(content))
    many = tmp_path / "many.tar.gz"
    with tarfile.open(many, "w:gz") as tar:
        for i in range(archives._MAX_FILES + 1):
            tar.addfile(member(str(i), b"")[0])
    header = tmp_path / "header.tar.gz"
    with tarfile.open(header, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member("x", b"", pax_headers={"comment": "a" * (1 << 20)})[0])
    for path, expected in (
        (zeros, "unpacks to more"),
        (many, "more than 1000 entries"),
        (header, "longer than any"),
    ):
        with pytest.raises(UserError, match=expected) as error:
            convert(path, tmp_path / "out")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_archive(tmp_path: Path, release: Path) -> None:
    text = tmp_path / "text.tar.gz"
    text.write_text("hello\n" * 1000)
    short = tmp_path / "short.tar.gz"
    short.write_bytes(release.read_bytes()[:20_000])
    empty = pack(tmp_path / "text.tar.gz", tmp_path / "no-model.tar.gz")
    for path, expected in (
        (text, "not a tar archive"),
        (short, "cut short"),
        (empty, "no model; looked for"),
    ):
        with pytest.raises(UserError, match=expected) as error:
            convert(path, tmp_path / "out")
        assert "\n" not in str(error.value)


# ---- URLs, without a network


class Answers:
    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    def open(self, request: urllib.request.Request, timeout: float) -> Any:
        assert timeout > 0
        return self.answer()


def test_a_url_is_downloaded(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_opener", lambda: Answers(lambda: io.BytesIO(release.read_bytes())))
    report = convert("https://example.org/release.tar.gz", tmp_path / "out")
    assert report.source == "https://example.org/release.tar.gz"
    monkeypatch.setattr(archives, "_MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"https://example.org/release.tar.gz: larger than 1,000 bytes"):
        convert("https://example.org/release.tar.gz", tmp_path / "other")


def test_url_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise urllib.error.URLError("no network\nat all")

    monkeypatch.setattr(archives, "_opener", lambda: Answers(fail))
    for url, expected in (
        ("https://example.org/x.tar.gz", r"cannot be downloaded \(no network\)$"),
        ("http://example.org/x.tar.gz", "only https:// is read"),
        ("file:///etc/passwd", "only https:// is read"),
        ("ftp://example.org/x.tar.gz", "only https:// is read"),
        ("https://[::1/x.tar.gz", r"is not a URL \(Invalid IPv6 URL\)$"),
        ("https://example.org:port/x.tar.gz", "is not a URL"),
        ("https://example.org:99999/x.tar.gz", "is not a URL"),
        ("https:///x.tar.gz", "names no host"),
        (f"https://{'a' * 70}.org/x.tar.gz", "names no host"),
        ("https://[::1]:8443/x.tar.gz", r"cannot be downloaded \(no network\)$"),
    ):
        with pytest.raises(UserError, match=expected):
            convert(url, tmp_path / "out")


def test_a_redirect_to_another_scheme_is_refused() -> None:
    handler = archives._OnlyHttps()
    request = urllib.request.Request("https://example.org/x")
    with pytest.raises(UserError, match="only https:// is read"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/x")
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://example.org/y") is not None


@pytest.mark.parametrize(
    ("url", "travels"),
    [
        (
            "https://bücher.example/é ü.tar.gz?a=ö",
            "https://xn--bcher-kva.example/%C3%A9%20%C3%BC.tar.gz?a=%C3%B6",
        ),
        ("https://[::1]:8443/x%20y.tar.gz#part", "https://[::1]:8443/x%20y.tar.gz"),
        ("HTTPS://Example.org/X.tar.gz", "https://example.org/X.tar.gz"),
    ],
)
def test_a_url_as_it_travels(url: str, travels: str) -> None:
    assert archives._in_ascii(url) == travels


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(UserError) as error:
        archives._in_ascii("https://me:secret@example.org/x.tar.gz")
    assert str(error.value) == "https://...@example.org: a URL with a user name is not read"


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("number", [9, 5000])
def test_a_chain_of_headers(tmp_path: Path, kind: bytes, number: int) -> None:
    """tarfile calls itself for each."""
    header = tarfile.TarInfo("x")
    content = b"a\0" if kind == tarfile.GNUTYPE_LONGNAME else b"8 x=aaa\n"
    header.type, header.size = kind, len(content)
    path = tmp_path / "chain.tar"
    path.write_bytes((header.tobuf(tarfile.GNU_FORMAT) + content.ljust(512, b"\0")) * number)
    with pytest.raises(UserError, match="more than 8 headers of one entry"), archives.unpacked(path):
        pass


def test_deep_folders(tmp_path: Path) -> None:
    path = tmp_path / "deep.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("/".join(["a"] * 3000)))
    with pytest.raises(UserError, match="lies more than 32 folders deep: refused"), archives.unpacked(path):
        pass
