"""The one place where a backend is chosen, and the model is loaded in it."""

from __future__ import annotations

from ..data.plain_tokenizer import load_plain_tokenizer
from ..inference.onnx_model import OnnxModel, choose_backend
from .backend import Backend, limited, vector_length
from .config import ServeConfig
from .graph_backend import OnnxBackend

__all__ = ["load_backend"]


def load_backend(config: ServeConfig) -> Backend:
    """Load the model in the backend that was asked for. Raises UserError if it cannot be served."""
    chosen = choose_backend(config.model, config.backend)
    if chosen != "torch":
        graph = OnnxModel(config.model, engine=chosen)
        tokenizer = load_plain_tokenizer(config.model)
        return OnnxBackend(limited(graph, tokenizer, config), vector_length(graph.config, config))
    from .torch_backend import load_torch_backend

    return load_torch_backend(config)
