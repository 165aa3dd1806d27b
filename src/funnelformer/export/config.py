"""What `export` can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..base.options import Int8, at_least, between, check_ranges, grouped

__all__ = ["DEFAULT_OPSET", "LEAST_OPSET", "NEWEST_OPSET", "ExportConfig"]


# The least of the exporter; from 20 on GELU is one operator, not eight.
LEAST_OPSET, DEFAULT_OPSET, NEWEST_OPSET = 18, 20, 23


_OPSET = between(f"{LEAST_OPSET} to {NEWEST_OPSET}", lambda value: LEAST_OPSET <= value <= NEWEST_OPSET)


@grouped(
    most="model out task int8 calibration",
    run="check_to",
    output="format opset all_shapes overwrite",
)
@dataclass
class ExportConfig:
    """What `export` can be told."""

    model: str
    "Folder of the model, or a name on the Hub."
    out: Path
    "Folder to write."
    _: KW_ONLY
    format: Literal["onnx"] = "onnx"
    "Form of the graph."
    task: str | None = None
    "What the graph gives: text-classification, token-classification, fill-mask, multiple-choice, question-answering, \
token-detection, feature-extraction, embeddings; by default what the model was made for."
    int8: Int8 | None = None
    "Weights as int8: dynamic, or static with ranges from --calibration."
    calibration: str | None = None
    "File of texts, with labels or without: what costs too much on them stays in float32."
    opset: Annotated[int, _OPSET] = DEFAULT_OPSET
    "Version of ONNX's operators."
    check_to: Annotated[int, at_least(1)] = 1025
    "Longest input, in tokens, on which PyTorch and ONNX Runtime are compared."
    all_shapes: bool = False
    "Print the difference from PyTorch for every shape that was compared, and not the largest alone."
    overwrite: bool = False
    "Replace the files of a folder that is not empty."

    def __post_init__(self) -> None:
        check_ranges(self)
