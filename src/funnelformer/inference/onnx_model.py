"""An exported model, called as the model it was exported from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.files import check_readable
from ..base.foreign_code import refuse_foreign_code
from ..base.json_toml import read_json
from ..base.options import Backend
from ..checkpoints.foreign_options import make_config
from ..checkpoints.weights import TRANSFORMERS_WEIGHTS
from ..modeling import head_of
from ..modeling.model import sequence_vector
from ..modeling.span_head import hide
from .engines import MODEL_FILE, Engine, best_engine, open_session

__all__ = ["OnnxModel", "choose_backend", "is_export"]


def is_export(folder: str | Path) -> bool:
    """Whether a folder has a graph and no weights for PyTorch."""
    folder = Path(folder)
    return (folder / MODEL_FILE).is_file() and not any(
        (folder / name).is_file() for name in TRANSFORMERS_WEIGHTS
    )


def choose_backend(source: str | Path, backend: Backend) -> Literal["torch"] | Engine:
    """What runs a model: what was asked for; by "auto" PyTorch, or of an export without weights the faster engine.

    Raises UserError when an engine for graphs was asked for and the source has none.
    """
    if backend == "auto":
        return best_engine(source) if is_export(source) else "torch"
    if backend == "torch":
        return "torch"
    if not (Path(source) / MODEL_FILE).is_file():
        raise UserError(
            f"{source}: no {MODEL_FILE}, which --backend {backend} runs; make one: funnelformer export {source} OUT"
        )
    return backend


class Outputs(dict[str, Any]):
    """Of a graph; as in transformers' outputs, each is an attribute too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the graph gives no {name}") from None


class OnnxModel:
    """The graph of a folder that `funnelformer export` wrote; no weights of PyTorch are built.

    config: the model's. model_class: the class it was exported from.
    """

    device = torch.device("cpu")

    def __init__(self, folder: str | Path, file: Path | None = None, engine: Engine = "onnx") -> None:
        """file: the graph, by default the folder's own. Raises UserError when there is none, or it cannot be read."""
        folder = Path(folder)
        file = file or folder / MODEL_FILE
        if not file.is_file():
            raise UserError(f"{folder}: no {MODEL_FILE}; make one with funnelformer export")
        refuse_foreign_code(folder)
        check_readable(folder)
        self.config = make_config(read_json(folder / "config.json"), str(folder / "config.json"))
        architecture = (self.config.architectures or ["FunnelformerModel"])[0]
        head = head_of(architecture)
        if head is None or head.model_class.__name__ != architecture:
            raise UserError(
                f"{folder / 'config.json'}: architectures is {architecture!r}, which is not one of ours"
            )
        self.model_class: Any = head.model_class
        self.session = open_session(file, engine)
        self.input_names, self.output_names = self.session.input_names, self.session.output_names

    def __call__(self, answer_mask: Tensor | None = None, **batch: Tensor | None) -> Outputs:
        """Run a batch; returns the outputs, by name, as tensors. Without `attention_mask` all tokens are real.

        answer_mask: where an answer may begin and end, see `FunnelformerForQuestionAnswering`; by default anywhere.
        Raises ValueError for an input that the graph has and the batch lacks, or the other way around.
        """
        given = {name: tensor.numpy() for name, tensor in batch.items() if tensor is not None}
        if "attention_mask" in self.input_names and "attention_mask" not in given:
            given["attention_mask"] = np.ones_like(given["input_ids"])
        is_inside = "answer_mask" in self.input_names
        if is_inside:
            mask = given["attention_mask"] if answer_mask is None else answer_mask.numpy()
            given["answer_mask"] = mask.astype(np.int64)
        if given.keys() != set(self.input_names):
            raise ValueError(f"the graph reads {', '.join(self.input_names)}, not {', '.join(given)}")
        values = self.session.run(given)
        outputs: dict[str, Any] = {name: torch.from_numpy(value) for name, value in values.items()}
        for name in ("start_logits", "end_logits"):
            if name in outputs and not is_inside:
                outputs[name] = hide(outputs[name], answer_mask)
        if self.gives_vectors:  # of an encoder alone, whose last states have one name too few
            outputs |= {
                "encoder_last_hidden_state": outputs["last_hidden_state"],
                "encoder_position_ids": None,
            }
        return Outputs(outputs)

    def sequence_vectors(self, **batch: Tensor | None) -> Tensor:
        """As `FunnelformerModel.sequence_vectors`, of an export for embeddings."""
        output: Any = self(**batch)
        return sequence_vector(output, self.config)

    @property
    def base_model(self) -> OnnxModel:
        """As of transformers' models: what gives the states."""
        return self

    @property
    def gives_counts(self) -> bool:
        """Whether it says how many tokens each state holds."""
        return "encoder_token_counts" in self.output_names

    @property
    def gives_vectors(self) -> bool:
        """Whether it was exported for embeddings."""
        return "sentence_embedding" in self.output_names
