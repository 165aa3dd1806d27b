"""Folders of the authors' PyTorch code: the encoder, and the classification head after fine-tuning.

Source: the checkpoints released with Dai et al. 2020. Kernels are stored input-first; layers are numbered
through the blocks. The code has no decoder, no masked-LM head and no embedding projection.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..base.errors import UserError
from ..base.json_toml import read_json
from ..base.strict_json import json_text
from ..config.model_config import FunnelformerConfig
from .foreign_options import check_holds, funnel_options, make_config
from .form_table import add_form
from .key_map import Row, encoder_layers, expand, from_ours, layer_row, names, to_ours
from .loaded import Exported, Loaded
from .net_config import config_values, net_config
from .torch_file import write_torch_file
from .weights import find_weights, read_state_dict

__all__ = ["CONFIGS", "VOCABULARY", "WEIGHTS", "export", "find_config", "load", "save"]

WEIGHTS = ("model.ckpt.pt", "model.pt")
CONFIGS = ("net_config.pytorch.json", "net_config.json")
VOCABULARY = "vocab.uncased.txt"
_TARGET = "the original PyTorch form"
_LAYER_NORM_EPS = 1e-9
_PAD_TOKEN_ID = 0
_CLS_SEGMENT = 2

_EMBEDDINGS = [
    Row("embeddings.word_embeddings.weight", "V De", "input_layer.0.lookup_table"),
    Row("embeddings.layer_norm.weight", "De", "input_layer.1.weight"),
    Row("embeddings.layer_norm.bias", "De", "input_layer.1.bias"),
]
# In the order of the published converter's state dict.
_LAYER = [
    layer_row("mixer.query.weight", "attn_layers.{k}.q_head.weight", "D H E", input_first=True),
    layer_row("mixer.key.weight", "attn_layers.{k}.k_head.weight", "D H E", input_first=True),
    layer_row("mixer.value.weight", "attn_layers.{k}.v_head.weight", "D H E", input_first=True),
    layer_row("mixer.output.weight", "attn_layers.{k}.post_proj.weight", "H E D", input_first=True),
    layer_row("mixer.key.bias", "attn_layers.{k}.k_head.bias", "H E"),
    layer_row("mixer.value.bias", "attn_layers.{k}.v_head.bias", "H E"),
    layer_row("mixer.output.bias", "attn_layers.{k}.post_proj.bias"),
    layer_row("mixer.content_bias", "attn_layers.{k}.r_w_bias"),
    layer_row("mixer.segment_bias", "attn_layers.{k}.r_s_bias"),
    layer_row("mixer.position_bias", "attn_layers.{k}.r_r_bias"),
    layer_row("mixer.segment_embedding", "attn_layers.{k}.seg_embed"),
    layer_row("mixer.relative.weight", "attn_layers.{k}.r_kernel", "D H E", input_first=True),
    layer_row("feed_forward.expand.weight", "pffn_layers.{k}.pffn.0.weight", "D F", input_first=True),
    layer_row("feed_forward.contract.weight", "pffn_layers.{k}.pffn.3.weight", "F D", input_first=True),
    layer_row("feed_forward.expand.bias", "pffn_layers.{k}.pffn.0.bias"),
    layer_row("feed_forward.contract.bias", "pffn_layers.{k}.pffn.3.bias"),
    layer_row("mixer_norm.weight", "attn_layers.{k}.layer_norm.weight"),
    layer_row("mixer_norm.bias", "attn_layers.{k}.layer_norm.bias"),
    layer_row("feed_forward_norm.weight", "pffn_layers.{k}.layer_norm.weight"),
    layer_row("feed_forward_norm.bias", "pffn_layers.{k}.layer_norm.bias"),
]
_CLASSIFIER = [
    Row("classifier.dense.weight", "D D", "cls_head.0.weight", input_first=True),
    Row("classifier.dense.bias", "D", "cls_head.0.bias"),
    Row("classifier.output.weight", "L D", "cls_head.3.weight", "D L", input_first=True),
    Row("classifier.output.bias", "L", "cls_head.3.bias"),
]


def load(folder: str | Path) -> Loaded:
    """Read a released or a fine-tuned folder: a "model", or "sequence_classification" where a `cls_head` is stored.

    `truncate_seq` is not stored: True, as in the released scripts.
    Raises UserError naming the file and the key or tensor.
    """
    folder = Path(folder)
    path = find_config(folder)
    weights = find_weights(folder, WEIGHTS)
    values = config_values(read_json(path), str(path)) | {"decoder_layers": 0, "decoder_repeats": 1}
    state = read_state_dict(weights, mapped=True)
    architecture, prefix = "model", ""
    if "cls_head.3.bias" in state:
        architecture, prefix = "sequence_classification", "funnelformer."
        values["num_labels"] = state["cls_head.3.bias"].numel()
    config = _config(values, path)
    table = _table(config, architecture, prefix)
    ours, ignored = to_ours(state, table, {}, str(weights))
    return Loaded(config, ours, architecture, ignored, "original-torch", folder, names(table))


def _config(values: dict[str, Any], path: Path) -> FunnelformerConfig:
    if values["embedding_size"] != values["hidden_size"]:
        raise UserError(f"{path}: d_embed is not d_model, for which {_TARGET} has no projection")
    fixed = {
        "padding": "original",
        "layer_norm_eps": _LAYER_NORM_EPS,
        "pad_token_id": _PAD_TOKEN_ID,
        "cls_token_type_id": _CLS_SEGMENT,
    }
    return make_config({**values, **fixed}, str(path))


def export(config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str) -> Exported:
    """Translate a model.

    The format has no decoder and no masked-LM head: their tensors go, as with the published converter.
    Raises UserError naming every option that the format cannot hold.
    """
    allowed = {
        **funnel_options(config, architecture),
        "hidden_act": ["gelu_new"],
    }
    by_flag = {"padding": "original", "default_token_type_id": None, "layer_norm_eps": _LAYER_NORM_EPS}
    check_holds(config, _TARGET, allowed, by_flag)
    ignorable = {
        r"(funnelformer\.)?decoder\..*": f"{_TARGET} has no decoder",
        r"lm_head\..*": f"{_TARGET} has no masked-LM head",
        r"detector\..*": f"{_TARGET} has no replaced-token head",
    }
    if architecture not in ("model", "sequence_classification"):
        ignorable[r"(classifier|qa_outputs)\..*"] = f"{_TARGET} has no head for {architecture}"
    prefix = "" if architecture == "model" else "funnelformer."
    table = _table(config, architecture, prefix)
    kept = architecture if architecture == "sequence_classification" else "model"
    return Exported(net_config(config), *from_ours(state, table, ignorable), names(table), kept)


def save(
    config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str, folder: str | Path
) -> dict[str, str]:
    """Write `model.ckpt.pt` and `net_config.pytorch.json`; returns and raises as `export`."""
    theirs, tensors, ignored, *_ = export(config, state, architecture)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_torch_file(tensors, folder / WEIGHTS[0])
    (folder / CONFIGS[0]).write_text(json_text(theirs, indent=4), encoding="utf-8")
    return ignored


def find_config(folder: Path) -> Path:
    """Return the net config of `folder`. Raises UserError listing what was looked for."""
    for name in CONFIGS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no config; looked for {', '.join(CONFIGS)}")


def _table(config: FunnelformerConfig, architecture: str, prefix: str) -> list[Row]:
    rows = expand(_EMBEDDINGS, config, prefix)
    for k, block, layer in encoder_layers(config):
        rows += expand(_LAYER, config, f"{prefix}encoder.blocks.{block}.{layer}.", k=k)
    return rows + (expand(_CLASSIFIER, config) if architecture == "sequence_classification" else [])


add_form("original-torch", sys.modules[__name__], to="original-torch")
