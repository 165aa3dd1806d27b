"""The names of the files that transformers keeps a model's weights in."""

from __future__ import annotations

__all__ = ["TRANSFORMERS_WEIGHTS"]

# In the order transformers looks for them.
TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
