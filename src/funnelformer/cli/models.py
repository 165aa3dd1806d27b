"""Commands about a model itself: convert, export, info, push."""

from __future__ import annotations

from ..base.hub import check_reachable
from ..base.strict_json import json_text
from ..base.terminal import plain_console
from ..checkpoints.config import ConvertConfig
from ..cost.config import InfoConfig
from ..export.config import ExportConfig, PushConfig
from .app import app, show


@app.command(name="convert")
def _convert(settings: ConvertConfig) -> None:
    """Convert a checkpoint between our own form and others: BERT and its family, Funnel-Transformers, PoNet."""
    check_reachable(settings.source)
    from ..checkpoints.convert import convert

    report = convert(**vars(settings))
    show(
        f"{report.source} ({report.source_format}, {report.architecture}): {report.num_tensors} tensors used"
    )
    if report.layers is not None:
        show(
            f"{report.layout}: layers {', '.join(map(str, report.layers))} of the source's {report.num_layers} "
            "(counted from 0), in this order"
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
        show(f"{name}: {value:.1e} from {settings.verify}")
    show(f"tokenizer: {', '.join(report.tokenizer) or 'none found'}")
    show(f"the {report.target_format} model is in {report.target}")


@app.command(name="export")
def _export(settings: ExportConfig) -> None:
    """Export a model as an ONNX graph for batches of any size and length, checked against PyTorch."""
    check_reachable(settings.model)
    from ..export.command import export

    report = export(**vars(settings))
    size = report["int8"]["bytes"] if settings.int8 is not None else report["bytes"]
    show(f"{size / 2**20:,.1f} MiB; the graph for {report['task']} is in {settings.out}")


@app.command(name="info")
def _info(settings: InfoConfig) -> None:
    """Print a model's parameters, FLOPs and memory, part by part."""
    check_reachable(settings.model)
    from ..cost.info import describe, render

    info = describe(settings.model, settings.lengths)
    if settings.json:
        print(json_text(info.to_dict(), indent=2))
    else:
        plain_console().print(render(info))


@app.command(name="push")
def _push(settings: PushConfig) -> None:
    """Upload a model's folder to the Hugging Face Hub: its card, weights and tokenizer, without what training left."""
    from ..export.push import push

    report = push(**vars(settings))
    for name, size in report.files.items():
        show(f"{size:>14,} {name}")
    show(
        f"{sum(report.files.values()):>14,} bytes in {len(report.files)} files; {len(report.left)} files stay here"
    )
    if report.licence is None:
        show("the card names no licence: nobody may use the model before it does")
    show("dry run: nothing was uploaded" if report.url is None else f"uploaded: {report.url}")
