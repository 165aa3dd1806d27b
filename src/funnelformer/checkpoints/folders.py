"""Which of the known forms a folder has, where a name on the Hub leads, and loading either."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data.files import check_readable
from ..data.json_toml import read_json
from ..errors import UserError, did_you_mean
from . import native, original_tf, original_torch, ponet, transformers_funnel
from .loaded import Loaded
from .tensor_bundle import find_index
from .weights import TRANSFORMERS_WEIGHTS

__all__ = [
    "FORMATS",
    "Loaded",
    "detect",
    "find_foreign",
    "load_folder",
    "load_foreign",
    "map_folder",
    "resolve",
]

FORMATS = {
    "funnelformer": native,
    "transformers-funnel": transformers_funnel,
    "original-torch": original_torch,
    "original-tf": original_tf,
    "ponet": ponet,
}
_MODEL_TYPES = {"funnelformer": "funnelformer", "funnel": "transformers-funnel", "ponet": "ponet"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Config, weights and tokenizer; not the weights of other frameworks that lie beside them.
_HUB_FILES = [
    "config.json",
    "model*.safetensors",
    "pytorch_model*.bin",
    *(name for name in TRANSFORMERS_WEIGHTS if name.endswith(".index.json")),
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.txt",
]


def detect(folder: str | Path) -> str:
    """Return the format of a model's folder, from its content.

    Raises UserError for a path that does not exist (naming the nearest), or that holds no model (saying what
    was looked for).
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder{_nearest(folder)}")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; give the folder that holds the model")
    check_readable(folder)
    if (folder / "config.json").is_file():
        return _by_model_type(folder / "config.json")
    if any((folder / name).is_file() for name in original_torch.CONFIGS):
        if any((folder / name).is_file() for name in original_torch.WEIGHTS):
            return "original-torch"
        if find_index(folder):
            return "original-tf"
    raise UserError(
        f"{folder}: no model; looked for config.json (funnelformer, transformers' Funnel, PoNet) and for "
        f"{' or '.join(original_torch.CONFIGS)} with {', '.join(original_torch.WEIGHTS)} or model.ckpt.index"
    )


def load_folder(folder: str | Path) -> Loaded:
    """Read a model's folder of any known format. Raises UserError naming the file and the key or tensor."""
    loaded = map_folder(folder)
    state = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in loaded.state_dict.items()
    }
    return replace(loaded, state_dict=state)


def map_folder(folder: str | Path) -> Loaded:
    """As `load_folder`, but kernels stored the other way around are turned views of what the file holds.

    Nothing is copied: what can be mapped stays in its file, which must not be written to meanwhile.
    """
    folder = Path(folder)
    return FORMATS[detect(folder)].load(folder)


def load_foreign(source: str | Path, **hub: Any) -> Loaded:
    """`load_folder` of a local folder, or of a name on the Hugging Face Hub; hub: as for `resolve`."""
    return load_folder(resolve(source, **hub))


def resolve(source: str | Path, **hub: Any) -> Path:
    """Return a local folder: the one named, or a download of the Hub's `user/name`.

    Only config, weights and tokenizer are downloaded.

    hub: `revision`, `token`, `cache_dir`, `local_files_only` of `snapshot_download`.
    Raises UserError when there is neither.
    """
    path = Path(source)
    if path.exists():
        return path
    if not _HUB_NAME.fullmatch(str(source)):
        raise UserError(f"{source}: no such folder{_nearest(path)}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=_HUB_FILES, **hub))
    except Exception as error:  # network, Hub and disk errors have no common base class
        raise _not_on_hub(source, error) from error


def find_foreign(source: str | Path, **hub: Any) -> Path | None:
    """Return the local folder of a model in a foreign format, or None when it is in our own.

    source, hub: as for `resolve`; of the Hub, only the config is fetched before the format is known.
    Raises UserError for what is no model, or neither here nor on the Hub.
    """
    path = Path(source)
    if not path.exists() and _HUB_NAME.fullmatch(str(source)):
        from transformers.utils import cached_file

        try:
            config = cached_file(str(source), "config.json", **hub)
        except Exception as error:  # as in `resolve`
            raise _not_on_hub(source, error) from error
        return None if _by_model_type(Path(str(config))) == "funnelformer" else resolve(source, **hub)
    return None if detect(path) == "funnelformer" else path


def _by_model_type(path: Path) -> str:
    model_type = read_json(path).get("model_type")
    if model_type not in _MODEL_TYPES:
        raise UserError(f"{path}: model_type is {model_type!r}; allowed: {', '.join(_MODEL_TYPES)}")
    return _MODEL_TYPES[model_type]


def _nearest(path: Path) -> str:
    parent = path.parent
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
    return did_you_mean(path.name, names)


def _not_on_hub(source: str | Path, error: Exception) -> UserError:
    near = _nearest(Path(source))
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{source}: no such folder{near}, and not found on the Hugging Face Hub ({reason})")
