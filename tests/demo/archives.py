"""Small archives of the form the demo fetches."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from ratings import KINDS

OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"


def tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return stream.getvalue()


def rated(kind: str) -> str:
    return f"hutto_ICWSM_2014/{KINDS[kind]}_GroundTruth.txt"


def package(rows: Mapping[str, list[str]]) -> bytes:
    """rows: by kind, lines `number<TAB>rating<TAB>text`; of a kind that is not named, one of each label."""
    both = ["1\t2.0\tgood", "2\t-2.0\tbad"]
    files = {rated(kind): "\r\n".join(rows.get(kind, both)).encode() for kind in KINDS}
    return tar({OUTER: tar(files), "vaderSentiment-3.3.2/setup.py": b"raise SystemExit('run!')"})
