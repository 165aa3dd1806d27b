"""What a sentence-transformers folder does to a text beside its model: pooling, length, normalisation, prompts.

They belong to the model, so its config keeps them (`sentence_embedding`) through training, export and saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from .bundled import located
from .errors import UserError, reject_unknown, short
from .json_toml import read_json, read_json_value
from .strict_json import json_text

__all__ = [
    "MODULES",
    "Modules",
    "Pooling",
    "SentenceEmbedding",
    "model_folder",
    "read_modules",
    "write_length",
    "write_modules",
]

MODULES = "modules.json"
# In bytes: what every file system takes for one name.
_LONGEST_PATH = 255
# How the encoder's states become one vector, see `modeling.model.sequence_vector`.
Pooling = Literal["cls", "mean", "mean_tokens"]

_LIBRARY = "sentence_transformers."
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
_NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
_ORDER = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
# Of the folders we write, whose model gives the finished vector itself.
_OURS = (["Transformer"], ["Transformer", "Normalize"])
_VECTOR, _METHOD = "sentence_embedding", "sequence_vectors"
# The settings of the first module, in the order the library looks for them.
_SETTINGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_LIBRARY_SETTINGS = "config_sentence_transformers.json"
_MODE_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Their pooling -> ours: their mean is over the tokens.
_POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean_tokens"}


@dataclass(frozen=True)
class SentenceEmbedding:
    """How a text becomes a vector.

    pooling: see `FunnelformerConfig.classifier_pooling`. normalize: to length 1.
    max_length: number of tokens after which a text is cut; None: as far as tokenizer and positions reach.
    prompts: name -> what is put before a text. default_prompt: the name of the one that is put before every text.
    similarity: the library's name of the function that compares two vectors.
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"

    @classmethod
    def from_dict(cls, values: Any, where: str) -> SentenceEmbedding:
        """Read what `to_dict` gave. Raises UserError naming `where` and the key."""
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: is {short(values)}; allowed: an object with {_keys(cls)}")
        reject_unknown(map(str, values), [entry.name for entry in fields(cls)], where)
        result = cls(**values)
        if result.pooling not in get_args(Pooling):
            raise UserError(
                f"{where}: pooling is {short(result.pooling)}; allowed: {', '.join(get_args(Pooling))}"
            )
        if not isinstance(result.normalize, bool):
            raise UserError(f"{where}: normalize is {short(result.normalize)}; allowed: true, false")
        _check_length(result.max_length, f"{where}: max_length")
        _check_prompts(result.prompts, result.default_prompt, where)
        if not isinstance(result.similarity, str):
            raise UserError(f"{where}: similarity is {short(result.similarity)}; allowed: a name")
        return result

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def prompt(self, name: str | None, where: str) -> str:
        """The text of the prompt `name`, else of the default one, or "". Raises UserError for an unknown name."""
        name = name or self.default_prompt
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise UserError(f"{where}: has no prompt {name!r}; it has: {known}")
        return self.prompts[name]


@dataclass(frozen=True)
class Modules:
    """A folder's modules. folder: where config, weights and tokenizer lie. vectors: how a text becomes one.

    is_ours: the model gives the vector itself, and its config says the pooling.
    lower_case: the text is lower-cased before the tokenizer has it. width: of the states that are pooled, where known.
    """

    folder: Path
    vectors: SentenceEmbedding
    is_ours: bool
    lower_case: bool = False
    width: int | None = None


def model_folder(folder: str | Path) -> Path:
    """Where a folder's model lies: in itself, or in that of the first of its modules. Raises as `read_modules`."""
    folder = Path(located(folder))
    if (folder / "config.json").is_file():
        return folder
    modules = read_modules(folder)
    return folder if modules is None else modules.folder


def read_modules(folder: str | Path) -> Modules | None:
    """Read a folder in the form of sentence_transformers; None where there is no modules.json.

    Nothing is imported: of the modules it names, those that are known are computed here.
    Raises UserError naming the file, and the module or setting that cannot be had.
    """
    folder = Path(located(folder))
    file = folder / MODULES
    if not file.is_file():
        return None
    entries = [_read_entry(entry, file) for entry in _list(file)]
    names = [name for name, _ in entries]
    if not names or names[0] != "Transformer":
        raise UserError(
            f"{file}: the first module is {names[0] if names else 'missing'}; allowed: Transformer"
        )
    inner = folder / entries[0][1]
    settings_file = next((inner / name for name in _SETTINGS if (inner / name).is_file()), None)
    settings = {} if settings_file is None else read_json(settings_file)
    is_ours = settings.get("module_output_name") == _VECTOR
    if names not in (_OURS if is_ours else _ORDER):
        wanted = " or ".join(", ".join(order) for order in (_OURS if is_ours else _ORDER))
        raise UserError(f"{file}: the modules are {', '.join(names)}; allowed: {wanted}")
    if settings_file is not None:
        _check_transformer(settings, is_ours, settings_file)
    pooling, width = (None, None) if is_ours else _read_pooling(folder / entries[1][1] / "config.json")
    if names[-1] == "Normalize":
        _check_normalize(folder / entries[-1][1] / "config.json")
    lower_case = settings.get("do_lower_case") or False
    if not isinstance(lower_case, bool):
        raise UserError(f"{settings_file}: do_lower_case is {short(lower_case)}; allowed: true, false")
    max_length = settings.get("max_seq_length")
    if max_length is None:
        max_length = _tokenizer_length(inner)
    _check_length(max_length, f"{settings_file}: max_seq_length")
    vectors = SentenceEmbedding(
        pooling=_POOLINGS.get(pooling or "", "mean"),
        normalize=names[-1] == "Normalize",
        max_length=max_length,
        **_read_prompts(folder / _LIBRARY_SETTINGS),
    )
    return Modules(inner, vectors, is_ours, lower_case, width)


def write_modules(folder: Path, vectors: SentenceEmbedding, stock_width: int | None = None) -> None:
    """Add to a model's folder what `sentence_transformers.SentenceTransformer` needs to load it.

    stock_width: of the states of a model of transformers itself, which the library's own Pooling averages; None where
        the model is ours.
    Of ours it names modules of sentence_transformers alone, too, so nothing has to be trusted as remote code: the stock
    Transformer calls `FunnelformerModel.sequence_vectors`, which hands over the pooled vector itself. (Its Pooling
    would average the pooled sequence with a mask of the unpooled one's length, and where the lengths differ takes
    padding for tokens.)
    """
    types = [_TRANSFORMER, *([] if stock_width is None else [_POOLING])]
    types += [_NORMALIZE] if vectors.normalize else []
    paths = [f"{number}_{kind.rpartition('.')[2]}" if number else "" for number, kind in enumerate(types)]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(zip(paths, types, strict=True))
    ]
    _write(folder / MODULES, modules)
    settings: dict[str, Any] = {} if vectors.max_length is None else {"max_seq_length": vectors.max_length}
    if stock_width is None:
        settings |= {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": _METHOD, "method_output_name": None}},
            "module_output_name": _VECTOR,
        }
    _write(folder / _SETTINGS[0], settings)
    library: dict[str, Any] = {"model_type": "SentenceTransformer", "similarity_fn_name": vectors.similarity}
    if vectors.prompts:
        library |= {"prompts": vectors.prompts, "default_prompt_name": vectors.default_prompt}
    _write(folder / _LIBRARY_SETTINGS, library)
    if stock_width is not None:
        pooling = "cls" if vectors.pooling == "cls" else "mean"
        (folder / paths[1]).mkdir()
        _write(
            folder / paths[1] / "config.json", {"embedding_dimension": stock_width, "pooling_mode": pooling}
        )
    if vectors.normalize:
        (folder / paths[-1]).mkdir()
        _write(
            folder / paths[-1] / "config.json", {"module_input_name": _VECTOR, "module_output_name": _VECTOR}
        )


def write_length(folder: Path, max_length: int) -> None:
    """Write down, in a folder without modules, the number of tokens after which a text is cut."""
    _write(folder / _SETTINGS[0], {"max_seq_length": max_length})


def _read_entry(entry: Any, file: Path) -> tuple[str, str]:
    """The name of a module's class, and its folder."""
    kind, path = (entry.get("type"), entry.get("path", "")) if isinstance(entry, Mapping) else (None, None)
    if not isinstance(kind, str) or not isinstance(path, str):
        raise UserError(f"{file}: is not a list of modules with types and paths")
    if "\0" in path or len(path.encode("utf-8", "surrogatepass")) > _LONGEST_PATH:
        raise UserError(f"{file}: the path {short(path)} is not one that a file system accepts")
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{file}: the path {path!r} leads out of the folder")
    # The classes have moved between versions of the library.
    name = kind.rpartition(".")[2]
    if not kind.startswith(_LIBRARY) or name not in ("Transformer", "Pooling", "Normalize"):
        raise UserError(
            f"{file}: the module {kind} is not supported; allowed: sentence_transformers' Transformer, "
            "Pooling and Normalize"
        )
    return name, path


def _check_transformer(settings: Mapping[str, Any], is_ours: bool, file: Path) -> None:
    task, output = settings.get("transformer_task"), settings.get("module_output_name")
    modalities = settings.get("modality_config")
    text = modalities.get("text") if isinstance(modalities, Mapping) else None
    method = text.get("method") if isinstance(text, Mapping) else None
    if task not in (None, "feature-extraction"):
        raise UserError(f"{file}: transformer_task is {short(task)}; allowed: feature-extraction")
    if output not in (None, "token_embeddings", _VECTOR):
        raise UserError(f"{file}: module_output_name is {short(output)}; allowed: token_embeddings")
    if method not in ((_METHOD,) if is_ours else (None, "forward")):
        raise UserError(
            f"{file}: the method for texts is {short(method)}; allowed: {_METHOD if is_ours else 'forward'}"
        )


def _read_pooling(file: Path) -> tuple[str, int | None]:
    """The one pooling that is asked for, and the width of what is pooled."""
    values = read_json(file)
    modes: Any = values.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _MODE_KEYS.items() if values.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in _POOLINGS:
        given = " and ".join(map(str, modes)) if isinstance(modes, list) else repr(modes)
        raise UserError(f"{file}: the pooling is {given}; allowed: {' or '.join(_POOLINGS)}")
    if values.get("include_prompt", True) is not True:
        raise UserError(
            f"{file}: include_prompt is false; allowed: true, because prompts are part of the mean here"
        )
    width = values.get("embedding_dimension", values.get("word_embedding_dimension"))
    if width is not None and (isinstance(width, bool) or not isinstance(width, int)):
        raise UserError(f"{file}: the width of the states is {short(width)}; allowed: a whole number")
    return modes[0], width


def _check_normalize(file: Path) -> None:
    if not file.is_file():  # of older versions, which had nothing to say
        return
    key = read_json(file).get("module_input_name", _VECTOR)
    if key != _VECTOR:
        raise UserError(f"{file}: module_input_name is {short(key)}; allowed: {_VECTOR}")


def _read_prompts(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    values = read_json(file)
    prompts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    # The library writes empty prompts for query and document into every folder.
    if isinstance(prompts, Mapping):
        prompts = {name: text for name, text in prompts.items() if text != "" or name == default}
    _check_prompts(prompts, default, str(file))
    similarity = values.get("similarity_fn_name") or "cosine"
    if not isinstance(similarity, str):
        raise UserError(f"{file}: similarity_fn_name is {short(similarity)}; allowed: a name")
    return {"prompts": dict(prompts), "default_prompt": default, "similarity": similarity}


def _check_prompts(prompts: Any, default: Any, where: str) -> None:
    if not isinstance(prompts, Mapping) or not all(
        isinstance(part, str) for entry in prompts.items() for part in entry
    ):
        raise UserError(f"{where}: prompts is {short(prompts)}; allowed: texts by their names")
    if default is not None and default not in prompts:
        raise UserError(f"{where}: the default prompt is {short(default)}, which is not among the prompts")


def _check_length(value: Any, where: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 3):
        raise UserError(f"{where} is {short(value)}; allowed: a whole number of tokens, 3 or more")


def _tokenizer_length(folder: Path) -> int | None:
    file = folder / "tokenizer_config.json"
    value = read_json(file).get("model_max_length") if file.is_file() else None
    # transformers writes 1e30 for "no limit".
    return int(value) if isinstance(value, int | float) and 3 <= value < 10**9 else None


def _keys(cls: Any) -> str:
    return ", ".join(entry.name for entry in fields(cls))


def _list(file: Path) -> list[Any]:
    content = read_json_value(file)
    if not isinstance(content, list):
        raise UserError(f"{file}: is not a list of modules with types and paths")
    return content


def _write(file: Path, content: Any) -> None:
    file.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")
