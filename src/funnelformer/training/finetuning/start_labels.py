"""Class names if fine-tuning starts from a model that already has classes: its head is kept, or a new one is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils import cached_file

from ...base.errors import UserError
from ...base.json_toml import read_json
from ...base.sentence_modules import model_folder
from ...checkpoints.model_source import Folder, Layout, find_model
from ...config.model_options import class_names
from ...tasks.kind import Kind

__all__ = ["in_order_of", "is_new_head", "renew_head", "start_labels", "was_regression"]

# Endings of the architectures, ours and transformers', whose head has an output for each class.
_WITH_CLASSES = ("ForSequenceClassification", "ForTokenClassification")
_SHOWN = 8


def start_labels(model: str) -> tuple[str, ...] | None:
    """The names of the classes of a model's head, in the order of their ids; None for a model without classes.

    model: a folder, or a name on the Hub. Classes that were never named are LABEL_0, LABEL_1 ..., as in transformers.
    """
    content = _config(model)
    architectures = content.get("architectures") or [""]
    if not str(architectures[0]).endswith(_WITH_CLASSES):
        return None
    return tuple(_names(content).values())


def was_regression(model: str) -> bool:
    """Whether a model's head gives one amount."""
    content = _config(model)
    return content.get("problem_type") == "regression" or len(_names(content)) == 1


def _names(content: Mapping[str, Any]) -> dict[int, str]:
    """The names of the classes; LABEL_0 and so on if they have none, or if the config's are not valid.

    The latter is not an error here, because loading the model will raise it.
    """
    number = content.get("num_labels")
    try:
        names = class_names(content.get("id2label"), content.get("label2id"), number)
    except UserError:
        names, number = None, None
    return names or {index: f"LABEL_{index}" for index in range(number or 2)}


def _config(model: str) -> dict[str, Any]:
    found = find_model(model)
    if isinstance(found, Folder):
        file = model_folder(found.path) / "config.json"
        return read_json(file) if file.is_file() else {}
    if isinstance(found, Layout):
        return {}
    try:
        return read_json(str(cached_file(found.name, "config.json")))
    except (
        Exception
    ):  # errors of the network and the Hub have no common base class; loading the model reports them in full
        return {}


def in_order_of(start: Sequence[str] | None, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """The labels of the data; in the order of the start model's labels, if both are the same names.

    The model's head has a row for each class, so another order would swap the classes.
    """
    if start is not None and labels is not None and len(start) == len(labels) and set(start) == set(labels):
        return tuple(start)
    return None if labels is None else tuple(labels)


def is_new_head(kind: Kind, start: Sequence[str] | None, was_regression: bool) -> bool:
    """Whether the start model's head has other classes than the task, so that its weights are of no use for them."""
    if start is None or not kind.has_class_names:
        return False
    if kind.task.kind == "regression":
        return not was_regression
    return was_regression or tuple(start) != tuple(kind.task.labels or ())


def renew_head(model: Any, kind: Kind, start: Sequence[str], source: str) -> str:
    """Initialise the weights of the head anew, and return a line that tells the user why."""
    for name, module in model.named_modules():
        own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)]
        if any(parameter.startswith(kind.head.label_parameters) for parameter in own):
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False
            model._init_weights(module)
    wanted = "amounts" if kind.task.labels is None else _shown(kind.task.labels)
    return f"the head is new: {source} has the classes {_shown(start)}, the data have {wanted}"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
