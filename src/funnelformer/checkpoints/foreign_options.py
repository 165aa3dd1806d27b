"""Options at the border: a config from a file's values, and what a foreign form cannot hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..base.errors import UserError, joined
from ..config.model_config import FunnelformerConfig
from ..config.model_options import check_dtype, class_names
from .loaded import SEQUENCE_HEADS

__all__ = ["LABEL_KEYS", "check_holds", "funnel_options", "make_config", "translating", "with_classes"]

# Of a config: each says how many classes there are.
LABEL_KEYS = ("id2label", "label2id", "num_labels")
# What a message of the config begins with: the key it is about.
_KEY = re.compile(r"(model config: )(\w+)(?= is )")


def make_config(
    values: Mapping[str, Any], source: str, keys: Mapping[str, str] | None = None
) -> FunnelformerConfig:
    """Build a config from `values` of the file `source`.

    keys: ours -> theirs, where the file calls them otherwise. Raises UserError naming the file and its key.
    """
    try:
        config = FunnelformerConfig(**values)
        config.to_dict()  # transformers looks at some values only when it writes them
        return config
    except (ValueError, TypeError, StrictDataclassError) as error:
        text = joined(error)
        match = _KEY.match(text)
        if keys and match and match[2] in keys:
            text = f"{match[1]}{keys[match[2]]}{text[match.end() :]}"
        raise UserError(f"{source}: {text}") from error
    except Exception as error:
        raise UserError(_wrong_type(source, error)) from error


def with_classes(theirs: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The content of a config of transformers, whose classes have names that are sure, and its type numbers.

    Its own classes take of two contradicting keys one, and drop `label2id` that stands alone.
    Raises UserError naming `source` and the key.
    """
    values = dict(theirs)
    try:
        for key in ("dtype", "torch_dtype"):
            check_dtype(values.get(key))
        given = (values.get(key) for key in ("id2label", "label2id", "num_labels", "problem_type"))
        names = class_names(*given)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if names is not None:
        values |= {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    return values


@contextmanager
def translating(source: str) -> Iterator[None]:
    """Raise UserError naming the file, whatever its values lead the block to: they may be of any type."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_wrong_type(source, error)) from error


def _wrong_type(source: str, error: Exception) -> str:
    return f"{source}: a value is of the wrong type ({type(error).__name__}: {joined(error)})"


def funnel_options(config: FunnelformerConfig, architecture: str) -> dict[str, Sequence[Any]]:
    """Option -> the values that both released forms of the Funnel-Transformer hold, for `check_holds`."""
    allowed: dict[str, Sequence[Any]] = {
        "mixer": ["attention", ["attention"] * config.num_blocks],
        "pooling": ["mean", "max"],
        "position": ["relative"],
        "embedding_size": [config.hidden_size],
        "project_embeddings": [False],
        "cls_token_type_id": [2],
    }
    if architecture in SEQUENCE_HEADS:
        allowed["classifier_pooling"] = ["cls"]
        allowed["classifier_head"] = ["dense"]
    if architecture == "question_answering":
        allowed["qa_head"] = ["simple"]
    return allowed


def check_holds(
    config: FunnelformerConfig, target: str, allowed: Mapping[str, Sequence[Any]], by_flag: Mapping[str, Any]
) -> None:
    """Raise UserError naming every option of `config` that `target` cannot hold.

    allowed: option -> the values the format holds.
    by_flag: option -> its one value there; these change what the model computes, not its tensors, so that the
        message offers the `--set` that converts all the same.
    """
    bad = [
        f"{key}={getattr(config, key)!r}"
        for key, values in allowed.items()
        if getattr(config, key) not in values
    ]
    if bad:
        raise UserError(f"{target} cannot hold {', '.join(bad)}")
    changed = [key for key, value in by_flag.items() if getattr(config, key) != value]
    if changed:
        given = ", ".join(f"{key}={getattr(config, key)!r}" for key in changed)
        flags = " ".join(f"--set {key}={'none' if by_flag[key] is None else by_flag[key]}" for key in changed)
        raise UserError(
            f"{target} cannot hold {given}; {flags} converts, with outputs changed where it matters"
        )
