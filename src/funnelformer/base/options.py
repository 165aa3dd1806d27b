"""What the options of all commands share: words to choose from, ranges, groups in `--help`.

Nothing here imports a library of models, so that `--help` and `--version` answer at once. A command's configuration is
a dataclass under `@grouped(...)`; its options stand there and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import tomllib
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from .errors import UserError
from .json_toml import load_toml
from .version import VERSION_KEY

__all__ = [
    "DECIDED",
    "FRACTION",
    "FRACTION_FROM_0",
    "MOST_USED",
    "SEED",
    "Backend",
    "BackendOption",
    "ConfigKeys",
    "Device",
    "DeviceOption",
    "Engine",
    "Files",
    "Form",
    "Int8",
    "LabelColumn",
    "LongestText",
    "ModelFolder",
    "ModelForm",
    "OnNan",
    "OutFolder",
    "OverwriteFolder",
    "Parallel",
    "Range",
    "Rate",
    "Sentences",
    "SkipBadRows",
    "Strategy",
    "TaskOfData",
    "TextColumn",
    "TextPairColumn",
    "TextsInBatch",
    "Tracker",
    "above",
    "at_least",
    "between",
    "check_ranges",
    "flag",
    "grouped",
    "model_options",
    "num_usable_cores",
    "parse_options",
    "takes",
]

Backend = Literal["auto", "torch", "onnx", "openvino"]
Device = Literal["auto", "cpu"]
Engine = Literal["local", "ray"]
Form = Literal["single", "continuation", "structure"]
Rate = float | Literal["auto"]
Int8 = Literal["dynamic", "static"]
ModelForm = Literal[
    "funnelformer",
    "remote-code",
    "transformers",
    "original-torch",
    "original-tf",
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "electra",
    "fnet",
]
OnNan = Literal["stop", "skip"]
Parallel = Literal["ddp", "fsdp"]
Sentences = Literal["lines", "punctuation"]
Strategy = Literal["single_token", "whole_word", "token_span", "word_span"]
Tracker = Literal["none", "tensorboard", "wandb", "trackio"]
Files = Annotated[list[str], Parameter(consume_multiple=True, negative="")]


class Range:
    """The values that an option takes; it stands beside the type in the annotation of the option's field.

    text: how `--help` and errors word it. holds: whether a value is in it; NaN and infinity never are.
    """

    def __init__(self, text: str, holds: Callable[[Any], bool]) -> None:
        self.text, self.holds = text, holds

    def __repr__(self) -> str:
        return f"<{self.text}>"


def at_least(least: float) -> Range:
    return Range(f"{least} or more", lambda value: least <= value < math.inf)


def above(least: float) -> Range:
    return Range(f"more than {least}", lambda value: least < value < math.inf)


def between(text: str, holds: Callable[[Any], bool]) -> Range:
    """A range with two ends, which `text` words, such as 0 <= fraction < 1."""
    return Range(text, holds)


# Options that several commands have, each with its range and its line of `--help`.
DeviceOption = Annotated[Device, Parameter(help="auto uses an accelerator if there is one.")]
BackendOption = Annotated[
    Backend,
    Parameter(
        help="onnx and openvino run an exported graph; auto does so if the folder has a graph and no weights."
    ),
]
TextColumn = Annotated[str | None, Parameter(help="Column with the text, for tables.")]
TextPairColumn = Annotated[str | None, Parameter(help="Column with the second text.")]
LabelColumn = Annotated[str | None, Parameter(help="Column with the label.")]
ConfigKeys = Annotated[
    dict[str, str],
    Parameter(
        name="--set",
        negative="",
        help="Keys of the model's config, such as --set.hidden_dropout=0.2 or --set.pooling=max.",
    ),
]
LongestText = Annotated[
    int | None,
    at_least(3),
    Parameter(help="Longest text in tokens; longer ones are cut. By default as in training."),
]
TextsInBatch = Annotated[int, at_least(1), Parameter(help="Texts in a batch.")]
TaskOfData = Annotated[
    str | None,
    Parameter(
        help="Task whose official files DATA holds; by default the model's own if DATA is a folder or a Hub name."
    ),
]
SkipBadRows = Annotated[
    bool,
    Parameter(
        negative="",
        help="Leave out rows that cannot be used, and count them; by default the first such row ends the run.",
    ),
]
ModelFolder = Annotated[str, Parameter(help="Folder of the model.")]
OutFolder = Annotated[Path, Parameter(help="Folder to write.")]
OverwriteFolder = Annotated[bool, Parameter(help="Replace the files of a folder that is not empty.")]

# In this order in `--help`.
_GROUPS = {
    name: Group(title, sort_key=number)
    for number, (name, title) in enumerate(
        {
            "most": "Most used",
            "data": "Data",
            "model": "Model",
            "optimisation": "Optimisation",
            "run": "Run",
            "output": "Output",
        }.items(),
        start=1,
    )
}
# Of an argument that a command names itself, beside its configuration.
MOST_USED = _GROUPS["most"]

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")


FRACTION_FROM_0 = between("0 <= fraction < 1", lambda value: 0 <= value < 1)
FRACTION = between("0 < fraction < 1", lambda value: 0 < value < 1)
SEED = between(f"0 to {2**32 - 1}", lambda value: 0 <= value < 2**32)


def check_ranges(config: Any) -> None:
    """Raise `UserError` for the first field with a value outside its range; None and words have no range.

    Every value of a list is checked.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value, allowed = getattr(config, name, None), _range_of(hint)
        if allowed is None or value is None or isinstance(value, str):
            continue
        for number in value if isinstance(value, list | tuple) else (value,):
            if not allowed.holds(number):
                finite = "" if math.isfinite(number) else "a finite number, "
                raise UserError(f"{_flag_of(name, hint)} is {number}; allowed: {finite}{allowed.text}")


def grouped(**groups: str) -> Callable[[type[C]], type[C]]:
    """Decorate the dataclass of a command's options: each option into a group of `--help`, with its range beside it.

    groups: names of fields, divided by spaces, for each of `most`, `data`, `model`, `optimisation`, `run`, `output`;
        a subclass keeps the groups of what it inherits, with new defaults too, and may move it.
    """

    def decorate(config_class: type[C]) -> type[C]:
        own: Any = config_class
        group_of = {name: _GROUPS[key] for key, names in groups.items() for name in names.split()}
        # As in __init__: cyclopts looks for no argument without a name behind the first that has one, and those of a
        # base class come first.
        own.__dataclass_fields__ = dict(
            sorted(own.__dataclass_fields__.items(), key=lambda entry: bool(entry[1].kw_only))
        )
        known = {entry.name: entry for entry in fields(own)}
        assert group_of.keys() <= known.keys(), group_of.keys() - known.keys()
        inherited = [vars(base).get("_group_of", {}) for base in reversed(own.__mro__[1:])]
        group_of = own._group_of = {
            key: group for groups in (*inherited, group_of) for key, group in groups.items()
        }
        hints = get_type_hints(config_class, include_extras=True)
        annotations = inspect.get_annotations(config_class)
        for name, entry in known.items():
            hint, settings = hints[name], dict[str, Any]()
            if name in group_of:
                settings["group"] = group_of[name]
            if (allowed := _range_of(hint)) is not None:
                if entry.default_factory is not MISSING or entry.default in (None, MISSING):
                    settings["show_default"] = f"none; allowed: {allowed.text}"
                else:
                    settings["show_default"] = f"{entry.default}; allowed: {allowed.text}"
            elif entry.default is False or entry.default_factory is not MISSING:
                settings["show_default"] = False  # off, empty, or what only the machine decides
            if settings:
                annotations[name] = Annotated[hint, Parameter(**settings)]
        config_class.__annotations__ = annotations
        return Parameter(name="*")(config_class)

    return decorate


def takes(config_class: Callable[P, C]) -> Callable[[Callable[[C], R]], Callable[P, R]]:
    """Decorate a function of one configuration: it takes the configuration's arguments, as predict(model, data)."""

    def decorate(function: Callable[[C], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(config_class(*args, **kwargs))

        # For `help()`: the options are those of the configuration.
        call.__signature__ = inspect.signature(config_class)  # type: ignore[attr-defined]
        return call

    return decorate


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return "--" + name.replace("_", "-")


# Keys of a model's config that are not the user's to set, and what decides each.
DECIDED = {
    **dict.fromkeys(("num_labels", "id2label", "label2id"), "the labels of the data"),
    "problem_type": "the kind of the task (--regression, --multi-label)",
    "sparse_prediction": "pretraining",
    "num_hidden_layers": "the layout",
    "vocab_size": "the tokenizer",
    **dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"), "the tokenizer"),
    **dict.fromkeys(("model_type", "architectures", "auto_map", "custom_pipelines"), "the model's class"),
    **dict.fromkeys(("is_encoder_decoder", "chunk_size_feed_forward", "use_cache"), "the model's class"),
    **dict.fromkeys(("return_dict", "output_hidden_states", "output_attentions"), "each call of the model"),
    **dict.fromkeys(("name_or_path", "_name_or_path", "_commit_hash"), "the model's folder"),
    **dict.fromkeys(("transformers_version", VERSION_KEY), "the version that saves the model"),
    **dict.fromkeys(("torch_dtype", "dtype", "quantization_config"), "--precision"),
    "sentence_transformers": "the kind of the task (--regression, --multi-label)",
    **dict.fromkeys(("_attn_implementation", "_attn_implementation_internal"), "attn_implementation"),
    **dict.fromkeys(("experts_implementation", "_experts_implementation"), "attn_implementation"),
    "_experts_implementation_internal": "attn_implementation",
}


def model_options(options: dict[str, Any], free: Collection[str] = ()) -> dict[str, Any]:
    """`parse_options` of a run's `--set`, without keys that something else decides, except the `free` ones.

    Raises UserError naming such a key and what decides it.
    """
    for key in options:
        if key in DECIDED and key not in free:
            raise UserError(f"--set.{key} cannot be set: {DECIDED[key]} decides it")
    return parse_options(options)


def parse_options(options: dict[str, Any]) -> dict[str, Any]:
    """Read the values of `--set.KEY=VALUE` as TOML values, and "none" as None; anything that is not TOML stays text."""
    parsed: dict[str, Any] = {}
    for key, value in options.items():
        try:
            if value == "none":
                parsed[key] = None
                continue
            is_text = isinstance(value, str)
            parsed[key] = load_toml(f"value = {value}", f"--set.{key}")["value"] if is_text else value
        except tomllib.TOMLDecodeError:
            parsed[key] = value
    return parsed


def num_usable_cores() -> int:
    """The number of cores that this process may use; all of the machine's if the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _range_of(hint: Any) -> Range | None:
    parts = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((part for part in parts if isinstance(part, Range)), None)


def _flag_of(name: str, hint: Any) -> str:
    """The first name that an option was given, or that of its field."""
    parts = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    given: list[Any] = [part.name for part in parts if isinstance(part, Parameter) and part.name]
    return next(iter(given[0])) if given else flag(name)
