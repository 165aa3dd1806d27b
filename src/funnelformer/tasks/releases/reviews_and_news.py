"""Classification of reviews, news and encyclopaedia articles: the csv files of Zhang et al., and IMDB's folder.

Sources: Zhang, Zhao, LeCun 2015, arXiv:1509.01626, and the readme of its files; Maas et al. 2011 (aclImdb).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ...base.errors import UserError
from ...base.files import read_document
from ...data.bad_rows import OnBadRow
from ...data.formats import Row, iter_rows
from ...data.local_folder import check_inside
from ...data.tables import Table, TaskColumns, collect
from ..task import Part, Release, Task

__all__ = ["TEXTS"]

_COLUMNS = TaskColumns("text", None, "label")
# The papers report the error on the test set; a part of the training data selects the checkpoint.
_SCORES = ("accuracy", "error_percent")
_PARTS = (Part("train", ("train.csv",), "train"), Part("test", ("test.csv",), "test"))
# The Hub says "2 star".
_STARS = tuple(f"{number} star" + "s" * (number > 1) for number in range(1, 6))


def _unescape(text: str) -> str:
    """Undo the escapes inside a field: a line break is backslash and n, Yelp has quotes behind a backslash too."""
    return text.replace("\\n", "\n").replace('\\"', '"')


def _unescape_ag(text: str) -> str:
    """AG News has a backslash alone for a line break ("dwindling\\band")."""
    return text.replace("\\", " ")


def _zhang(
    name: str,
    folder: str,
    labels: tuple[str, ...],
    columns: tuple[str, ...],
    hub: str,
    clean: Callable[[str], str] = _unescape,
) -> Task:
    """columns: the fields after the label, which the file numbers from 1."""

    def read(file: Path, part: Part, bad: OnBadRow) -> Table:
        return collect(iter_rows(file, columns=("label", *columns), bad=bad), str(file))

    written = {str(number): label for number, label in enumerate(labels, start=1)} | {"2 star": "2 stars"}
    release = Release(_PARTS, (folder,), read, hub, written=written, joined=columns, clean=clean)
    return Task(name, "classification", _COLUMNS, labels, _SCORES, release)


def _imdb_rows(folder: Path, bad: OnBadRow) -> Iterator[Row]:
    """The reviews below `pos` and `neg`, files of one line called NUMBER_RATING.txt, in the order of the numbers."""
    for label in ("neg", "pos"):
        if not (folder / label).is_dir():
            raise UserError(f"{folder}: no folder {label!r} in it, as aclImdb has")
        found = [(re.fullmatch(r"(\d+)_\d+\.txt", path.name), path) for path in (folder / label).iterdir()]
        files = sorted((int(match[1]), path) for match, path in found if match)
        if not files:
            raise UserError(f"{folder / label}: no files NUMBER_RATING.txt in it, as aclImdb has")
        for _, path in files:
            check_inside(path, folder)
            if path.stat().st_size == 0:
                bad(f"{path}: the file is empty")
                continue
            text = read_document(path)
            yield None, {"text": text, "label": label, "file": str(path)}


def _read_imdb(folder: Path, part: Part, bad: OnBadRow) -> Table:
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; the {part.name} part of imdb is a folder with pos and neg")
    return collect(_imdb_rows(folder, bad), str(folder))


_IMDB = Task(
    "imdb",
    "classification",
    _COLUMNS,
    ("neg", "pos"),
    _SCORES,
    Release(
        (Part("train", ("train",), "train"), Part("test", ("test",), "test")),
        ("aclImdb",),
        _read_imdb,
        "stanfordnlp/imdb",
        clean=lambda text: text.replace("<br />", "\n"),
    ),
)

_polarity = partial(_zhang, labels=("negative", "positive"))

TEXTS = (
    _IMDB,
    _zhang(
        "ag",
        "ag_news_csv",
        ("World", "Sports", "Business", "Sci/Tech"),
        ("title", "description"),
        "fancyzhx/ag_news",
        _unescape_ag,
    ),
    _zhang(
        "dbpedia",
        "dbpedia_csv",
        (
            "Company",
            "EducationalInstitution",
            "Artist",
            "Athlete",
            "OfficeHolder",
            "MeanOfTransportation",
            "Building",
            "NaturalPlace",
            "Village",
            "Animal",
            "Plant",
            "Album",
            "Film",
            "WrittenWork",
        ),
        ("title", "content"),
        "fancyzhx/dbpedia_14",
    ),
    _polarity("yelp2", "yelp_review_polarity_csv", columns=("text",), hub="fancyzhx/yelp_polarity"),
    _zhang("yelp5", "yelp_review_full_csv", _STARS, ("text",), "Yelp/yelp_review_full"),
    _polarity(
        "amazon2", "amazon_review_polarity_csv", columns=("title", "content"), hub="fancyzhx/amazon_polarity"
    ),
    _zhang("amazon5", "amazon_review_full_csv", _STARS, ("title", "content"), hub=""),
)
