"""Commands about a model itself: convert, export, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..checkpoints import convert
from ..export.command import export
from ..export.int8 import Mode
from ..info import describe, render
from ..strict_json import json_text
from ..terminal import plain_console
from ..training.run import parse_options
from .app import app, show


@app.command(name="convert")
def _convert(
    source: str,
    target: Path,
    *,
    to: Literal["funnelformer", "transformers", "original-torch", "original-tf"] = "funnelformer",
    set: dict[str, str] | None = None,
    verify: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Convert a checkpoint: transformers' Funnel, the original PyTorch and TensorFlow releases, PoNet, our own.

    Parameters
    ----------
    source
        Folder of the model, a release's .tar.gz or its https:// URL, or a name on the Hub; its form is detected.
    target
        Folder to write.
    to
        Form to write.
    set
        Config keys to change on the way, as --set.padding=exact.
    verify
        Compare with the source's own outputs: "transformers" runs that library, a .npz has recorded cases.
    dry_run
        Check everything, print the table of the tensors and what would be left out, and write nothing.
    overwrite
        Replace the files of a folder that is not empty.
    """
    report = convert(
        source,
        target,
        to=to,
        overwrite=overwrite,
        dry_run=dry_run,
        overrides=parse_options(set or {}),
        verify=verify,
    )
    show(
        f"{report.source} ({report.source_format}, {report.architecture}): {report.num_tensors} tensors used"
    )
    for name, reason in report.ignored.items():
        show(f"left out: {name} ({reason})")
    if report.difference is None:
        for row in report.table:
            show(f"{row.source} -> {row.target or row.ours} {list(row.shape)}")
        show("dry run: nothing was written")
        return
    show(f"largest difference of the outputs on a probe batch: {report.difference:.1e}")
    for name, value in report.verified.items():
        show(f"{name}: {value:.1e} from {verify}")
    show(f"tokenizer: {', '.join(report.tokenizer) or 'none found'}")
    show(f"the {report.target_format} model is in {report.target}")


@app.command(name="export")
def _export(
    model: str,
    out: Path,
    *,
    format: Literal["onnx"] = "onnx",
    task: str | None = None,
    int8: Mode | None = None,
    calibration: str | None = None,
    opset: int = 20,
    check_to: int = 1025,
    overwrite: bool = False,
) -> None:
    """Export a model as an ONNX graph for batches of any size and length, checked against PyTorch.

    Parameters
    ----------
    model
        Folder of the model, or a name on the Hub.
    out
        Folder to write.
    format
        Form of the graph.
    task
        What the graph gives: text-classification, token-classification, fill-mask, multiple-choice,
        question-answering, token-detection, feature-extraction, embeddings; by default what the model was made for.
    int8
        Weights as int8: dynamic, or static with ranges from --calibration.
    calibration
        File of texts, with labels or without: what costs too much on them stays in float32.
    opset
        Version of ONNX's operators.
    check_to
        Longest input, in tokens, on which PyTorch and ONNX Runtime are compared.
    overwrite
        Replace the files of a folder that is not empty.
    """
    report = export(
        model,
        out,
        format=format,
        task=task,
        int8=int8,
        calibration=calibration,
        opset=opset,
        check_to=check_to,
        overwrite=overwrite,
    )
    size = report["int8"]["bytes"] if int8 is not None else report["bytes"]
    show(f"{size / 2**20:,.1f} MiB; the graph for {report['task']} is in {out}")


@app.command(name="info")
def _info(
    model: str,
    *,
    lengths: Annotated[list[int], Parameter(consume_multiple=True)] | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Print a model's parameters, operations a token and memory, by part.

    Parameters
    ----------
    model
        Layout or preset (B4-4-4H768, L12H768, funnel-small), or a model's folder.
    lengths
        Tokens of the sequences to count for; by default 128, 512 and 2048.
    json_output
        Print JSON.
    """
    info = describe(model, lengths) if lengths else describe(model)
    if json_output:
        print(json_text(info.to_dict(), indent=2))
    else:
        plain_console().print(render(info))
