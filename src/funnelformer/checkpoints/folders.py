"""Which of the known forms a folder has, where a name on the Hub leads, and loading either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ..base.bundled import located
from ..base.errors import UserError
from ..base.files import check_readable
from ..base.foreign_code import refuse_foreign_code
from ..base.hub import HUB_NAME, reach_hub
from ..base.json_toml import read_json
from ..base.sentence_modules import MODULES, Modules, model_folder, read_modules
from ..base.weight_files import TRANSFORMERS_WEIGHTS
from ..config.model_config import FunnelformerConfig
from ..data.tokenizer import TOKENIZER_FILES
from . import original_torch
from .foreign_options import make_config
from .forms import FORMS, MODEL_TYPES
from .loaded import SEQUENCE_HEADS, Loaded
from .model_source import Folder, Hub, find_model, nearest
from .tensor_bundle import find_index

__all__ = [
    "HUB_NAME",
    "Loaded",
    "detect",
    "find_foreign",
    "load_folder",
    "load_foreign",
    "map_folder",
    "resolve",
    "translated",
]

# What stops a type that people may try; all others that transformers knows are refused without a reason.
_UNSUITABLE = {
    "modernbert": "rotary positions, norms before its layers and a gated feed-forward layer",
    "neobert": "rotary positions, norms before its layers and a gated feed-forward layer",
    "nomic_bert": "rotary positions and a gated feed-forward layer",
    "deberta": "relative scores of its own",
    "deberta-v2": "relative scores of its own",
    "mpnet": "relative scores of its own",
    "albert": "layers in shared groups",
}
# Config, weights, tokenizer and card; not the weights of other frameworks that lie beside them.
_HUB_FILES = [
    "config.json",
    "model*.safetensors",
    "pytorch_model*.bin",
    *(name for name in TRANSFORMERS_WEIGHTS if name.endswith(".index.json")),
    *TOKENIZER_FILES,
    "README.md",
    # of sentence_transformers; its first module may have a folder of its own
    MODULES,
    "*sentence*.json",
    "?_*/*.json",
    *(f"0_*/{name}" for name in ("model*.safetensors", "pytorch_model*.bin", *TOKENIZER_FILES)),
]


def detect(folder: str | Path) -> str:
    """Return the format of a model's folder, from its content.

    Raises UserError for a path that does not exist (naming the nearest), that holds no model (saying what was looked
    for), or that names code to run.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder{nearest(folder)}")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; give the folder that holds the model")
    refuse_foreign_code(folder)
    folder = model_folder(folder)
    check_readable(folder)
    if (folder / "config.json").is_file():
        return _by_model_type(folder / "config.json")
    if any((folder / name).is_file() for name in original_torch.CONFIGS):
        if any((folder / name).is_file() for name in original_torch.WEIGHTS):
            return "original-torch"
        if find_index(folder):
            return "original-tf"
    raise UserError(
        f"{folder}: no model; looked for config.json (of model_type {', '.join(sorted(MODEL_TYPES))}) and for "
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
    form: Any = FORMS[detect(folder)]
    modules = read_modules(folder)
    loaded: Loaded = form.load(folder if modules is None else modules.folder)
    return loaded if modules is None or modules.is_ours else _with_vectors(loaded, modules)


def _with_vectors(loaded: Loaded, modules: Modules) -> Loaded:
    """A model whose config says how a text becomes a vector, and whose heads of sequences read that vector."""
    config, vectors = loaded.config, modules.vectors
    if modules.width not in (None, config.hidden_size):
        raise UserError(
            f"{modules.folder}: the states are {config.hidden_size} wide, and the pooling's config says {modules.width}"
        )
    values: dict[str, Any] = {"sentence_embedding": vectors.to_dict()}
    if loaded.architecture not in SEQUENCE_HEADS:
        values["classifier_pooling"] = vectors.pooling
    return replace(loaded, config=make_config({**config.to_dict(), **values}, str(modules.folder)))


def load_foreign(source: str | Path, **hub: Any) -> Loaded:
    """`load_folder` of a local folder, or of a name on the Hugging Face Hub; hub: as for `resolve`."""
    return load_folder(resolve(source, **hub))


def resolve(source: str | Path, **hub: Any) -> Path:
    """Return a local folder: the one named, or a download of the Hub's `user/name`.

    Only config, weights and tokenizer are downloaded.

    hub: `revision`, `token`, `cache_dir`, `local_files_only` of `snapshot_download`.
    Raises UserError when there is neither.
    """
    found = _located(source, **hub)
    if isinstance(found, Path):
        return found
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
    found = _located(source, **hub)
    if isinstance(found, Hub):
        from transformers.utils import cached_file

        try:
            config = cached_file(
                str(source), "config.json", _raise_exceptions_for_missing_entries=False, **hub
            )
        except Exception as error:  # as in `resolve`
            raise _not_on_hub(source, error) from error
        if config is None:  # a folder of sentence_transformers may have it deeper
            return resolve(source, **hub)
        refuse_foreign_code(Path(str(config)).parent)
        return None if _by_model_type(Path(str(config))) == "funnelformer" else resolve(source, **hub)
    if detect(found) != "funnelformer":
        return found
    # Ours as well, but with its config in the folder of a module.
    return None if (found / "config.json").is_file() else found


def _located(source: str | Path, **hub: Any) -> Path | Hub:
    """A folder, or a name on a Hub that can be asked. Raises UserError for what is neither."""
    if not HUB_NAME.fullmatch(str(source)) and not Path(located(source)).exists():
        raise UserError(f"{source}: no such folder{nearest(Path(source))}")  # a layout has no weights to read
    found = find_model(source)
    if isinstance(found, Hub):
        if not hub.get("local_files_only"):
            reach_hub(found.name)
        return found
    assert isinstance(found, Folder)
    return found.path


def translated(values: Mapping[str, Any], source: str) -> FunnelformerConfig:
    """The config that a foreign `config.json` stands for. Raises UserError naming `source` and the key."""
    form = FORMS[_form_of(values, source)]
    config: FunnelformerConfig = form.config_from_theirs(values, source)
    return config


def _by_model_type(path: Path) -> str:
    return _form_of(read_json(path), path)


def _form_of(values: Mapping[str, Any], source: str | Path) -> str:
    """The format of a config's model. Raises UserError that says what a model of another type is good for."""
    model_type = values.get("model_type")
    if isinstance(model_type, str) and model_type in MODEL_TYPES:
        return MODEL_TYPES[model_type]
    allowed = f"allowed: {', '.join(sorted(MODEL_TYPES))}"
    if isinstance(model_type, str) and (model_type in _UNSUITABLE or model_type in CONFIG_MAPPING_NAMES):
        reason = f" ({_UNSUITABLE[model_type]})" if model_type in _UNSUITABLE else ""
        raise UserError(
            f"{source}: model_type is {model_type!r}{reason}, which cannot become a funnelformer; "
            f"use it through transformers, for example as a teacher; {allowed}"
        )
    raise UserError(f"{source}: model_type is {model_type!r}; {allowed}")


def _not_on_hub(source: str | Path, error: Exception) -> UserError:
    near = nearest(Path(source))
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{source}: no such folder{near}, and not found on the Hugging Face Hub ({reason})")
