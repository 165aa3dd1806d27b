"""Load a model from a folder or the Hub and check that it fits; make it ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..base.bundled import located
from ..base.errors import UserError, joined, short
from ..base.files import check_readable
from ..base.json_toml import read_json
from ..modeling import DECODER_PREFIX, HEAD_PREFIXES, fix_tables, prepack
from ..tasks.windowing import windowing_in

__all__ = ["TASK_FILE", "check_length", "load_model", "read_architectures", "read_settings", "ready"]


# Of a fine-tuned model's folder.
TASK_FILE = "task.json"


def load_model(
    model_class: Any,
    source: str,
    may_miss: tuple[str, ...] = (),
    may_differ: tuple[str, ...] = (),
    **settings: Any,
) -> tuple[Any, list[str]]:
    """Load a model of `model_class` from a folder or Hub name; return it and its parameters that are random.

    may_miss, may_differ: prefixes of the parameters that the weights may lack, or have in another shape.
    settings: config keys to change.
    Raises UserError naming the first parameter that does not fit, or what cannot be read.
    """
    check_readable(source)
    try:
        model, report = model_class.from_pretrained(
            source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **settings,
        )
    except UserError:
        raise
    except Exception as error:  # transformers, torch, safetensors and the Hub have no common base class
        raise UserError(f"{source}: no model could be loaded ({joined(error)})") from error
    left_out = (*HEAD_PREFIXES, DECODER_PREFIX, f"funnelformer.{DECODER_PREFIX}")
    for name in sorted(report["unexpected_keys"]):
        if not name.startswith(left_out):
            raise UserError(f"{source}: parameter {name} of the weights has no place in the config's model")
    for name, found, wanted in sorted(report["mismatched_keys"]):
        if not name.startswith(may_differ):
            raise UserError(
                f"{source}: parameter {name} has shape {list(found)}, the config wants {list(wanted)}"
            )
    for name in sorted(report["missing_keys"]):
        if not name.startswith(may_miss):
            raise UserError(f"{source}: parameter {name} is not among the weights")
    return model, sorted([*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])])


def check_length(config: Any, max_length: int, flag: str) -> None:
    """Raise UserError when absolute positions do not reach `max_length`, which `flag` asked for."""
    limit = config.max_position_embeddings
    if config.position == "absolute" and max_length > limit:
        raise UserError(f"{flag} {max_length} is beyond the model's max_position_embeddings {limit}")


def read_settings(folder: str) -> dict[str, Any]:
    """What fine-tuning noted in a model's folder of its task; nothing of another folder or a Hub name.

    Raises UserError naming the first value that cannot be used.
    """
    file = Path(located(folder)) / TASK_FILE
    if not file.is_file():
        return {}
    values = read_json(file)
    for name in _TEXTS:
        if not isinstance(values.get(name), str | None) or values.get(name) == "":
            raise UserError(f"{file}: {name} is {short(values[name])}; allowed: a text, null")
    for name, (least, most) in _COUNTS.items():
        value = values.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UserError(f"{file}: {name} is {short(value)}; allowed: {least} to {most}")
    try:
        windowing_in(values)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    threshold = values.get("null_threshold", 0.0)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not abs(threshold) < 1e9:
        raise UserError(f"{file}: null_threshold is {short(threshold)}; allowed: a number")
    return values


def ready(model: Any, device: str, *, only_runs: bool = True) -> Any:
    """The model in evaluation mode, on an accelerator where `device` is "auto" and there is one.

    only_runs: nothing will change the weights: on a CPU they are prepacked, elsewhere attention's tables are kept. The
        model cannot be saved any more.
    """
    if device == "auto" and torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator()).eval()
        return fix_tables(model) if only_runs else model
    return prepack(model) if only_runs else model.eval()


def read_architectures(folder: str) -> list[str]:
    """The classes that the config in a folder names; none of a Hub name. Raises UserError for what is no list."""
    file = Path(located(folder)) / "config.json"
    names = read_json(file).get("architectures") if file.is_file() else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{file}: architectures is {short(names)}; allowed: a list of names")
    return names or []


_TEXTS = ("task", "text", "text_pair", "label", "label_separator")


# From, and to where no sound value lies beyond: what is given to tokenizers in 64 bits.
_COUNTS = {"max_length": (3, 1 << 24), "doc_stride": (1, 1 << 24), "max_answer_length": (1, 1 << 24)}
