"""Trace a model into an ONNX graph whose batch and length are the input's."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import UserError
from ..base.packages import need
from .config import DEFAULT_OPSET
from .signatures import INPUTS, Target, Traced

__all__ = ["LONGEST", "MODULE", "export_graph", "sample_inputs", "trace"]

LONGEST = 1 << 20
# Of a node's notes: the path of the module it is of, by which int8 groups the products.
MODULE = "module"
_SCOPES = "pkg.torch.onnx.name_scopes"
_MOST_SEQUENCES = 1 << 20
# Of protobuf: a larger model keeps its weights in a file beside it.
_MOST_BYTES = 2 * 10**9
# Of no meaning for the graph; long enough for every block to pool, so that no expression is a constant by chance.
_SAMPLE_SEQUENCES, _SAMPLE_CHOICES, _SAMPLE_LENGTH = 3, 5, 37
_NODE = re.compile(r"translating node %(\w+)")


def export_graph(
    model: nn.Module,
    target: Target,
    file: Path,
    *,
    inputs: Sequence[str] = INPUTS,
    opset: int = DEFAULT_OPSET,
) -> None:
    """Write the graph of a model in eval mode to `file` (its weights beside it from 2 GB on).

    inputs: names out of `INPUTS` and the target's own, int64 [batch, length], with choices [batch, choices, length].
    Positions are computed in the graph, from the input's length, so that there is no longest input; with absolute
    positions it is max_position_embeddings.
    Raises UserError naming the part of the model that has no ONNX form, or whose shape would be fixed.
    """
    need("onnx", "onnxscript")
    config: Any = model.config
    sample = sample_inputs(config, target, inputs)
    limit = LONGEST if config.position == "relative" else config.max_position_embeddings
    dims: list[Any] = [torch.export.Dim("batch", min=1, max=_MOST_SEQUENCES)]
    if target.has_choices:
        dims.append(torch.export.Dim("choices", min=1, max=_MOST_SEQUENCES))
    dims.append(torch.export.Dim("length", min=1, max=limit))
    shapes = {name: dict(enumerate(dims)) for name in inputs}
    traced = Traced(model, target).eval()
    try:
        with _default_attention(config):
            program = trace(traced, sample, shapes, target.outputs, opset)
    except Exception as error:  # whatever the tracer, the decompositions or the translation raise
        reason = _innermost(error)
        part = _part(error, traced, sample)
        raise UserError(f"cannot be exported: {part}: {reason}") from error
    for value in program.model.graph.inputs:
        fixed = [axis for axis, size in enumerate(value.shape) if isinstance(size, int)]
        if fixed:
            raise UserError(f"cannot be exported: {value.name} has a fixed size in dimension {fixed[0]}")
    _turn_weights(program.model.graph)
    _drop_origins(program.model)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    with _quiet():
        program.save(file, external_data=num_bytes > _MOST_BYTES)


def trace(
    module: nn.Module,
    sample: dict[str, Tensor],
    shapes: dict[str, dict[int, Any]],
    outputs: Sequence[str],
    opset: int = DEFAULT_OPSET,
) -> Any:
    """The `torch.onnx.ONNXProgram` of a module that gives these outputs; sample, shapes: by the names of its inputs."""
    from .attention import TRANSLATIONS  # needs onnxscript

    with _quiet(), torch.no_grad():
        return torch.onnx.export(
            module,
            (),
            kwargs=sample,
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=opset,
            input_names=list(sample),
            output_names=list(outputs),
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )


def sample_inputs(
    config: Any,
    target: Target,
    inputs: Sequence[str],
    num_sequences: int = _SAMPLE_SEQUENCES,
    length: int = _SAMPLE_LENGTH,
) -> dict[str, Tensor]:
    """Inputs to trace with: the values do not matter, and the sizes must not."""
    if config.position == "absolute":
        length = min(length, config.max_position_embeddings)
    shape = (num_sequences, _SAMPLE_CHOICES, length) if target.has_choices else (num_sequences, length)
    ids = torch.arange(length).expand(shape) % config.vocab_size
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, ..., length // 2 :] = 0
    values = {"input_ids": ids.contiguous(), "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    values["answer_mask"] = mask.clone()  # of one tensor the tracer makes one input
    return {name: values[name] for name in inputs}


def _turn_weights(graph: Any) -> None:
    """Turn weights around once and for all: the optimiser does so with small ones, and int8 finds no others."""
    import onnx_ir

    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is not None and weight.is_initializer():
            turned = weight.const_value.numpy().transpose(node.attributes["perm"].as_ints()).copy()
            constant = onnx_ir.Value(name=f"{weight.name}.turned", const_value=onnx_ir.tensor(turned))
            if constant.name not in graph.initializers:
                graph.register_initializer(constant)
            onnx_ir.convenience.replace_all_uses_with(node.outputs[0], graph.initializers[constant.name])
            graph.remove(node, safe=True)
            if not weight.uses():
                del graph.initializers[weight.name]


def _drop_origins(model: Any) -> None:
    """Leave out where in Python each part came from: addresses of functions and files, which differ in every run.

    A node keeps the path of its module. Two exports of one model are then equal, byte for byte.
    """
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.metadata_props.clear()
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            module = _module(node)
            node.metadata_props.clear()
            if module:
                node.metadata_props[MODULE] = module
            values += node.outputs
        for value in values:
            value.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        for node in function.all_nodes():
            node.metadata_props.clear()


def _module(node: Any) -> str:
    """The path of the module that a node is of, as the exporter noted it; "" where it noted none."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    paths = [path for path in scopes if "." in path]
    return max(paths, key=len) if paths else ""


@contextlib.contextmanager
def _default_attention(config: Any) -> Iterator[None]:
    """Whatever implementation the model runs with: that of `mixers.attention.operator` is traced."""
    before = config._attn_implementation
    config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress and advice, which is for its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _innermost(error: BaseException) -> str:
    """The first line of the error that all others came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _part(error: BaseException, traced: Traced, sample: dict[str, Tensor]) -> str:
    """The module that was traced, or whose operation was translated, when it failed."""
    names = {module: name for name, module in traced.named_modules()}
    found = ""
    current: BaseException | None = error
    while current is not None:
        frame = current.__traceback__
        while frame is not None:
            owner = frame.tb_frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and len(names.get(owner, "")) > len(found):
                found = names[owner]
            frame = frame.tb_next
        current = current.__cause__ or current.__context__
    match = _NODE.search(str(error))
    if not found and match is not None:
        with _quiet(), torch.no_grad(), contextlib.suppress(Exception):
            # Of the sample's sizes, as only names are wanted. What is translated are the operations that others are
            # made of, under names of their own.
            program: Any = torch.export.export(traced, (), sample, strict=False)
            for node in (*program.graph.nodes, *program.run_decompositions().graph.nodes):
                if node.name == match[1]:
                    stack = node.meta.get("nn_module_stack") or {}
                    paths = [path for path, _ in stack.values()]
                    found = paths[-1] if paths else ""
    return found.removeprefix("model.") or type(traced.model).__name__
