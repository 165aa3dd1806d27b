"""Open a folder of prepared data for training, and say in one line why it will not do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import UserError, joined
from ..base.json_toml import read_json
from .documents import Split
from .manifest import MANIFEST, hash_tokenizer
from .parts import SETTINGS, missing_jobs

if TYPE_CHECKING:
    import datasets

__all__ = ["is_prepared", "open_prepared", "read_manifest"]


def is_prepared(path: str | Path) -> bool:
    """Whether `funnelformer prepare` made this folder, or began to."""
    return any((Path(path) / name).is_file() for name in (MANIFEST, SETTINGS))


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Raises UserError when the preparation has not ended."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        missing = missing_jobs(folder, read_json(folder / SETTINGS)["jobs"])
        jobs = f" (--shard {', '.join(missing)})" if missing != ["1/1"] else ""
        raise UserError(f"{folder}: the preparation is not finished; run funnelformer prepare again{jobs}")
    return dict(read_json(folder / MANIFEST))


def open_prepared(
    folder: str | Path, tokenizer: Any, *, block_size: int | None = None, pairs: bool = False
) -> dict[Split, datasets.Dataset]:
    """Map the rows of the splits that have any; nothing is read but the ends of the files.

    block_size: what the caller wants, None for what the data have. pairs: whether rows must have a second part
    of the three kinds.
    Raises UserError for another tokenizer or block size, data of another form, and missing or cut shards.
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
