"""The data of a run: hashes of its files, and of the rows that were read from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from ...base.files import hash_file
from ...base.strict_json import json_text
from ...tasks.releases import find_task
from ...tasks.task import Task, find_part
from ..run.input_files import files_of
from .task_data import DataConfig, TaskData

__all__ = ["data_files", "describe_data"]


def describe_data(config: DataConfig, data: TaskData) -> dict[str, dict[str, Any]]:
    """For each part (train, dev, test, dev-matched ...): its `source`, its number of `rows`, and two SHA-256 in hex.

    file_sha256: hash of the source's bytes as they are on disk; for a folder, hash of the names and hashes of all its
        files; None for a data set on the Hub.
    rows_sha256: hash of the rows that were used, in their order. Two runs with the same hash had the same data,
        whatever files it came from.
    """
    parts = {"train": data.train}
    for role, found in (("dev", data.dev), ("test", data.test)):
        parts |= {f"{role}-{variant}" if variant else role: rows for variant, rows in found.items()}
    hashes: dict[str, str | None] = {}
    described = {}
    for name, rows in parts.items():
        source = _source(config, data.kind.task, name)
        if source not in hashes:
            hashes[source] = _hash_source(Path(source))
        described[name] = {
            "source": source,
            "rows": len(rows),
            "rows_sha256": _hash_rows(rows),
            "file_sha256": hashes[source],
        }
    return described


def data_files(config: DataConfig) -> list[Path]:
    """All local files that a run reads its data from; from a folder of several tasks, only those of its task."""
    task = None if config.task is None else find_task(config.task)
    found: list[Path] = []
    for source in (config.train, config.dev, config.data):
        if source is not None and task is not None and Path(source).is_dir():
            parts = [find_part(task, source, part) for part in task.parts]
            found += [file for part in parts if part is not None for file in files_of(part)]
            if any(part is not None for part in parts):
                continue
        found += files_of(source)
    return found


def _source(config: DataConfig, task: Task, name: str) -> str:
    """Where a part was read from. If the dev part was split off, that is the source of the training data."""
    given: Mapping[str, str | None] = {"train": config.train, "dev": config.dev}
    role = name.partition("-")[0]
    if given.get(role):
        return str(given[role])
    whole = config.data or config.train
    assert whole is not None
    parts = [part for part in task.parts if part.name == name]
    if not parts:  # drawn from the training data
        return _source(config, task, "train") if role == "dev" else whole
    found = find_part(task, whole, parts[0])
    return whole if found is None else str(found)


def _hash_source(path: Path) -> str | None:
    if path.is_file():
        return hash_file(path)
    if not path.is_dir():
        return None
    total = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return total.hexdigest()


def _hash_rows(rows: datasets.Dataset) -> str:
    """SHA-256 of the rows as JSON lines."""
    total = hashlib.sha256()
    for row in rows:
        total.update(json_text(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        total.update(b"\n")
    return total.hexdigest()
