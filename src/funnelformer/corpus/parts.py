"""One part of prepared data: its files and counts; and the manifest, once all parts are there."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base.errors import UserError
from ..base.files import atomic_path, hash_file
from ..base.json_toml import read_json
from .build import SPLITS, TOO_FEW_DOCUMENTS, build_part
from .documents import Split
from .manifest import (
    MANIFEST,
    add_histograms,
    hash_tokenizer,
    is_count,
    is_part_name,
    is_shard,
    is_split,
    length_histogram,
    write_json_file,
)
from .row_settings import RowSettings
from .rows import Rows, table_of_rows

__all__ = [
    "JOBS",
    "PARTS",
    "SETTINGS",
    "VERSION",
    "finish_jobs",
    "finish_parts",
    "is_finished",
    "missing_jobs",
    "part_name",
    "prepare_part",
]

VERSION = 1  # of the file format
SETTINGS = "settings.json"
PARTS = "parts"  # a small file of counts for each finished part
JOBS = "jobs"  # a small file for each finished job of `--shard i/n`


def prepare_part(
    documents: list[str], tokenizer: Any, settings: RowSettings, key: tuple[int, int], out: Path
) -> dict[str, Any]:
    """Write the Arrow files of one part, and then the file with its counts, which marks it as finished; return these.

    Call this on an engine of your own, see docs/pretraining.md: the result depends only on the arguments, and calling
    it twice does no harm.
    key: two numbers that no other part has.
    """
    name = part_name(key)
    out.mkdir(parents=True, exist_ok=True)
    splits: dict[str, Any] = {}
    for split, built in build_part(documents, tokenizer, settings, key).items():
        if not len(built.rows):
            continue
        file = out / f"{split}-{name}.arrow"
        write_arrow(file, built.rows)
        splits[split] = {
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": hash_file(file),
            "rows": len(built.rows),
            "row_tokens": int(built.rows.num_tokens.sum()),
            "documents": len(built.document_lengths),
            "tokens": int(built.document_lengths.sum()),
            "document_lengths": length_histogram(built.document_lengths.tolist()),
        }
    counts = {"documents": len(documents), "splits": splits}
    write_json_file(out / PARTS / f"{name}.json", counts)
    return counts


def part_name(key: tuple[int, int]) -> str:
    """The name of a part's files, "00003-00012" for (3, 12), without their suffix."""
    return f"{key[0]:05}-{key[1]:05}"


def is_finished(out: Path, key: tuple[int, int]) -> bool:
    """Whether a part has its file of counts, and Arrow files of the sizes noted there."""
    file = out / PARTS / f"{part_name(key)}.json"
    if not file.is_file():
        return False
    shards = [(out / entry["file"], entry["bytes"]) for entry in _read_counts(file)["splits"].values()]
    return all(path.is_file() and path.stat().st_size == size for path, size in shards)


def _read_counts(file: Path) -> dict[str, Any]:
    """Read the counts of a part, as `prepare_part` writes them. Raises UserError if the file has another form."""
    counts = read_json(file)
    splits = counts.get("splits")
    if (
        not is_count(counts.get("documents"))
        or not isinstance(splits, dict)
        or not all(_is_own(file, *entry) for entry in splits.items())
    ):
        raise UserError(f"{file}: is damaged; delete it and run prepare again, which makes its part anew")
    return counts


def _is_own(file: Path, split: str, entry: Any) -> bool:
    """Whether a value in the counts `file` of a part has the counts of a split, and the split's Arrow file."""
    return is_split(split, entry) and is_shard(split, entry) and entry["file"] == f"{split}-{file.stem}.arrow"


def _read_job(file: Path) -> list[str]:
    """Read the names of the parts of a job that has ended. Raises UserError if the file has another form."""
    names = read_json(file).get("parts")
    if not isinstance(names, list) or not all(is_part_name(name) for name in names):
        raise UserError(f"{file}: is damaged; delete it, and run the job again")
    return names


def write_arrow(path: Path, rows: Rows) -> None:
    """Write rows as an Arrow stream, which `datasets.Dataset.from_file` can map. The file appears whole."""
    table = table_of_rows(rows)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def finish_jobs(out: Path, settings: dict[str, Any], jobs: int) -> dict[str, Any]:
    """Write the manifest if all jobs have ended; return the counts, and with `jobs_missing` the jobs that have not.

    Several jobs may do this at once: all write the same bytes.
    Raises UserError if there is no text, or no row to train on.
    """
    files = [out / JOBS / f"{number:05}-of-{jobs:05}.json" for number in range(1, jobs + 1)]
    names = sorted(chain.from_iterable(_read_job(f) for f in files if f.is_file()))
    parts = [_read_counts(out / PARTS / f"{name}.json") for name in names]
    missing = missing_jobs(out, jobs)
    if not missing and not any(part["documents"] for part in parts):
        raise UserError(f"{settings['sources'][0]['name']}: there is no text in the corpus")
    facts = {key: value for key, value in settings.items() if key != "jobs"}
    splits = _sum(parts) if missing else _write_manifest(out, facts, parts)
    counts = {
        f"{split}_{key}": splits[split][key] for split in SPLITS for key in ("documents", "tokens", "rows")
    }
    return counts | ({"jobs_missing": ", ".join(missing)} if missing else {})


def finish_parts(out: Path, tokenizer: Any, settings: RowSettings) -> None:
    """Write the manifest of all parts in a folder, if you called `prepare_part` on an engine of your own.

    Raises UserError if there is no row to train on.
    """
    parts = [_read_counts(file) for file in sorted((out / PARTS).glob("*.json"))]
    facts = {"version": VERSION, "rows": asdict(settings), "tokenizer_sha256": hash_tokenizer(tokenizer)}
    _write_manifest(out, facts, parts)


def _sum(parts: list[dict[str, Any]]) -> dict[Split, dict[str, Any]]:
    """The sums of the parts' counts, and the list of their Arrow files, by split."""
    splits: dict[Split, dict[str, Any]] = {}
    for split in SPLITS:
        own = [part["splits"][split] for part in parts if split in part["splits"]]
        splits[split] = {
            **{
                key: sum(entry[key] for entry in own) for key in ("rows", "row_tokens", "documents", "tokens")
            },
            "document_lengths": add_histograms(entry["document_lengths"] for entry in own),
            "shards": [{key: entry[key] for key in ("file", "rows", "bytes", "sha256")} for entry in own],
        }
    return splits


def _write_manifest(
    out: Path, facts: dict[str, Any], parts: list[dict[str, Any]]
) -> dict[Split, dict[str, Any]]:
    splits = _sum(parts)
    if facts["rows"]["form"] != "single" and splits["train"]["documents"] < 2:
        raise UserError(f"{out}: {TOO_FEW_DOCUMENTS}")
    if not splits["train"]["rows"]:
        raise UserError(
            f"{out}: the text gives no row; give more text (pairs need two documents of two sentences)"
        )
    write_json_file(out / MANIFEST, {**facts, "splits": splits})
    return splits


def missing_jobs(out: Path, jobs: int) -> list[str]:
    """The jobs of `--shard i/n` that have not ended yet."""
    return [
        f"{number}/{jobs}"
        for number in range(1, jobs + 1)
        if not (out / JOBS / f"{number:05}-of-{jobs:05}.json").is_file()
    ]
