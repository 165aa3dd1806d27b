"""Code that a folder brings along is never run, and never offered to be run: such a folder is refused.

A config of transformers can name Python code of its folder (`auto_map`), a kernel of the Hub as its attention, an
adapter's config the package of its base class, and `modules.json` of sentence_transformers any class at all.
A folder that `convert --to remote-code` wrote is taken as data: its code is ours, and never run from there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .strict_json import json_text

__all__ = ["CONFIG_CODE", "MODEL_CODE", "refuse_foreign_code", "runs_foreign_code", "without_own_code"]

# The files of code, without their ending, in a folder that loads without this package.
CONFIG_CODE, MODEL_CODE = "configuration_funnelformer", "modeling_funnelformer"
_OWN_CODE = re.compile(rf"({CONFIG_CODE}|{MODEL_CODE})\.Funnelformer\w+")

# The packages whose classes a config may name.
_TRUSTED = ("sentence_transformers", "transformers", "torch")
# Keys whose value is code to load, whatever it is.
_CODE_KEYS = ("auto_map", "custom_pipelines")
# A config of more bytes is none; a vocabulary in JSON is not looked into.
_MAX_BYTES = 16 << 20


def refuse_foreign_code(folder: str | Path) -> None:
    """Raise UserError when a config in a folder, or in a folder inside it, names code to load.

    What is no readable JSON, or no list of modules, is left to the reader of that file; a name that is no local folder
    to the Hub.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    for file in _configs(folder):
        for place, named in _named_code(file, _read(file)):
            raise UserError(
                f"{file}: {place} names code to run ({named}); funnelformer runs no code of a model's folder"
            )


def runs_foreign_code(error: BaseException) -> bool:
    """Whether a library's error says that it refused to run code, which a name on the Hub has brought along."""
    return "trust_remote_code" in str(error)


def without_own_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config without the names of code that is this package's own: here it is never needed."""
    if not _is_own_code(values):
        return dict(values)
    return {key: value for key, value in values.items() if key != "auto_map"}


def _is_own_code(content: Any) -> bool:
    """Whether a model of ours names the classes of this package, in the folder itself, and nothing else."""
    if not isinstance(content, Mapping) or content.get("model_type") != "funnelformer":
        return False
    named = content.get("auto_map")
    return isinstance(named, Mapping) and all(
        isinstance(value, str) and _OWN_CODE.fullmatch(value) for value in named.values()
    )


def _configs(folder: Path) -> Iterator[Path]:
    """The files that a library would look into, also of a generator or a module of sentence_transformers."""
    for parent in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
        try:
            names = sorted(os.listdir(parent))
        except PermissionError:
            continue
        for name in names:
            if name.endswith("config.json") or name.startswith("config_") or name == "modules.json":
                file = parent / name
                if file.is_file() and file.stat().st_size <= _MAX_BYTES:
                    yield file


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def _named_code(file: Path, content: Any) -> Iterator[tuple[str, str]]:
    """Key and value of what names code in the content of a config."""
    if file.name == "modules.json":
        for entry in content if isinstance(content, list) else []:
            named = entry.get("type") if isinstance(entry, dict) else None
            if isinstance(named, str) and not _is_trusted(named):
                yield "'type'", repr(named)
        return
    waiting = [
        without_own_code(content) if file.name == "config.json" and isinstance(content, dict) else content
    ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for key, entry in value.items():
                if (
                    (key in _CODE_KEYS and entry)
                    or (key.endswith("attn_implementation") and "/" in str(entry))
                    or (
                        key == "auto_mapping"
                        and isinstance(entry, dict)
                        and not _is_trusted(entry.get("parent_library", "transformers"))
                    )
                ):
                    yield repr(key), _shown(entry)
                waiting.append(entry)


def _is_trusted(name: Any) -> bool:
    return isinstance(name, str) and name.partition(".")[0] in _TRUSTED


def _shown(value: Any) -> str:
    text = json_text(value)
    return text if len(text) <= 100 else text[:97] + "..."
