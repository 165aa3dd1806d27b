"""What a model costs before it is run: its parameters, FLOPs a token and memory, from a name or a folder."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..base.errors import UserError, joined
from ..base.terminal import cell
from ..checkpoints.folders import find_foreign, load_foreign
from ..checkpoints.model_source import Folder, Layout, find_model
from ..checkpoints.weights import check_weights
from ..config.model_config import FunnelformerConfig, parse_name
from ..modeling import FunnelformerModel
from .config import LENGTHS
from .flops import Flops, flops_ratio, forward_flops
from .memory import DTYPES, MemoryEstimate, ParameterCounts, count_parameters, estimate_memory, meta_model

__all__ = ["Info", "LengthInfo", "describe", "equal_transformer", "render"]

_SHAPE_KEYS = (
    "blocks",
    "repeats",
    "mixer",
    "hidden_size",
    "embedding_size",
    "num_attention_heads",
    "head_size",
    "intermediate_size",
    "decoder_layers",
    "decoder_repeats",
    "vocab_size",
    "position",
    "pooling",
    "pool_q_only",
    "separate_cls",
    "truncate_seq",
    "padding",
)


@dataclass(frozen=True)
class LengthInfo:
    """Costs of one sequence of `flops.length` tokens.

    encoder_ratio, ratio: FLOPs over the baseline's, without and with the decoder (equal where there is none).
    memory: in float32, for one sequence, of the body without a head; None if you did not ask for it.
    """

    flops: Flops
    encoder_ratio: float
    ratio: float
    memory: MemoryEstimate | None


@dataclass(frozen=True)
class Info:
    """What `describe` finds out.

    source: the name or folder you gave. name: the layout in the paper's notation.
    baseline: the Transformer that FLOPs are compared with, see `equal_transformer`.
    shape: the config keys that decide about cost. parameters: of the body, without a head.
    notes: the form a model was read from, and what was left out, and why.
    """

    source: str
    name: str
    baseline: str
    shape: dict[str, Any]
    parameters: ParameterCounts
    lengths: tuple[LengthInfo, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings for JSON."""
        return {
            "source": self.source,
            "name": self.name,
            "baseline": self.baseline,
            "shape": copy.deepcopy(self.shape),
            "parameters": self.parameters.to_dict(),
            "lengths": [
                {
                    "flops": entry.flops.to_dict(),
                    "encoder_ratio": entry.encoder_ratio,
                    "ratio": entry.ratio,
                    "memory": None if entry.memory is None else entry.memory.to_dict(),
                }
                for entry in self.lengths
            ],
            "notes": list(self.notes),
        }


def describe(
    source: str | os.PathLike[str], lengths: Sequence[int] = LENGTHS, *, memory: bool = True
) -> Info:
    """Describe a layout ("B4-4-4H768"), a preset ("funnel-small"), a model's folder ("./bert") or a name on the Hub.

    If a folder has the name of a layout, the folder is described.
    lengths: numbers of tokens in one sequence. Lengths beyond the model's absolute positions are left out, with a note.
    memory: estimate memory as well, which takes a second or more for each length.
    Raises UserError if the source is none of these, and for a length below 1.
    """
    for length in lengths:
        if length < 1:
            raise UserError(f"--lengths is {length}; allowed: whole numbers, 1 or more")
    config, notes = _config_of(source)
    baseline = equal_transformer(config)
    limit = config.max_position_embeddings if config.position == "absolute" else None
    reached = [length for length in lengths if limit is None or length <= limit]
    notes += [
        f"{length} tokens left out: max_position_embeddings is {limit}"
        for length in lengths
        if length not in reached
    ]
    model = meta_model(config) if memory else None
    return Info(
        source=os.fspath(source),
        name=config.name,
        baseline=baseline.name,
        shape={key: copy.deepcopy(getattr(config, key)) for key in _SHAPE_KEYS},
        parameters=count_parameters(config),
        lengths=tuple(
            LengthInfo(
                flops=forward_flops(config, length),
                encoder_ratio=flops_ratio(config, baseline, length),
                ratio=flops_ratio(config, baseline, length, decoder=True),
                memory=None if model is None else estimate_memory(model, length),
            )
            for length in reached
        ),
        notes=tuple(notes),
    )


def equal_transformer(config: FunnelformerConfig) -> FunnelformerConfig:
    """The attention Transformer L...H... of equal width and as many parameter layers, without repeats and decoder."""
    values = {
        **config.to_dict(),
        "blocks": [config.num_hidden_layers],
        "repeats": [1],
        "mixer": "attention",
        "decoder_layers": 0,
        "decoder_skip_state": None,
    }
    return FunnelformerConfig.from_dict(values)


def render(info: Info) -> RenderableType:
    """Lay `info` out for a terminal: layout, parameters, FLOPs a token by part, memory."""
    parts: list[RenderableType] = [_headline(info), _parameter_table(info)]
    if info.lengths:
        parts.append(_flops_table(info))
    if any(entry.memory for entry in info.lengths):
        parts.append(_memory_table(info))
    return Group(*parts, *(cell(note) for note in info.notes))


def _config_of(source: str | os.PathLike[str]) -> tuple[FunnelformerConfig, list[str]]:
    """The config, and notes about where it comes from."""
    found = find_model(source)
    if isinstance(found, Layout):
        return FunnelformerConfig(**parse_name(found.name)), []
    return _config_in(found.path if isinstance(found, Folder) else found.name)


def _config_in(source: str | Path) -> tuple[FunnelformerConfig, list[str]]:
    foreign = find_foreign(source)
    if foreign is not None:
        loaded = load_foreign(foreign)
        return loaded.config, [f"read from a model of the form {loaded.source} ({loaded.architecture})"]
    check_weights(source)
    try:
        return FunnelformerModel.config_class.from_pretrained(source, trust_remote_code=False), []
    except UserError:
        raise
    except Exception as error:  # transformers' and the strict dataclass's errors have no common base class
        raise UserError(f"{Path(source) / 'config.json'}: {joined(error)}") from error


def _headline(info: Info) -> Text:
    shape = info.shape
    text = f"{info.name}: {shape['num_attention_heads']} heads of {shape['head_size']}, feed-forward "
    text += f"{shape['intermediate_size']}, vocabulary {shape['vocab_size']}"
    if shape["decoder_layers"]:
        times = f" x {shape['decoder_repeats']}" if shape["decoder_repeats"] > 1 else ""
        text += f", decoder of {shape['decoder_layers']}{times} layers"
    return cell(text + f"; {shape['position']} positions, {shape['pooling']} pooling")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("part")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _parameter_table(info: Info) -> Table:
    counts = info.parameters
    table = _table("Parameters, without a head", ["millions", *(f"{name}, MiB" for name in DTYPES)])
    rows = [("embeddings", counts.embeddings)]
    rows += [(f"block {index + 1}", count) for index, count in enumerate(counts.blocks)]
    rows += [("decoder", counts.decoder)] if counts.decoder else []
    for part, count in [*rows, ("total", counts.total)]:
        if part == "total":
            table.add_section()
        sizes = (f"{count * dtype.itemsize / 2**20:,.1f}" for dtype in DTYPES.values())
        table.add_row(part, f"{count / 1e6:,.2f}", *sizes)
    return table


def _flops_table(info: Info) -> Table:
    table = _table("Forward MFLOPs a token, by length", [f"{entry.flops.length:,}" for entry in info.lengths])
    stages = [" > ".join(map(str, entry.flops.stage_lengths)) for entry in info.lengths]
    table.add_row("tokens in the blocks", *stages)
    table.add_section()
    by_part = [{row.part: row.per_token for row in entry.flops.rows()} for entry in info.lengths]
    for part in dict.fromkeys(part for column in by_part for part in column):
        table.add_row(part, *(_mega(column.get(part, 0.0)) for column in by_part))
    table.add_row("total", *(_mega(entry.flops.per_token) for entry in info.lengths), style="bold")
    table.add_section()
    for product, label in _PRODUCTS.items():
        values = [getattr(entry.flops.layers, product) / entry.flops.length for entry in info.lengths]
        if any(values):
            table.add_row(f"of it: {label}", *map(_mega, values))
    table.add_section()
    has_decoder = bool(info.shape["decoder_layers"])
    label = f"FLOPs / {info.baseline}'s"
    encoder_label = f"{label}, encoder alone" if has_decoder else label
    table.add_row(encoder_label, *(f"{entry.encoder_ratio:.3f}" for entry in info.lengths))
    if has_decoder:
        table.add_row(f"{label}, with decoder", *(f"{entry.ratio:.3f}" for entry in info.lengths))
    return table


# `position_table` is shared by the sequences of a batch; here the batch is one sequence.
_PRODUCTS = {
    "projections": "query, key, value, output",
    "position_table": "positions, table (once a batch)",
    "position_scores": "positions, scores",
    "content_scores": "content scores",
    "segment_scores": "segment scores",
    "values": "weights times values",
    "feed_forward": "feed-forward",
}


def _memory_table(info: Info) -> Table:
    entries = [entry.memory for entry in info.lengths if entry.memory is not None]
    title = "Memory in MiB, float32, one sequence (dry run; kernels' scratch memory not included)"
    table = _table(title, [f"{entry.length:,}" for entry in entries])
    for label, key in (
        ("weights", "parameter_bytes"),
        ("inference: peak activations", "inference_activation_bytes"),
        ("inference: sum", "inference_bytes"),
        ("training: peak activations", "training_activation_bytes"),
        ("training: gradients, AdamW", "training_state_bytes"),
        ("training: sum", "training_bytes"),
    ):
        table.add_row(label, *(f"{getattr(entry, key) / 2**20:,.1f}" for entry in entries))
    return table


def _mega(flops: float) -> str:
    return f"{flops / 1e6:,.2f}"
