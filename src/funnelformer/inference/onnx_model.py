"""An exported model, called with arrays as the model it was exported from is with tensors. No PyTorch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..base.errors import UserError
from ..base.files import check_readable
from ..base.foreign_code import refuse_foreign_code
from ..base.options import Backend
from ..base.weight_files import TRANSFORMERS_WEIGHTS
from ..config.head_table import head_of
from .engines import MODEL_FILE, Engine, best_engine, can_serve, open_session
from .export_config import ExportConfig, read_export_config

__all__ = ["OnnxModel", "choose_backend", "is_export", "pooled"]


def is_export(folder: str | Path) -> bool:
    """Whether a folder has a graph and no weights for PyTorch."""
    folder = Path(folder)
    return (folder / MODEL_FILE).is_file() and not any(
        (folder / name).is_file() for name in TRANSFORMERS_WEIGHTS
    )


def choose_backend(source: str | Path, backend: Backend) -> Literal["torch"] | Engine:
    """What runs a model: what you asked for. "auto" takes PyTorch, or the faster engine for an export without weights.

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
    """The outputs of a graph; each is an attribute too, as in transformers."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the graph gives no {name}") from None


@dataclass(frozen=True)
class _Device:
    """As of PyTorch's models: what computes."""

    type: str


class OnnxModel:
    """The graph of a folder that `funnelformer export` wrote; no weights of PyTorch are built.

    config: the model's. head: that of the class it was exported from.
    """

    device = _Device("cpu")

    def __init__(self, folder: str | Path, file: Path | None = None, engine: Engine = "onnx") -> None:
        """file: the graph, by default the folder's own. Raises UserError when there is none, or it cannot be read."""
        folder = Path(folder)
        file = file or folder / MODEL_FILE
        if not file.is_file():
            raise UserError(f"{folder}: no {MODEL_FILE}; make one with funnelformer export")
        refuse_foreign_code(folder)
        check_readable(folder)
        self.config = read_export_config(folder)
        architecture = (self.config.architectures or ["FunnelformerModel"])[0]
        head = head_of(architecture)
        if head is None or head.class_name != architecture:
            raise UserError(
                f"{folder / 'config.json'}: architectures is {architecture!r}, which is not one of ours"
            )
        if not can_serve(engine, self.config.pooling):
            raise UserError(f"{folder}: OpenVINO keeps other tokens in top pooling; use --backend onnx")
        self.head = head
        self.session = open_session(file, engine)
        self.input_names, self.output_names = self.session.input_names, self.session.output_names

    def __call__(self, answer_mask: np.ndarray | None = None, **batch: np.ndarray | None) -> Outputs:
        """Run a batch; returns the outputs by name. Without `attention_mask` all tokens are real.

        answer_mask: where an answer may begin and end, see `FunnelformerForQuestionAnswering`; by default anywhere.
        Raises ValueError for an input that the graph has and the batch lacks, or the other way around.
        """
        given = {name: array for name, array in batch.items() if array is not None}
        if "attention_mask" in self.input_names and "attention_mask" not in given:
            given["attention_mask"] = np.ones_like(given["input_ids"])
        is_inside = "answer_mask" in self.input_names
        if is_inside:
            mask = given["attention_mask"] if answer_mask is None else answer_mask
            given["answer_mask"] = mask.astype(np.int64)
        if given.keys() != set(self.input_names):
            raise ValueError(f"the graph reads {', '.join(self.input_names)}, not {', '.join(given)}")
        outputs: dict[str, Any] = self.session.run(given)
        if not is_inside and answer_mask is not None:
            for name in ("start_logits", "end_logits"):
                if name in outputs:  # as `modeling.span_head.hide`
                    lowest = np.finfo(outputs[name].dtype).min
                    outputs[name] = np.where(answer_mask.astype(bool), outputs[name], lowest)
        return Outputs(outputs)

    def sequence_vectors(self, **batch: np.ndarray | None) -> np.ndarray:
        """Vectors [B, D], as of `FunnelformerModel.sequence_vectors`, of an export for embeddings."""
        return pooled(self(**batch), self.config)

    @property
    def gives_counts(self) -> bool:
        """Whether it says how many tokens each state holds."""
        return "encoder_token_counts" in self.output_names

    @property
    def gives_vectors(self) -> bool:
        """Whether it was exported for embeddings."""
        return "sentence_embedding" in self.output_names


def pooled(outputs: Outputs, config: ExportConfig, pooling: str | None = None) -> np.ndarray:
    """Vectors [B, D] of the states [B, S, D] of an export for embeddings, see `modeling.model.sequence_vector`.

    pooling: by default the config's.
    """
    pooling = pooling or config.classifier_pooling
    states, mask = outputs.last_hidden_state, outputs.encoder_attention_mask
    if pooling == "cls":
        if config.num_blocks > 1 or config.padding != "exact":
            return np.asarray(states[:, 0])
        return np.asarray(states[np.arange(len(states)), mask.astype(bool).argmax(1)])
    counts = outputs.encoder_token_counts if pooling == "mean_tokens" else mask
    weight = counts.astype(states.dtype)[..., None]
    return np.asarray((states * weight).sum(1) / np.maximum(weight.sum(1), 1))
