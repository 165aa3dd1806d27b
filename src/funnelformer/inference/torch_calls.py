"""A model of PyTorch, called with arrays as a graph is. It is imported where there is such a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["torch_outputs", "torch_vectors"]


def torch_outputs(model: Any) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """What runs a batch and gives the model's outputs by name, without those a config says to leave out."""
    ignored = ("loss", *model.config.keys_to_ignore_at_inference)

    def run(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            output = model(**_on_device(batch, model))
        return {name: _array(tensor) for name, tensor in output.items() if name not in ignored}

    return run


def torch_vectors(model: Any, normalize: bool) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """What runs a batch and gives its vectors [B, D]."""

    def run(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            vectors = model.sequence_vectors(**_on_device(batch, model))
            return _array(F.normalize(vectors, dim=-1) if normalize else vectors)

    return run


def _on_device(batch: Mapping[str, np.ndarray], model: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(model.device) for name, array in batch.items()}


def _array(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
