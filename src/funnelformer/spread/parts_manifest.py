"""A folder of parts: the description that a resumed run must match, the missing parts, and the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..base.bundled import located
from ..base.errors import UserError
from ..base.files import hash_file
from ..base.json_toml import load_json
from ..base.strict_json import json_text
from .storage import is_remote, list_files, read_range, write_whole
from .work_items import Scanned, WorkItem

__all__ = [
    "MANIFEST",
    "PARTS",
    "check_folder",
    "describe",
    "inside",
    "missing",
    "model_files",
    "open_run",
    "write_manifest",
]

# Names in the folder of the results.
RUN = "run.json"
MANIFEST = "manifest.json"
PARTS = "parts"


def inside(folder: str, *names: str) -> str:
    """The path of a file below a folder, which may be a URL."""
    return "/".join([folder.rstrip("/"), *names])


def model_files(model: str) -> dict[str, str]:
    """The SHA-256, in hex, of every file in a model's folder, by its path there; empty for a name on the Hub."""
    folder = Path(located(model))
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hash_file(path) for path in files}


def describe(settings: Mapping[str, Any], model: str, scans: Iterable[Scanned]) -> dict[str, Any]:
    """Describe what decides the results of a run: a resumed run must have the same description, see `open_run`.

    Returns plain JSON values: settings, as given; model_files, see `model_files`; and sources, which gives the bytes,
    sha256 and number of rows of each source by its name.
    """
    sources = {scan.source: {"bytes": scan.bytes, "sha256": scan.sha256, "rows": scan.rows} for scan in scans}
    description = {"settings": dict(settings), "model_files": model_files(model), "sources": sources}
    plain: dict[str, Any] = json.loads(json_text(description, default=str))
    return plain


def check_folder(folder: str, resume: bool) -> None:
    """Raise UserError if the folder is a file or has files, unless `resume` is set and they are those of a run."""
    if not is_remote(folder) and Path(folder).exists() and not Path(folder).is_dir():
        raise UserError(f"{folder}: is a file; --engine ray writes a folder")
    files = list_files(folder)
    if files and not resume:
        more = "pass --resume to continue its run" if RUN in files else "choose another"
        raise UserError(f"{folder}: is not empty; {more}")
    if files and RUN not in files:
        raise UserError(f"{folder}: has no {RUN}, so there is no run to continue; choose another folder")


def open_run(folder: str, description: dict[str, Any]) -> None:
    """Note in the folder what the run is; if the folder has a run already, compare the two.

    description: of `describe`. Raises UserError naming the first setting, file or source that has changed, and if the
    note is damaged.
    """
    size = list_files(folder).get(RUN)
    target = inside(folder, RUN)
    if size is None:
        write_whole(target, json_text(description, indent=2).encode())
        return
    before = load_json(read_range(target, 0, size).decode("utf-8", "replace"), target)
    groups = ("settings", "model_files", "sources")
    if not isinstance(before, dict) or not all(isinstance(before.get(group), dict) for group in groups):
        raise UserError(
            f"{target}: is damaged: it has no {', '.join(groups)} of a run; choose another folder, or begin again"
        )
    for group, word in {
        "settings": "setting",
        "model_files": "the model's file",
        "sources": "source",
    }.items():
        old, new = before[group], description[group]
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                how = _change(old.get(name), new.get(name)) if group == "settings" else ""
                verb = "changed" if name in old and name in new else ("is new" if name in new else "is gone")
                raise UserError(f"--resume {folder}: {word} {name} {verb}{how} since the run began")


def _change(old: Any, new: Any) -> str:
    return f" from {old!r} to {new!r}"


def missing(folder: str, items: Iterable[WorkItem]) -> list[WorkItem]:
    """The items whose parts are not in the folder yet, in their order."""
    there = list_files(inside(folder, PARTS))
    return [item for item in items if item.part not in there]


def write_manifest(
    folder: str,
    description: dict[str, Any],
    items: list[WorkItem],
    versions: Mapping[str, Any],
    workers: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the manifest of a run whose parts are all there, and return it.

    description: of `describe`. versions: of `installed_versions`. workers: what each worker did since the run was last
    started, see `make_all`.
    Raises UserError naming a part that is missing.
    """
    there = list_files(inside(folder, PARTS))
    for item in items:
        if item.part not in there:
            raise UserError(
                f"{folder}: the part {item.part} of {item.source} is gone; run again with --resume"
            )
    entries = [
        {
            "file": f"{PARTS}/{item.part}",
            "source": item.source,
            "first_row": item.first + 1,
            "rows": item.rows,
            "bytes": there[item.part],
        }
        for item in items
    ]
    manifest = {
        "rows": sum(item.rows for item in items),
        **description,
        "versions": dict(versions),
        "workers": dict(workers),
        "parts": entries,
    }
    write_whole(inside(folder, MANIFEST), json_text(manifest, indent=2, default=str).encode())
    return manifest
