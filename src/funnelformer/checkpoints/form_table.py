"""The table of the forms that a model's folder can have: the file of each form adds itself."""

from __future__ import annotations

from typing import Any

__all__ = ["FORMS", "MODEL_TYPES", "WRITTEN", "add_form"]

# Name of a form -> what reads it: a module or an `EncoderFormat`, with `load` and `config_from_theirs`.
FORMS: dict[str, Any] = {}
# `model_type` of a config.json -> name of its form
MODEL_TYPES: dict[str, str] = {}
# What `convert --to` says -> what writes it, with `save` and `export`.
WRITTEN: dict[str, Any] = {}


def add_form(name: str, form: Any, model_type: str | None = None, to: str | None = None) -> None:
    """Add a form to the tables.

    model_type: that of its config.json, where it has one. to: what `convert --to` says, where it is written.
    """
    FORMS[name] = form
    if model_type is not None:
        MODEL_TYPES[model_type] = name
    if to is not None:
        WRITTEN[to] = form
