"""What `export` and `push` can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..base.bundled import located
from ..base.card_options import CardOptions
from ..base.errors import UserError
from ..base.hub import HUB_NAME
from ..base.options import Int8, OutFolder, OverwriteFolder, at_least, between, check_ranges, grouped
from ..tasks.window_options import WindowOptions

__all__ = ["DEFAULT_OPSET", "LEAST_OPSET", "NEWEST_OPSET", "ExportConfig", "PushConfig"]


# The least of the exporter; from 20 on GELU is one operator, not eight.
LEAST_OPSET, DEFAULT_OPSET, NEWEST_OPSET = 18, 20, 23


_OPSET = between(f"{LEAST_OPSET} to {NEWEST_OPSET}", lambda value: LEAST_OPSET <= value <= NEWEST_OPSET)


@grouped(
    most="model out task int8 calibration",
    run="check_to",
    output="format opset all_shapes overwrite",
)
@dataclass
class ExportConfig(CardOptions, WindowOptions):
    """What `export` can be told."""

    model: str
    "Folder of the model, or a name on the Hub."
    out: OutFolder
    _: KW_ONLY
    format: Literal["onnx"] = "onnx"
    "Form of the graph."
    task: str | None = None
    "What the graph gives: text-classification, token-classification, fill-mask, multiple-choice, question-answering, \
token-detection, feature-extraction, embeddings; by default what the model was made for."
    int8: Int8 | None = None
    "Store weights as int8: dynamic, or static with ranges from --calibration."
    calibration: str | None = None
    "File of texts, with or without labels: parts of the graph that lose too much on them stay in float32."
    opset: Annotated[int, _OPSET] = DEFAULT_OPSET
    "Version of ONNX's operators."
    check_to: Annotated[int, at_least(1)] = 1025
    "Longest input, in tokens, on which PyTorch and ONNX Runtime are compared."
    all_shapes: bool = False
    "Print the difference from PyTorch for every shape that was compared, not only the largest."
    overwrite: OverwriteFolder = False

    say: Annotated[Callable[[str], None], Parameter(parse=False)] = print
    "Is told the differences, and what became int8; an argument of the Python function alone."

    def __post_init__(self) -> None:
        CardOptions.__post_init__(self)
        WindowOptions.__post_init__(self)
        self.model = located(self.model)
        self.out = Path(self.out)
        check_ranges(self)
        if self.format != "onnx":
            raise UserError(f"--format {self.format!r} is unknown; allowed: onnx")
        if self.int8 == "static" and self.calibration is None:
            raise UserError("--int8 static takes its ranges from texts; name a file with --calibration")
        if self.calibration is not None and self.int8 is None:
            raise UserError("--calibration is only for --int8")


@grouped(most="model name private revision message", run="dry_run everything")
@dataclass
class PushConfig:
    """What `push` can be told."""

    model: Path
    "Folder of the model."
    name: str
    "Name on the Hub, as user/name."
    _: KW_ONLY
    private: bool = False
    "Make a new repository private."
    revision: str | None = None
    "Branch to upload to, made where there is none; by default main."
    message: str = "Upload a model with funnelformer"
    "Message of the commit."
    dry_run: bool = False
    "Show the files that would go, with their sizes, and upload nothing."
    everything: bool = False
    "Upload the whole folder, with checkpoints, the optimizer's state, logs and predictions."

    def __post_init__(self) -> None:
        self.model = Path(located(self.model))
        if HUB_NAME.fullmatch(self.name) is None:
            raise UserError(
                f"{self.name!r} is not a name on the Hub; allowed: user/name, as in someone/reviews"
            )
