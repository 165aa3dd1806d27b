"""int8 forms of a graph: dynamic, or static from calibration data; what stays in float is measured.

The weights of matrix products become int8, one scale a column, and the embeddings with one scale where that was
measured to be harmless; positions, norms, softmax and heads of whole sequences stay as they are. Weights have 7 bits:
with 8, the products of CPUs without VNNI instructions overflow their 16-bit sums.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.options import Int8
from ..inference.engines import import_onnxruntime, open_session
from .graph import MODULE

__all__ = [
    "EMBEDDINGS",
    "Choice",
    "Quantised",
    "groups_of",
    "products_of",
    "quantise",
    "quantise_measured",
]

Batch = Mapping[str, np.ndarray]
EMBEDDINGS = "embeddings"  # the group whose int8 form is smaller but not faster
_MOST_BYTES = 2 * 10**9
_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")


@dataclass(frozen=True)
class Choice:
    """One group of products. error: of the outputs, with this group alone in int8: the mean absolute difference over
    the outputs' standard deviation. is_int8: whether it was quantised in the end."""

    group: str
    num_nodes: int
    error: float
    is_int8: bool


@dataclass(frozen=True)
class Quantised:
    """error: as in `Choice`, of all that were chosen. judged: what `judge` said of each attempt; the last one stays."""

    choices: list[Choice]
    error: float
    judged: list[float]


def groups_of(file: Path) -> dict[str, list[str]]:
    """The nodes that can be quantised, by the part of the model they are of."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    groups: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            groups.setdefault(_group(_module(node)), []).append(node.name)
        elif node.op_type == "Gather" and node.input[0] in weights:
            groups.setdefault(EMBEDDINGS, []).append(node.name)
    return groups


def products_of(file: Path) -> list[str]:
    """The nodes that are quantised where nothing is measured: all but the embeddings."""
    return [node for name, nodes in groups_of(file).items() if name != EMBEDDINGS for node in nodes]


def _module(node: Any) -> str:
    """The path of the module whose product a node is, which `export_graph` left in the graph."""
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE), "")


def _group(path: str) -> str:
    block = _BLOCK.search(path)
    stage = f"block {int(block[1]) + 1}" if block else "decoder" if "decoder.layers." in path else ""
    if not stage:
        return "projection" if "embeddings" in path else "head"
    return f"{stage}: feed-forward" if ".feed_forward" in path else f"{stage}: mixer"


def quantise(
    file: Path, target: Path, mode: Int8, nodes: Sequence[str], batches: Sequence[Batch] = ()
) -> None:
    """Write the graph with these nodes in int8. batches: inputs from which the static mode takes its ranges."""
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(file)
    del model.graph.value_info[
        :
    ]  # the quantiser turns weights of Gemm around, and stumbles over their old shapes
    add_pre_process_metadata(model)  # else it advises a step that the exporter has done
    options: dict[str, Any] = {
        "op_types_to_quantize": ["MatMul", "Gather"],
        "per_channel": True,
        "reduce_range": True,
        "weight_type": QuantType.QInt8,
        "nodes_to_quantize": list(nodes),
        "use_external_data_format": file.stat().st_size > _MOST_BYTES,
        "extra_options": {"MatMulConstBOnly": True},
    }
    if mode == "dynamic":
        quantize_dynamic(model, target, **options)
    else:
        quantize_static(
            model,
            target,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            **options,
        )


class _Reader:
    """Hands out batches one by one, as the calibrator asks for them."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._left = iter(batches)

    def get_next(self) -> Batch | None:
        return next(self._left, None)


def quantise_measured(
    file: Path,
    target: Path,
    mode: Int8,
    batches: Sequence[Batch],
    judge: Callable[[Path], float],
    least: float,
) -> Quantised:
    """Quantise every group; while `judge` gives less than `least`, put one more back, the most sensitive first.

    judge: scores the graph in a file, by its accuracy, or the share of answers that stay the same.
    batches: inputs that each group's sensitivity is measured on, and that static ranges are taken from.
    """
    groups = groups_of(file)
    expected = _outputs(file, batches)
    errors = {}
    for name, nodes in groups.items():
        quantise(file, target, mode, nodes, batches)
        errors[name] = _error(expected, _outputs(target, batches))
    chosen = sorted(groups, key=lambda name: errors[name])
    judged: list[float] = []
    while True:
        quantise(file, target, mode, [node for name in chosen for node in groups[name]], batches)
        judged.append(judge(target))
        if judged[-1] >= least or len(chosen) <= 1:
            break
        chosen.pop()
    error = _error(expected, _outputs(target, batches))
    choices = [Choice(name, len(groups[name]), errors[name], name in chosen) for name in groups]
    return Quantised(choices, error, judged)


def _outputs(file: Path, batches: Sequence[Batch]) -> list[np.ndarray]:
    session = open_session(file)
    return [next(iter(session.run(batch).values())) for batch in batches]


def _error(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    deviation = np.concatenate([value.ravel() for value in expected]).std()
    differences = [np.abs(a - b).ravel() for a, b in zip(expected, found, strict=True)]
    return float(np.concatenate(differences).mean() / deviation)
