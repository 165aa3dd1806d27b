"""Open a folder of prepared data for training, or say in one line why it cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import UserError, joined
from ..base.json_toml import read_json
from .documents import Split
from .manifest import MANIFEST, hash_tokenizer, is_count, is_shard, is_split
from .parts import SETTINGS, missing_jobs
from .row_settings import RowSettings

if TYPE_CHECKING:
    import datasets

__all__ = ["is_prepared", "open_prepared", "read_manifest"]


# Bound of n in `--shard i/n`, because the file may hold any number.
_MOST_JOBS = 1_000_000


def is_prepared(path: str | Path) -> bool:
    """Whether `funnelformer prepare` wrote this folder, or began to."""
    return any((Path(path) / name).is_file() for name in (MANIFEST, SETTINGS))


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read a folder's manifest. Raises UserError if the preparation is not finished, or if the manifest is damaged."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        jobs: Any = read_json(folder / SETTINGS).get("jobs")
        if not is_count(jobs) or not 1 <= jobs <= _MOST_JOBS:
            raise _damaged(folder / SETTINGS)
        missing = missing_jobs(folder, jobs)
        shares = f" (--shard {', '.join(missing)})" if missing != ["1/1"] else ""
        raise UserError(f"{folder}: the preparation is not finished; run funnelformer prepare again{shares}")
    manifest = read_json(folder / MANIFEST)
    splits = manifest.get("splits")
    if (
        not isinstance(manifest.get("tokenizer_sha256"), str)
        or not isinstance(splits, dict)
        or not all(_is_whole(*entry) for entry in splits.items())
    ):
        raise _damaged(folder / MANIFEST)
    try:
        RowSettings(**manifest["rows"])
    except (TypeError, LookupError, UserError):
        raise _damaged(folder / MANIFEST) from None
    return manifest


def _damaged(file: Path) -> UserError:
    return UserError(f"{file}: is damaged; prepare the text again, in another folder")


def _is_whole(split: str, entry: Any) -> bool:
    """Whether a value has the counts of a split, and its Arrow files."""
    return (
        is_split(split, entry)
        and isinstance(entry.get("shards"), list)
        and all(is_shard(split, shard) for shard in entry["shards"])
    )


def open_prepared(
    folder: str | Path, tokenizer: Any, *, block_size: int | None = None, pairs: bool = False
) -> dict[Split, datasets.Dataset]:
    """Map the rows into memory, by split, without reading them; a split without rows is left out.

    block_size: ids of a row that the caller needs; None: those of the data. pairs: whether the rows must be pairs of
    the form "structure".
    Raises UserError if the data have another tokenizer, block size or form, or if a file is missing or damaged.
    """
    import datasets

    folder = Path(folder)
    manifest = read_manifest(folder)
    rows = manifest["rows"]
    if manifest["tokenizer_sha256"] != hash_tokenizer(tokenizer):
        raise UserError(
            f"{folder}: was prepared with another tokenizer; give that one, or prepare the text again"
        )
    if block_size not in (None, rows["block_size"]):
        raise UserError(
            f"{folder}: was prepared in blocks of {rows['block_size']} tokens, which cannot fill blocks of "
            f"{block_size}; leave out --block-size, or prepare the text again"
        )
    if pairs and rows["form"] != "structure":
        raise UserError(
            f"{folder}: was prepared with form {rows['form']!r}; this objective needs --form structure"
        )
    found: dict[Split, datasets.Dataset] = {}
    for split, entry in manifest["splits"].items():
        shards = [_open_shard(folder / shard["file"], shard) for shard in entry["shards"]]
        if shards:
            found[split] = datasets.concatenate_datasets(shards)
    return found


def _open_shard(path: Path, shard: dict[str, Any]) -> datasets.Dataset:
    import datasets

    if not path.is_file():
        raise UserError(f"{path}: this shard is missing; run funnelformer prepare again")
    size = path.stat().st_size
    if size != shard["bytes"]:
        raise UserError(
            f"{path}: this shard is broken, it has {size:,} of {shard['bytes']:,} bytes; "
            "run funnelformer prepare again"
        )
    try:
        data = datasets.Dataset.from_file(str(path))
    except Exception as error:  # Arrow's errors and those of `datasets` have no common base class
        raise UserError(
            f"{path}: this shard is broken ({joined(error)}); delete it and run funnelformer prepare again"
        ) from error
    if len(data) != shard["rows"]:
        raise UserError(f"{path}: this shard is broken, it has {len(data):,} rows of {shard['rows']:,}")
    return data
