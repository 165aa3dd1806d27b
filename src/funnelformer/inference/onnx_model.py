"""An exported model in ONNX Runtime, called as the model it was exported from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError, one_line
from ..base.files import check_readable
from ..base.foreign_code import refuse_foreign_code
from ..base.json_toml import read_json
from ..base.packages import need
from ..checkpoints.foreign_options import make_config
from ..checkpoints.weights import TRANSFORMERS_WEIGHTS
from ..modeling import head_of
from ..modeling.model import sequence_vector
from ..modeling.span_head import hide

__all__ = ["MODEL_FILE", "OnnxModel", "import_onnxruntime", "is_export", "open_session"]

MODEL_FILE = "model.onnx"


def is_export(folder: str | Path) -> bool:
    """Whether a folder has a graph and no weights for PyTorch."""
    folder = Path(folder)
    return (folder / MODEL_FILE).is_file() and not any(
        (folder / name).is_file() for name in TRANSFORMERS_WEIGHTS
    )


def import_onnxruntime() -> Any:
    """The module, with its telemetry off: it would note a device in the user's home, and send what was run.

    Raises UserError when it is not installed.
    """
    need("onnxruntime")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the module is loaded
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def open_session(file: Path) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as torch has.

    Raises UserError for a file that it cannot read.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # which plans for one shape, and every batch has another
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base class of their own
        raise UserError(f"{file}: ONNX Runtime cannot load it ({one_line(error)})") from error


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

    def __init__(self, folder: str | Path, file: Path | None = None) -> None:
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
                f"{folder / 'config.json'}: architectures is {architecture!r}, which is none of ours"
            )
        self.model_class: Any = head.model_class
        self.session = open_session(file)
        self.input_names = [value.name for value in self.session.get_inputs()]
        self.output_names = [value.name for value in self.session.get_outputs()]

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
        values = map(torch.from_numpy, self.session.run(None, given))
        outputs: dict[str, Any] = dict(zip(self.output_names, values, strict=True))
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
