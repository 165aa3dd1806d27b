"""What a model's folder says beside its config: the task it was fine-tuned on, and the classes it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.bundled import located
from ..base.errors import UserError, short
from ..base.json_toml import read_json
from ..tasks.windowing import windowing_in

__all__ = [
    "DEFAULT_LENGTH",
    "TASK_FILE",
    "allow_length",
    "check_asked_length",
    "check_length",
    "read_architectures",
    "read_settings",
]

# Of a fine-tuned model's folder.
TASK_FILE = "task.json"
# Tokens after which a text is cut, if nothing says how many.
DEFAULT_LENGTH = 512


def check_asked_length(max_length: int | None) -> None:
    """Raise UserError if a length that a user asked for has no room for a token between the special ones."""
    if max_length is not None and max_length < 3:
        raise UserError(f"--max-length is {max_length}; allowed: 3 or more")


def check_length(config: Any, max_length: int, flag: str) -> None:
    """Raise UserError when absolute positions do not reach `max_length`, which `flag` asked for."""
    limit = config.max_position_embeddings
    if config.position == "absolute" and max_length > limit:
        raise UserError(f"{flag} {max_length} is beyond the model's max_position_embeddings {limit}")


def allow_length(config: Any, tokenizer: Any, length: int) -> None:
    """Say in both that texts have up to `length` tokens: there other programs that load the folder cut them."""
    tokenizer.model_max_length = length
    if config.position != "absolute":
        config.max_position_embeddings = max(config.max_position_embeddings, length)


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
