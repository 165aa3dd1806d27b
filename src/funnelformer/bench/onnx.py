"""A benchmark's model in ONNX Runtime: exported as `funnelformer export` does, transformers' models in the same way."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.files import temporary_folder
from ..config.model_config import FunnelformerConfig
from ..export.graph import export_graph, trace
from ..export.int8 import products_of, quantise
from ..export.signatures import TARGETS
from ..inference.engines import MODEL_FILE, open_session

__all__ = ["OnnxEncoder"]


class OnnxEncoder(nn.Module):
    """An encoder's graph, from token ids to the last hidden states, as the module it was made from is called.

    It keeps that module's parameters without their values, to be counted. weight_bytes: of the graph's file.
    """

    def __init__(self, model: nn.Module, int8: bool) -> None:
        super().__init__()
        self.config: Any = model.config
        with ExitStack() as stack:
            folder = stack.enter_context(temporary_folder("bench"))
            weakref.finalize(self, stack.pop_all().close)
        file = folder / MODEL_FILE
        if isinstance(self.config, FunnelformerConfig):
            export_graph(model, TARGETS["feature-extraction"], file, inputs=("input_ids",))
        else:
            _export_theirs(model, file)
        if int8:
            whole, file = file, file.with_name("model.int8.onnx")
            quantise(whole, file, "dynamic", products_of(whole))
        self.weight_bytes = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
        self.session = open_session(file)
        self.counted = model.to("meta")

    def forward(self, input_ids: Int[Tensor, "B T"]) -> tuple[Float[Tensor, "B S D"]]:
        return (torch.from_numpy(next(iter(self.session.run({"input_ids": input_ids.numpy()}).values()))),)

    def to(self, *args: Any, **kwargs: Any) -> OnnxEncoder:
        """The runtime has it where it is, in float32 or int8."""
        return self


class _LastState(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids)[0]


def _export_theirs(model: nn.Module, file: Path) -> None:
    """A model of transformers: token ids to the last hidden states."""
    config: Any = model.config
    limit = getattr(config, "max_position_embeddings", None)
    length = min(37, limit or 37)
    sample = {"input_ids": torch.arange(3 * length).view(3, length) % config.vocab_size}
    dims = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=limit)}
    program = trace(_LastState(model).eval(), sample, {"input_ids": dims}, ("last_hidden_state",))
    program.save(file)
