"""The engines that run an exported graph, ONNX Runtime and OpenVINO, behind one form of session. No PyTorch here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..base.errors import UserError, one_line
from ..base.json_toml import read_json
from ..base.options import num_usable_cores
from ..base.packages import need

__all__ = [
    "EXPORT_REPORT",
    "MODEL_FILE",
    "Engine",
    "Session",
    "best_engine",
    "can_serve",
    "import_onnxruntime",
    "open_session",
]

Engine = Literal["onnx", "openvino"]
MODEL_FILE = "model.onnx"
# The package of each engine, the faster one first; an engine's name is that of the extra that installs it.
_PACKAGES: dict[Engine, str] = {"openvino": "openvino", "onnx": "onnxruntime"}
# What `export` notes of a graph, beside it.
EXPORT_REPORT = "export.json"
# Of the inputs that share a scale when OpenVINO multiplies them with int8 weights; the fastest of 32, 64 and 128.
_INT8_GROUP = 128


class Session(Protocol):
    """A graph that is ready to run; its calls come from one thread."""

    input_names: list[str]
    output_names: list[str]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by their names, in the graph's order; the arrays are the caller's."""


def open_session(file: Path, engine: Engine = "onnx", num_threads: int | None = None) -> Session:
    """Load a graph for the CPU; a float32 graph computes in float32.

    num_threads: by default as many as torch has where it is loaded, else OMP_NUM_THREADS or one a core.
    Raises UserError for a file that the engine cannot read, or when its package is not installed.
    """
    number = num_threads or _default_threads()
    return OpenVinoSession(file, number) if engine == "openvino" else OnnxRuntimeSession(file, number)


def can_serve(engine: Engine, pooling: str | None) -> bool:
    """Whether an engine computes what PyTorch does: in top pooling OpenVINO keeps other tokens."""
    return engine != "openvino" or pooling != "top"


def best_engine(folder: str | Path) -> Engine:
    """The engine for an export: the fastest, as measured (benchmarks/engines.py), that is installed and can serve it.

    In float32 that is OpenVINO, at all lengths and widths. In int8 they are equally fast, and ONNX Runtime is the one
    in which `export` measured the graph's scores.
    Raises UserError when none is installed that can serve it.
    """
    pooling = _pooling(Path(folder))
    able = [engine for engine in _PACKAGES if can_serve(engine, pooling)]
    installed = [engine for engine in able if find_spec(_PACKAGES[engine]) is not None]
    if not installed:
        ways = " or ".join(f"'funnelformer[{engine}]'" for engine in able)
        raise UserError(f"{folder}: to run this export, pip install {ways}")
    return "onnx" if "onnx" in installed and _is_int8(Path(folder)) else installed[0]


def import_onnxruntime() -> Any:
    """The module, with its telemetry off: it would note a device in the user's home, and send what was run.

    Raises UserError when it is not installed.
    """
    need("onnxruntime")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the module is loaded
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


class OnnxRuntimeSession:
    """A graph in ONNX Runtime."""

    def __init__(self, file: Path, num_threads: int) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # which plans for one shape, and every batch has another
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no base class of their own
            raise UserError(f"{file}: ONNX Runtime cannot load it ({one_line(error)})") from error
        self.input_names = [value.name for value in self.session.get_inputs()]
        self.output_names = [value.name for value in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.output_names, self.session.run(None, dict(inputs)), strict=True))


def _import_openvino() -> Any:
    """OpenVINO, which at its import would report to its maker, and note in the user's home under which number.

    It does neither where its package for that is missing; here it finds it missing.
    """
    need("openvino", extra="openvino")
    is_ours = sys.modules.setdefault("openvino_telemetry", None) is None  # type: ignore[arg-type]
    try:
        import openvino
    finally:
        if is_ours:
            del sys.modules["openvino_telemetry"]
    return openvino


class OpenVinoSession:
    """A graph in OpenVINO, which reads ONNX by itself."""

    def __init__(self, file: Path, num_threads: int) -> None:
        openvino = _import_openvino()
        core = openvino.Core()
        core.add_extension(_int8_extensions())
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # where the CPU has bfloat16, that is the default
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INT8_GROUP,
        }
        try:
            compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
            self._request = compiled.create_infer_request()
        except Exception as error:  # RuntimeError, and whatever a translation raises
            raise UserError(f"{file}: OpenVINO cannot load it ({one_line(error)})") from error
        self.input_names = [port.get_any_name() for port in compiled.inputs]
        self.output_names = [port.get_any_name() for port in compiled.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        values = self._request.infer(given, share_inputs=True, share_outputs=False).values()
        return dict(zip(self.output_names, values, strict=True))


def _int8_extensions() -> list[Any]:
    """Products of int8 weights as OpenVINO runs them fast.

    `export --int8 dynamic` writes DynamicQuantizeLinear and MatMulInteger, which OpenVINO would compute in float32, in
    steps. Instead, each input passes as it is, and the weights are said to be compressed: then OpenVINO quantises the
    inputs itself, a scale for every `_INT8_GROUP` numbers of a row, within the product. Where the CPU has no VNNI
    instructions it takes the weights back to float32 within the product.
    """
    from openvino import opset13 as op
    from openvino.frontend.onnx import ConversionExtension

    def quantise(node: Any) -> list[Any]:
        scale, zero = op.constant(np.float32(1)), op.constant(np.uint8(0))
        same = op.convert(node.get_input(0), "f32")  # itself it would take the output's name
        return [same.output(0), scale.output(0), zero.output(0)]

    def multiply(node: Any) -> list[Any]:
        stored = node.get_input(1).get_node().data
        weight = op.convert(op.constant(stored), "f32")
        zero = node.get_input(3).get_node().data if node.get_input_size() > 3 else np.zeros(1, stored.dtype)
        if zero.any():
            weight = op.subtract(weight, op.convert(op.constant(zero.reshape(1, -1)), "f32"))
        # The graph itself multiplies by the scales of the columns, after the product.
        weight = op.multiply(weight, op.constant(np.ones((1, stored.shape[1]), np.float32)))
        return [op.matmul(node.get_input(0), weight, False, False).output(0)]

    return [
        ConversionExtension("DynamicQuantizeLinear", quantise),
        ConversionExtension("MatMulInteger", multiply),
    ]


def _is_int8(folder: Path) -> bool:
    file = folder / EXPORT_REPORT
    return file.is_file() and bool(read_json(file).get("int8"))


def _pooling(folder: Path) -> str | None:
    file = folder / "config.json"
    return read_json(file).get("pooling") if file.is_file() else None


def _default_threads() -> int:
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else num_usable_cores()
