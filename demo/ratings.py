"""Sentences that people rated from very negative to very positive, as tables to train and test on."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["KINDS", "read_table", "write_tables"]

# Our name of each kind of text, and the archive's.
KINDS = {
    "films": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "tweets": "tweets",
    "editorials": "nytEditorialSnippets",
}
# Below this rating (of -4 to 4, the mean of 20 people) a sentence is neither.
_LEAST_RATING = 0.5
_RATINGS = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATED = "hutto_ICWSM_2014/{}_GroundTruth.txt"


def write_tables(package: bytes, folder: Path) -> dict[str, int]:
    """Write films-train, films-dev, films-test, products, tweets and editorials as .tsv files (columns text, label).

    package: the source distribution of vaderSentiment 3.3.2. Only its files of ratings are read, none is unpacked.
    A sentence that is there twice counts once. The SHA-1 of its lower-case text says which part a film's is in: 7
    tenths train, 1 tenth chooses the pass, 2 tenths test. Returns the number of rows of each file.
    """
    tables: dict[str, list[tuple[str, str]]] = {}
    for kind, texts in _rated(package).items():
        seen = set()
        for text, rating in texts:
            if text.lower() in seen or abs(rating) < _LEAST_RATING:
                continue
            seen.add(text.lower())
            name = f"films-{_part(text)}" if kind == "films" else kind
            tables.setdefault(name, []).append((text, "positive" if rating > 0 else "negative"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        lines = ["text\tlabel", *("\t".join(row) for row in rows)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: len(rows) for name, rows in tables.items()}


def read_table(file: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a table that `write_tables` wrote."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def _part(text: str) -> str:
    tenth = int(hashlib.sha1(text.lower().encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "test", 2: "dev"}.get(tenth, "train")


def _rated(package: bytes) -> dict[str, Iterator[tuple[str, float]]]:
    """The texts and ratings of each kind, white space made single spaces."""
    with tarfile.open(fileobj=io.BytesIO(package)) as outer:
        inner = _read_member(outer, _RATINGS)
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        files = {kind: _read_member(archive, _RATED.format(name)) for kind, name in KINDS.items()}
    return {kind: _rows(content.decode("utf-8")) for kind, content in files.items()}


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """The content of a plain file of an archive, in memory. Raises ValueError when it has no such file."""
    try:
        member = archive.getmember(name)
    except KeyError:
        raise ValueError(f"the archive has no {name}") from None
    if not member.isreg():
        raise ValueError(f"{name} of the archive is not a plain file")
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def _rows(content: str) -> Iterator[tuple[str, float]]:
    for line in content.splitlines():
        if line.strip():
            _, rating, text = line.split("\t")
            yield " ".join(text.split()), float(rating)
