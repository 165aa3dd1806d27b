"""The zip that the GLUE leaderboard takes: one tsv a task, with the columns index and prediction."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...base.errors import UserError
from ...base.files import atomic_path
from .glue import SUBMISSION_FILES

__all__ = ["read_submission", "submission_text", "write_submission"]

# A zip of the same predictions has the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def submission_text(predictions: Iterable[str]) -> str:
    """One file of the leaderboard: rows numbered from 0, in the order of the test file."""
    rows = [f"{index}\t{prediction}\n" for index, prediction in enumerate(predictions)]
    return "".join(["index\tprediction\n", *rows])


def read_submission(path: Path) -> dict[str, str]:
    """The files of a zip that others can be added to; none if there is no zip.

    Raises UserError when the file that is there is no submission.
    """
    if not path.exists():
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name).decode() for name in archive.namelist()}
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: exists already and is not the zip of a submission ({error})") from error
    for name in files:
        if name not in SUBMISSION_FILES:
            raise UserError(
                f"{path}: exists already and holds {name!r}, which is not a file of a GLUE submission"
            )
    return files


def write_submission(path: Path, files: Mapping[str, str]) -> list[str]:
    """Write the zip; return the names of the files that the leaderboard wants too.

    It takes a zip with all files of GLUE, and each comes from a model of its own: the zip grows from call to call.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in SUBMISSION_FILES:
            if name in files:
                archive.writestr(zipfile.ZipInfo(name, _TIME), files[name], zipfile.ZIP_DEFLATED)
    return [name for name in SUBMISSION_FILES if name not in files]
