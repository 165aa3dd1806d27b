"""A released `.tar.gz`, or its URL, unpacked into a temporary folder without trusting it."""

from __future__ import annotations

import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, urlsplit, urlunsplit

from ..base.errors import UserError, one_line
from ..base.files import check_file, check_readable, temporary_folder

__all__ = ["is_archive", "unpacked"]

_SUFFIXES = (".tar.gz", ".tgz", ".tar")
# The largest release, all of B10-10-10H1024's pretraining, has 6 GB; random weights compress by a tenth at most.
_MAX_BYTES = 32 << 30
_MAX_RATIO = 20
_MAX_FILES = 1000
_MAX_HEADER_BYTES = 1 << 16
_MAX_HEADERS = 8
_MAX_PARTS = 32
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError)


def is_archive(source: str | Path) -> bool:
    """Whether `source` is a URL, or a file that is named as a tar archive."""
    return "://" in str(source) or (str(source).endswith(_SUFFIXES) and Path(source).is_file())


@contextmanager
def unpacked(source: str | Path) -> Iterator[Path]:
    """Yield the folder that holds the files of a tar archive, or of a URL of one; it is temporary.

    Raises UserError, one line, for a URL that is not https or cannot be read, and for an archive that is damaged, is
    larger than any release, or has a member that is a link or a device or would lie outside the folder: nothing of such
    an archive is written anywhere else.
    """
    with temporary_folder("archive") as temporary:
        folder = temporary / "content"
        folder.mkdir()
        if "://" in str(source):
            archive = temporary / "archive"
            _download(str(source), archive)
        else:
            archive = check_file(source)
            check_readable(archive)
        _extract(archive, folder, str(source))
        yield _innermost(folder)


def _download(url: str, target: Path) -> None:
    request = urllib.request.Request(_in_ascii(url), headers={"User-Agent": "funnelformer"})
    try:
        with _opener().open(request, timeout=_TIMEOUT_S) as answer, target.open("wb") as file:
            _copy(answer, file, _MAX_BYTES, url)
    except (urllib.error.URLError, HTTPException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        raise UserError(f"{url}: cannot be downloaded ({reason.splitlines()[0]})") from error


def _in_ascii(url: str) -> str:
    """The URL as it travels: a host's name in punycode, other characters beyond ASCII as percent signs.

    Raises UserError for one that is no https, has no host or a port that is none, or names a user: a password does not
    belong in a command line, and is not repeated here.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{url}: is not a URL ({one_line(error)})") from None
    if "@" in parts.netloc:
        raise UserError(f"{parts.scheme}://...@{host}: a URL with a user name is not read")
    if parts.scheme != "https":
        raise UserError(f"{url}: only https:// is read")
    try:
        name = f"[{host}]" if host and ":" in host else (host or "").encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not name:
        raise UserError(f"{url}: names no host")
    netloc = name if port is None else f"{name}:{port}"
    path, query = (quote(part, safe="/%:@!$&'()*+,;=~?") for part in (parts.path, parts.query))
    return urlunsplit(("https", netloc, path, query, ""))


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise UserError(f"{req.full_url}: leads to {newurl}; only https:// is read")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_OnlyHttps)


def _copy(source: Any, target: IO[bytes], limit: int, name: str) -> int:
    size = 0
    while chunk := source.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit:
            raise UserError(f"{name}: larger than {limit:,} bytes, more than any released checkpoint")
        target.write(chunk)
    return size


class _Member(tarfile.TarInfo):
    """A member with few headers before it, none longer than any name: tarfile reads them into memory, recursively."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header longer than any name")
        num_headers = getattr(tar, "num_headers", 0) + 1 if self.type in _HEADERS else 0
        if num_headers > _MAX_HEADERS:
            raise tarfile.ReadError(f"more than {_MAX_HEADERS} headers of one entry")
        tar.num_headers = num_headers  # type: ignore[attr-defined]
        return super()._proc_member(tar)  # type: ignore[misc]


def _extract(archive: Path, folder: Path, name: str) -> None:
    """Write the plain files of `archive` into `folder`; every name is checked, every byte counted."""
    limit = min(_MAX_BYTES, max(_MAX_RATIO * archive.stat().st_size, _CHUNK_BYTES))
    limit = min(limit, shutil.disk_usage(folder).free)
    num_files = 0
    try:
        with tarfile.open(archive, "r|*", tarinfo=_Member) as tar:
            for member in tar:
                num_files += 1
                if num_files > _MAX_FILES:
                    raise UserError(
                        f"{name}: holds more than {_MAX_FILES} entries, more than any released checkpoint"
                    )
                path = _inside(folder, member, name)
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                if member.size > limit:
                    raise UserError(f"{name}: unpacks to more than it can hold ({member.name!r}): refused")
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None  # of a plain file
                with path.open("xb") as file:
                    limit -= _copy(content, file, limit, name)
    except UserError:
        raise
    except _BROKEN as error:
        detail = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: not a tar archive, cut short or damaged ({detail})") from error


def _inside(folder: Path, member: tarfile.TarInfo, name: str) -> Path:
    parts = PurePosixPath(member.name).parts
    shown = ascii(member.name)[:100]
    if not (member.isreg() or member.isdir()):
        raise UserError(f"{name}: {shown} is a link or a device: refused")
    if member.name.startswith(("/", "\\")) or ".." in parts or "\\" in member.name or "\0" in member.name:
        raise UserError(f"{name}: {shown} would lie outside the folder: refused")
    if len(parts) > _MAX_PARTS:
        raise UserError(f"{name}: {shown} lies more than {_MAX_PARTS} folders deep: refused")
    return folder.joinpath(*parts)


def _innermost(folder: Path) -> Path:
    """The folder with the files: a release has them in one folder, or in none."""
    while True:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith("._")]
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]
