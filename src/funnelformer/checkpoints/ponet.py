"""Folders of the published PoNet (`model_type: ponet`), read.

Source: the models released with Tan et al. 2022. The code has the ids of CLS and SEP in it, 101 and 102 of BERT's
vocabulary; here they are in the config.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..base.errors import UserError
from ..base.json_toml import read_json
from ..config.model_config import FunnelformerConfig
from .bert_rows import (
    ATTENTION,
    EMBEDDINGS,
    LM_HEAD,
    LM_HEAD_BIAS,
    OUTPUT,
    TOKEN_HEAD,
    choice_head,
    layer_rows,
    rows_of,
)
from .foreign_options import LABEL_KEYS, make_config, translating, with_classes
from .form_table import add_form
from .key_map import Row, encoder_layers, expand, names, to_ours
from .loaded import Loaded
from .weights import find_weights, read_state_dict

__all__ = ["config_from_theirs", "load"]

_CLS, _SEP = 101, 102
# our config key -> theirs, where the value is the same
_SAME = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "initializer_std": "initializer_range",
    "layer_norm_eps": "layer_norm_eps",
    "pad_token_id": "pad_token_id",
}
_OPTIONAL = {
    "ponet_special_apart": "clsgsepg",
    "classifier_dropout": "classifier_dropout",
    "id2label": "id2label",
    "label2id": "label2id",
    "problem_type": "problem_type",
}
_FIXED = {
    "mixer": "ponet",
    "position": "absolute",
    "default_token_type_id": 0,
    "cls_token_type_id": 0,
    "decoder_layers": 0,
    "initializer": "normal",
    "ponet_segments": "separators",
    "cls_token_id": _CLS,
    "sep_token_id": _SEP,
}

# our module -> theirs
_LAYER_MODULES = {
    "mixer.query": "attention.self.dense_q",
    "mixer.key": "attention.self.dense_k",
    "mixer.gate": "attention.self.dense_o",
    "mixer.segment": "attention.self.dense_segment",
    "mixer.local": "attention.self.dense_local",
}
_LAYER = [
    *(
        row
        for ours, theirs in _LAYER_MODULES.items()
        for row in rows_of(ours, f"encoder.layer.{{k}}.{theirs}", "HE D", "HE")
    ),
    *layer_rows({**ATTENTION, **OUTPUT}, "encoder.layer.{k}."),
]
_HEADS = {
    "model": [],
    "masked_lm": [*LM_HEAD, LM_HEAD_BIAS],
    "sequence_classification": [
        *rows_of("classifier.dense", "ponet.pooler.dense", "D D", "D"),
        *choice_head("L"),
    ],
    "token_classification": TOKEN_HEAD,
}
_ARCHITECTURES = {
    "PoNetForMaskedLM": "masked_lm",
    "PoNetForSequenceClassification": "sequence_classification",
    "PoNetForTokenClassification": "token_classification",
    "PoNetForDocumentSegmentation": "token_classification",
}


def load(folder: str | Path) -> Loaded:
    """Read `config.json` with `pytorch_model.bin` (or safetensors), with or without a head.

    Heads we do not have leave the encoder as "model".
    Raises UserError naming the file and the key or tensor.
    """
    folder = Path(folder)
    path = folder / "config.json"
    weights = find_weights(folder)
    state = read_state_dict(weights, mapped=True)
    theirs = read_json(path)
    prefix = "ponet." if any(name.startswith("ponet.") for name in state) else ""
    architecture = _architecture(theirs, state)
    config = config_from_theirs(theirs, str(path))
    labelled = ("sequence_classification", "token_classification")
    if architecture in labelled and theirs.keys().isdisjoint(LABEL_KEYS):
        config.num_labels = state["classifier.bias"].numel()
    table = _table(config, architecture, prefix)
    ours, ignored = to_ours(state, table, _ignorable(architecture, prefix), str(weights))
    return Loaded(config, ours, architecture, ignored, "ponet", folder, names(table))


def _architecture(theirs: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    names = theirs.get("architectures") or []
    if names:
        return _ARCHITECTURES.get(str(names[0]), "model")
    return "masked_lm" if "cls.predictions.bias" in state else "model"


def config_from_theirs(theirs: Mapping[str, Any], source: str) -> FunnelformerConfig:
    """Translate the content of a PoNet `config.json`. Raises UserError naming `source` and the key."""
    with translating(source):
        return _config(theirs, source)


def _config(theirs: Mapping[str, Any], source: str) -> FunnelformerConfig:
    needed = {*_SAME.values(), "num_hidden_layers"}
    missing = sorted(needed - theirs.keys())
    if missing:
        raise UserError(f"{source}: key {missing[0]!r} is missing")
    theirs = with_classes(theirs, source)
    values = {ours: theirs[name] for ours, name in _SAME.items()}
    values |= {ours: theirs[name] for ours, name in _OPTIONAL.items() if name in theirs}
    width, heads, layers = (
        theirs[name] for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    for name, value in (
        ("hidden_size", width),
        ("num_attention_heads", heads),
        ("num_hidden_layers", layers),
    ):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{source}: {name} is {value!r}; allowed: 1 or more")
    if width % heads:
        raise UserError(f"{source}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    values |= {"blocks": [layers], "head_size": width // heads}
    return make_config({**_FIXED, **values}, source, {**_SAME, **_OPTIONAL})


def _table(config: FunnelformerConfig, architecture: str, prefix: str) -> list[Row]:
    ours = "" if architecture == "model" else "funnelformer."
    rows = expand(EMBEDDINGS, config, ours, prefix)
    for k, block, layer in encoder_layers(config):
        rows += expand(_LAYER, config, f"{ours}encoder.blocks.{block}.{layer}.", prefix, k=k)
    return rows + expand(_HEADS[architecture], config)


def _ignorable(architecture: str, prefix: str) -> dict[str, str]:
    reasons = {
        rf"{prefix}embeddings\.position_ids": "numbers 0, 1, ...",
        r"cls\.seq_relationship\..*": "head of the sentence-structure objective: not loaded",
    }
    if architecture != "sequence_classification":
        reasons[rf"{prefix}pooler\..*"] = "the pooler belongs to heads for whole sequences"
    if architecture not in ("sequence_classification", "token_classification"):
        reasons[r"classifier\..*"] = "a head we do not have: not loaded"
    if architecture == "masked_lm":
        reasons[r"cls\.predictions\.decoder\.weight"] = "tied to the word embeddings"
        reasons[r"cls\.predictions\.decoder\.bias"] = "the same as cls.predictions.bias"
    else:
        reasons[r"cls\.predictions\..*"] = "the masked-LM head: not loaded"
    return reasons


add_form("ponet", sys.modules[__name__], model_type="ponet")
