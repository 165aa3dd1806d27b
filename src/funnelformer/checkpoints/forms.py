"""The forms that a model's folder can have: a new one is a file of this room, and its name here."""

from __future__ import annotations

from . import (  # noqa: F401 - each adds its forms to the table
    bert,
    distilbert,
    fnet,
    native,
    original_tf,
    original_torch,
    ponet,
    remote_code,
    roberta,
    transformers_electra,
    transformers_funnel,
)
from .encoder_format import ENCODERS
from .form_table import FORMS, MODEL_TYPES, WRITTEN

__all__ = ["ENCODERS", "FORMS", "MODEL_TYPES", "WRITTEN"]
