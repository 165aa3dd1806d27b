"""The authors' TensorFlow checkpoints: the core alone, or the whole state of ELECTRA pretraining.

Source: the checkpoints released with Dai et al. 2020. Kernels are stored input-first; layers are numbered through
the blocks and on through the decoder. The discriminator (or a masked language model) is under `model/`, the
generator under `generator/`. The generator has neither embedding table nor embedding LayerNorm: those of `model/`
serve both. Every trained variable has two slots, Adam's moments; `global_step` counts the updates done.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.json_toml import read_json
from ..base.strict_json import json_text
from ..config.model_config import FunnelformerConfig
from .foreign_options import check_holds, funnel_options, make_config
from .form_table import add_form
from .key_map import LAYER, Row, encoder_layers, expand, from_ours, layer_row, names, to_ours
from .loaded import SEQUENCE_HEADS, Exported, Loaded, Part, Pretraining
from .net_config import config_values, tensorflow_net_config
from .tensor_bundle import find_index, read_bundle, write_bundle
from .weights import check_finite

__all__ = ["CONFIG", "INDEX", "MOMENTS", "Electra", "export", "import_variables", "load", "save"]

CONFIG = "net_config.json"
INDEX = "model.ckpt.index"
_TARGET = "the original TensorFlow form"
_LAYER_NORM_EPS = 1e-8
_PAD_TOKEN_ID = 0
_CLS_SEGMENT = 2
# our moment -> the slot of their optimizer
MOMENTS = {"exp_avg": "adam_m", "exp_avg_sq": "adam_v"}
_STEP = "global_step"
_GENERATOR = "generator/"
_ANY = {".*": ""}
_IGNORED = {
    r"model/binary_(proj|loss)/.*": "replaced-token head: not loaded",
    r"model/lm_(proj|loss)/.*": "masked-LM head: not loaded",
}

_EMBEDDINGS = [
    Row("embeddings.word_embeddings.weight", "V De", "model/input/word_embedding/lookup_table"),
    Row("embeddings.layer_norm.weight", "De", "model/input/layer_norm/gamma"),
    Row("embeddings.layer_norm.bias", "De", "model/input/layer_norm/beta"),
]
_PROJECTION = [
    Row("embeddings.projection.weight", "D De", "encoder/input_projection/kernel", "De D", True),
    Row("embeddings.projection.bias", "D", "encoder/input_projection/bias"),
]
# ours: theirs, their shape where it differs (their kernels are all input-first)
_LAYER_NAMES = {
    "mixer.query.weight": ("rel_attn/q/kernel", "D H E"),
    "mixer.key.weight": ("rel_attn/k/kernel", "D H E"),
    "mixer.key.bias": ("rel_attn/k/bias", "H E"),
    "mixer.value.weight": ("rel_attn/v/kernel", "D H E"),
    "mixer.value.bias": ("rel_attn/v/bias", "H E"),
    "mixer.output.weight": ("rel_attn/o/kernel", "H E D"),
    "mixer.output.bias": ("rel_attn/o/bias", ""),
    "mixer.relative.weight": ("rel_attn/r/kernel", "D H E"),
    "mixer.content_bias": ("rel_attn/r_w_bias", ""),
    "mixer.position_bias": ("rel_attn/r_r_bias", ""),
    "mixer.segment_bias": ("rel_attn/r_s_bias", ""),
    "mixer.segment_embedding": ("rel_attn/seg_embed", ""),
    "mixer_norm.weight": ("rel_attn/layer_norm/gamma", ""),
    "mixer_norm.bias": ("rel_attn/layer_norm/beta", ""),
    "feed_forward.expand.weight": ("ff/layer_1/kernel", "D F"),
    "feed_forward.expand.bias": ("ff/layer_1/bias", ""),
    "feed_forward.contract.weight": ("ff/layer_2/kernel", "F D"),
    "feed_forward.contract.bias": ("ff/layer_2/bias", ""),
    "feed_forward_norm.weight": ("ff/layer_norm/gamma", ""),
    "feed_forward_norm.bias": ("ff/layer_norm/beta", ""),
}
_LAYER = [
    layer_row(ours, *_LAYER_NAMES[ours], input_first=_LAYER_NAMES[ours][0].endswith("kernel"))
    for ours in LAYER
]
_HEADS = {
    "model": [],
    "token_detection": [
        Row("detector.dense.weight", "D D", "binary_proj/dense/kernel", input_first=True),
        Row("detector.dense.bias", "D", "binary_proj/dense/bias"),
        Row("detector.output.weight", "1 D", "binary_loss/weight", "D"),
        Row("detector.output.bias", "1", "binary_loss/bias"),
    ],
    "masked_lm": [
        Row("lm_head.dense.weight", "De D", "lm_proj/dense/kernel", "D De", True),
        Row("lm_head.dense.bias", "De", "lm_proj/dense/bias"),
        Row("lm_head.layer_norm.weight", "De", "lm_proj/layer_norm/gamma"),
        Row("lm_head.layer_norm.bias", "De", "lm_proj/layer_norm/beta"),
        Row("lm_head.decoder.bias", "V", "lm_loss/bias"),
    ],
}


@dataclass(frozen=True)
class Electra:
    """What a checkpoint holds. The tied `lm_head.decoder.weight` is in no state dict.

    discriminator: what is under `model/`. generator: None in a core; its word embedding and embedding LayerNorm
        are the discriminator's tensors.
    moments: parameter -> its `exp_avg` and `exp_avg_sq`, by the names of `FunnelformerForElectra`
        (`discriminator.funnelformer.embeddings...`); what both models share under the discriminator's name. Empty in a
        core.
    step: updates done, None in a core.
    ignored: variables left out, and why. names: parameter, named as in `moments`, -> the variable.
    """

    discriminator: Part
    generator: Part | None
    moments: dict[str, dict[str, Tensor]]
    step: int | None
    ignored: dict[str, str]
    names: dict[str, str]


def load(folder: str | Path) -> Loaded:
    """Read a released folder: `net_config.json` and one checkpoint, `model.ckpt*.index` with its data files.

    A "model", or "token_detection" (the discriminator) or "masked_lm" where such a head is stored; the generator and
    the optimizer's state are its `pretraining`.
    Raises UserError naming the file and the key or variable.
    """
    folder = Path(folder)
    index = find_index(folder)
    if index is None:
        raise UserError(f"{folder}: no checkpoint; looked for {INDEX}")
    variables = read_bundle(index)
    check_finite(variables, index)
    electra = import_variables(variables, read_json(folder / CONFIG), str(index))
    part, pretraining = electra.discriminator, None
    if electra.generator or electra.moments:
        pretraining = Pretraining(electra.generator, electra.moments, electra.step or 0)
    return Loaded(
        part.config,
        part.state_dict,
        part.architecture,
        electra.ignored,
        "original-tf",
        folder,
        {name.removeprefix("discriminator."): theirs for name, theirs in electra.names.items()},
        pretraining,
    )


def export(config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str) -> Exported:
    """Translate a model to the variables of a core.

    The form has no head for whole sequences: it goes. Raises UserError naming every option that the form cannot hold.
    """
    allowed = {
        **funnel_options(config, architecture),
        "embedding_size": [config.embedding_size],
        "hidden_act": ["gelu_new", "relu"],
        "decoder_skip_state": [None, config.block_applications[0]],
        # without it TensorFlow's positions differ from the PyTorch code's, and from its own other attention
        "separate_cls": [True],
    }
    if architecture == "masked_lm":
        allowed |= {"mlm_head": ["dense"], "tie_word_embeddings": [True]}
    by_flag = {"padding": "original", "default_token_type_id": None, "layer_norm_eps": _LAYER_NORM_EPS}
    check_holds(config, _TARGET, allowed, by_flag)
    ignorable = {"lm_head.decoder.weight": "tied to the word embeddings"}
    if architecture not in _HEADS:
        ignorable[r"(classifier|qa_outputs)\..*"] = f"{_TARGET} has no head for {architecture}"
    if architecture in SEQUENCE_HEADS:
        ignorable[r"funnelformer\.decoder\..*"] = "a classifier does not use the decoder"
    table = _table(config, architecture, "model/")
    kept = architecture if architecture in _HEADS else "model"
    return Exported(tensorflow_net_config(config), *from_ours(state, table, ignorable), names(table), kept)


def save(
    config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str, folder: str | Path
) -> dict[str, str]:
    """Write `model.ckpt.*` and `net_config.json`; returns what is left out, and raises as `export`."""
    theirs, tensors, ignored, *_ = export(config, state, architecture)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bundle(folder / INDEX, tensors)
    (folder / CONFIG).write_text(json_text(theirs, indent=4), encoding="utf-8")
    return ignored


def import_variables(
    variables: Mapping[str, np.ndarray | Tensor], net_config: Mapping[str, Any], source: str
) -> Electra:
    """Translate the variables of a checkpoint, by name, and the content of its `net_config.json`.

    `truncate_seq` is a run-time argument there: True, as in the released scripts. source: what messages name.
    Raises UserError naming the key, or the variable that is missing, misshapen or unknown.
    """
    tensors = {
        name: value if isinstance(value, Tensor) else torch.from_numpy(value)
        for name, value in variables.items()
    }
    slots = {kind: _take_slots(tensors, slot) for kind, slot in MOMENTS.items()}
    step = _take_step(tensors, source)
    config = _config(net_config, source)
    architecture = _architecture(tensors, config)
    table = _table(config, architecture, "model/")
    tables = {"discriminator.": table}
    generator_config = None
    if any(name.startswith(_GENERATOR) for name in tensors):
        generator_config = _generator_config(config, tensors, source)
        tables["generator."] = _table(generator_config, "masked_lm", _GENERATOR)
    _, ignored = to_ours(tensors, [row for rows in tables.values() for row in rows], _IGNORED, source)

    def part(config: FunnelformerConfig, architecture: str, prefix: str) -> Part:
        return Part(config, to_ours(tensors, tables[prefix], _ANY, source)[0], architecture)

    return Electra(
        discriminator=part(config, architecture, "discriminator."),
        generator=None if generator_config is None else part(generator_config, "masked_lm", "generator."),
        moments=_moments(slots, tables, ignored, source),
        step=step,
        ignored=ignored,
        names={prefix + row.ours: row.theirs for prefix, table in tables.items() for row in table},
    )


def _take_slots(tensors: dict[str, Tensor], slot: str) -> dict[str, Tensor]:
    """Take one moment of all variables out of `tensors`, under the variables' own names."""
    names = [name for name in tensors if name.endswith(f"/{slot}")]
    return {name.removesuffix(f"/{slot}"): tensors.pop(name) for name in names}


def _take_step(tensors: dict[str, Tensor], source: str) -> int | None:
    step = tensors.pop(_STEP, None)
    if step is None:
        return None
    if step.is_floating_point() or step.numel() != 1 or int(step) < 0:
        raise UserError(f"{source}: variable {_STEP!r} is not one whole number")
    return int(step)


def _moments(
    slots: Mapping[str, dict[str, Tensor]],
    tables: Mapping[str, list[Row]],
    ignored: Mapping[str, str],
    source: str,
) -> dict[str, dict[str, Tensor]]:
    """Adam's moments by our parameters; shared parameters come first with the discriminator, and only there."""
    moments: dict[str, dict[str, Tensor]] = {}
    if not any(slots.values()):
        return moments
    done: set[str] = set()
    for prefix, table in tables.items():
        rows = [row for row in table if row.theirs not in done]
        done |= {row.theirs for row in rows}
        for kind, found in slots.items():
            where = f"{source}: {MOMENTS[kind]}"
            for name, tensor in to_ours(found, rows, _ANY, where)[0].items():
                moments.setdefault(prefix + name, {})[kind] = tensor
    for kind, found in slots.items():
        for name in sorted(found.keys() - done - ignored.keys()):
            raise UserError(f"{source}: {name}/{MOMENTS[kind]} is the moment of a variable that is not there")
    return moments


def _config(net: Mapping[str, Any], source: str) -> FunnelformerConfig:
    fixed = {
        "padding": "original",
        "layer_norm_eps": _LAYER_NORM_EPS,
        "pad_token_id": _PAD_TOKEN_ID,
        "cls_token_type_id": _CLS_SEGMENT,
    }
    return make_config({**config_values(net, source), **fixed}, source)


def _generator_config(
    config: FunnelformerConfig, tensors: Mapping[str, Tensor], source: str
) -> FunnelformerConfig:
    """The generator's sizes, which are in no file but its tensors: a share of the discriminator's width and heads."""
    values = config.to_dict()
    for name, sizes in {
        f"{_GENERATOR}encoder/layer_0/rel_attn/q/kernel": ("hidden_size", "num_attention_heads", "head_size"),
        f"{_GENERATOR}encoder/layer_0/ff/layer_1/kernel": ("hidden_size", "intermediate_size"),
    }.items():
        if name not in tensors:
            raise UserError(f"{source}: tensor {name!r} is missing")
        if tensors[name].dim() != len(sizes):
            raise UserError(
                f"{source}: tensor {name!r} has shape {list(tensors[name].shape)}, expected {len(sizes)} dimensions"
            )
        values |= dict(zip(sizes, tensors[name].shape, strict=True))
    return make_config(values, source)


def _architecture(tensors: Mapping[str, Tensor], config: FunnelformerConfig) -> str:
    """The head under `model/`; without a decoder several blocks end in no token to read it from."""
    if config.num_blocks > 1 and not config.decoder_layers:
        return "model"
    if "model/binary_loss/weight" in tensors:
        return "token_detection"
    return "masked_lm" if "model/lm_loss/bias" in tensors else "model"


def _table(config: FunnelformerConfig, architecture: str, theirs: str) -> list[Row]:
    ours = "" if architecture == "model" else "funnelformer."
    rows = expand(_EMBEDDINGS, config, ours)
    if config.has_embedding_projection:
        rows += expand(_PROJECTION, config, ours, theirs)
    for k, block, layer in encoder_layers(config):
        rows += expand(
            _LAYER, config, f"{ours}encoder.blocks.{block}.{layer}.", f"{theirs}encoder/layer_{k}/"
        )
    for layer in range(config.decoder_layers or 0):
        k = config.num_hidden_layers + layer
        rows += expand(_LAYER, config, f"{ours}decoder.layers.{layer}.", f"{theirs}decoder/layer_{k}/")
    return rows + expand(_HEADS.get(architecture, []), config, theirs=theirs)


add_form("original-tf", sys.modules[__name__], to="original-tf")
