"""Find the data files of a folder, by split, without reading anything outside the folder.

`datasets` follows a README.md in the folder even to another folder or a URL. Here a README.md may name only files of
its own folder, and a link must not leave the folder. The one exception is a download in the Hub's cache, whose files
are links into the folder `blobs` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import UserError, joined, one_line
from ..base.files import plain_suffix
from ..base.json_toml import read_json
from .formats import FORMATS

__all__ = ["check_inside", "check_saved", "split_files", "table_files"]

# Words in the names of files and folders by which `datasets` recognises a split.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\b.*")
_CARDS = ("README.md", ".huggingface.yaml")
_ABOUT = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")


def check_inside(path: Path, folder: Path) -> Path:
    """Return a path in a folder. Raises UserError if it is a link, or lies behind one, that leaves the folder."""
    real, base = path.resolve(), folder.resolve()
    # CACHE/datasets--user--name/snapshots/COMMIT/train.parquet is a link to CACHE/datasets--user--name/blobs/HASH.
    blobs = base.parent.parent / "blobs" if base.parent.name == "snapshots" else None
    if not real.is_relative_to(base) and not (blobs is not None and real.is_relative_to(blobs)):
        raise UserError(
            f"{path}: is a link to {real}, outside of the folder {folder}; name the file itself, or copy it there"
        )
    return path


def table_files(folder: Path, suffixes: Iterable[str] = FORMATS) -> list[Path]:
    """The data files in a folder and below it, sorted; hidden ones are left out. Raises UserError as `check_inside`."""
    wanted = tuple(suffixes)
    found = sorted(path for path in folder.rglob("*") if plain_suffix(path) in wanted and path.is_file())
    return [check_inside(path, folder) for path in found if not _is_no_data(path.relative_to(folder))]


def _is_no_data(path: Path) -> bool:
    """Whether a file is hidden, or describes data instead of holding it."""
    return path.name in _ABOUT or any(part.startswith((".", "__")) for part in path.parts)


def check_saved(folder: Path) -> None:
    """Raise UserError if a folder written by `Dataset.save_to_disk` names, or links to, files outside it."""
    for path in folder.rglob("*"):
        check_inside(path, folder)
    for file in (folder / "dataset_dict.json", *folder.rglob("state.json")):
        if not file.is_file():
            continue
        content = read_json(file)
        names = content.get("splits", []) if file.name == "dataset_dict.json" else _data_files(content)
        for name in names if isinstance(names, list) else []:
            if not isinstance(name, str) or Path(name).name != name or name == "..":
                raise UserError(
                    f"{file}: names {name!r}, which is not a file of the folder; nothing else is read"
                )


def _data_files(state: Mapping[str, Any]) -> list[Any]:
    entries = state.get("_data_files")
    return [entry.get("filename") for entry in entries or [] if isinstance(entry, dict)]


def split_files(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files of each split: as README.md names them, or else by the names of files and folders.

    files: the data files of the folder, see `table_files`. If no name tells a split, all files are of "train".
    Raises UserError if README.md cannot be read, names anything but data files of the folder, or has several
    configurations without a default.
    """
    for card in _CARDS:
        if patterns := _patterns(folder / card):
            return _matching(folder, folder / card, patterns, files)
    found: dict[str, list[Path]] = {}
    for file in files:
        split = _split_of(file.relative_to(folder))
        if split is not None:
            found.setdefault(split, []).append(file)
    return found or ({"train": files} if files else {})


def _split_of(path: Path) -> str | None:
    """The split that a path's name tells, first by its file and then by its folders from the inside out."""
    if match := _SHARD.fullmatch(path.name):
        return _SPLITS.get(match[1], match[1])
    for part in (path.name, *reversed(path.parts[:-1])):
        for word in re.split(r"[-._ 0-9]+", part):
            if word.lower() in _SPLITS:
                return _SPLITS[word.lower()]
    return None


def _patterns(card: Path) -> dict[str, list[str]]:
    """Split -> globs of its files, for the card's default configuration; empty if the card names no files."""
    if not card.is_file():
        return {}
    import yaml
    from huggingface_hub.repocard import metadata_load

    try:
        content = metadata_load(card) if card.suffix == ".md" else yaml.safe_load(card.read_text("utf-8"))
    except Exception as error:  # from YAML, from text that is not UTF-8, or because it is not a mapping
        raise UserError(f"{card}: cannot be read ({one_line(error)})") from error
    configs = content.get("configs") if isinstance(content, dict) else None
    configs = [entry for entry in configs if isinstance(entry, dict)] if isinstance(configs, list) else []
    for entry in configs:
        if entry.get("data_dir"):
            _check_pattern(card, entry["data_dir"])
    configs = [entry for entry in configs if entry.get("data_files")]
    # Check all of them: a card that leaves its folder anywhere is not to be trusted.
    named = [(entry, _by_split(card, entry["data_files"])) for entry in configs]
    if not named:
        return {}
    chosen = [
        by_split for entry, by_split in named if entry.get("default") or entry.get("config_name") == "default"
    ]
    if not chosen and len(named) > 1:
        known = ", ".join(str(entry.get("config_name")) for entry, _ in named)
        raise UserError(f"{card}: has the configurations {known}; name the files of one of them")
    return (chosen or [by_split for _, by_split in named])[0]


def _by_split(card: Path, data_files: Any) -> dict[str, list[str]]:
    if isinstance(data_files, dict):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    entries = data_files if isinstance(data_files, list) else [data_files]
    found: dict[str, list[str]] = {}
    for entry in entries:
        split, paths = (
            (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        )
        for pattern in paths if isinstance(paths, list) else [paths]:
            found.setdefault(str(split), []).append(_check_pattern(card, pattern))
    return found


def _check_pattern(card: Path, pattern: Any) -> str:
    if (
        not isinstance(pattern, str)
        or ":" in pattern
        or Path(pattern).is_absolute()
        or ".." in Path(pattern).parts
        or pattern.startswith("~")
    ):
        raise UserError(
            f"{card}: names {pattern!r} as data, which is not in its folder; only files of the folder are read"
        )
    return pattern


def _matching(
    folder: Path, card: Path, patterns: Mapping[str, list[str]], files: list[Path]
) -> dict[str, list[Path]]:
    known = set(files)
    found = {}
    for split, globs in patterns.items():
        try:
            matches = {path for pattern in globs for path in folder.glob(pattern)}
        except ValueError as error:
            raise UserError(f"{card}: {joined(error)}") from None
        found[split] = sorted(matches & known)
        if not found[split]:
            raise UserError(f"{card}: no table in the folder is called {' or '.join(globs)}")
    return found
