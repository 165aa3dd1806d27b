"""Folders of transformers' Funnel (`model_type: funnel`), read and written.

Source: transformers' models/funnel; its differences from the original are kept in the config (padding
"transformers", segment 0 where none is given, the skip from hidden state `block_sizes[0]`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import FunnelConfig

from ..base.errors import UserError, joined
from ..base.json_toml import read_json
from ..config.model_config import FunnelformerConfig
from .foreign_options import check_holds, funnel_options, make_config, translating, with_classes
from .form_table import add_form
from .key_map import LAYER, Row, encoder_layers, expand, from_ours, layer_row, names, to_ours
from .loaded import SEQUENCE_HEADS, Exported, Loaded
from .weights import find_weights, read_state_dict, write_model

__all__ = ["architecture_name", "config_from_theirs", "config_to_theirs", "export", "load", "save"]

_TARGET = "transformers' Funnel"
# our config key -> theirs, where the value is the same
_SAME = {
    "vocab_size": "vocab_size",
    "blocks": "block_sizes",
    "repeats": "block_repeats",
    "decoder_layers": "num_decoder_layers",
    "hidden_size": "d_model",
    "num_attention_heads": "n_head",
    "head_size": "d_head",
    "intermediate_size": "d_inner",
    "hidden_act": "hidden_act",
    "hidden_dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "initializer_range": "initializer_range",
    "layer_norm_eps": "layer_norm_eps",
    "pooling": "pooling_type",
    "separate_cls": "separate_cls",
    "truncate_seq": "truncate_seq",
    "pool_q_only": "pool_q_only",
    "pad_token_id": "pad_token_id",
    "tie_word_embeddings": "tie_word_embeddings",
    "id2label": "id2label",
    "label2id": "label2id",
    "problem_type": "problem_type",
}
_ARCHITECTURES = {
    "FunnelForMaskedLM": "masked_lm",
    "FunnelForSequenceClassification": "sequence_classification",
    "FunnelForTokenClassification": "token_classification",
    "FunnelForQuestionAnswering": "question_answering",
    "FunnelForMultipleChoice": "multiple_choice",
    "FunnelForPreTraining": "token_detection",
}
# These build on FunnelBaseModel: no decoder, whatever num_decoder_layers says.
WITHOUT_DECODER = frozenset({"FunnelBaseModel", "FunnelForSequenceClassification", "FunnelForMultipleChoice"})

_EMBEDDINGS = [
    Row("embeddings.word_embeddings.weight", "V D", "embeddings.word_embeddings.weight"),
    Row("embeddings.layer_norm.weight", "D", "embeddings.layer_norm.weight"),
    Row("embeddings.layer_norm.bias", "D", "embeddings.layer_norm.bias"),
]
_LAYER_NAMES = {
    "mixer.query": "attention.q_head",
    "mixer.key": "attention.k_head",
    "mixer.value": "attention.v_head",
    "mixer.output": "attention.post_proj",
    "mixer.content_bias": "attention.r_w_bias",
    "mixer.position_bias": "attention.r_r_bias",
    "mixer.segment_bias": "attention.r_s_bias",
    "mixer.segment_embedding": "attention.seg_embed",
    "mixer_norm": "attention.layer_norm",
    "feed_forward.expand": "ffn.linear_1",
    "feed_forward.contract": "ffn.linear_2",
    "feed_forward_norm": "ffn.layer_norm",
}


def _layer_name(ours: str) -> str:
    module, _, parameter = ours.rpartition(".")
    return _LAYER_NAMES.get(ours) or f"{_LAYER_NAMES[module]}.{parameter}"


_RELATIVE = layer_row("mixer.relative.weight", "attention.r_kernel", "D H E", input_first=True)
_LAYER = [*(layer_row(name, _layer_name(name)) for name in LAYER if name != _RELATIVE.ours), _RELATIVE]


def _sequence_head(outputs: str) -> list[Row]:
    return [
        Row("classifier.dense.weight", "D D", "classifier.linear_hidden.weight"),
        Row("classifier.dense.bias", "D", "classifier.linear_hidden.bias"),
        Row("classifier.output.weight", f"{outputs} D", "classifier.linear_out.weight"),
        Row("classifier.output.bias", outputs, "classifier.linear_out.bias"),
    ]


_HEADS = {
    "model": [],
    "masked_lm": [Row("lm_head.decoder.bias", "V", "lm_head.bias")],
    "token_detection": [
        Row("detector.dense.weight", "D D", "discriminator_predictions.dense.weight"),
        Row("detector.dense.bias", "D", "discriminator_predictions.dense.bias"),
        Row("detector.output.weight", "1 D", "discriminator_predictions.dense_prediction.weight"),
        Row("detector.output.bias", "1", "discriminator_predictions.dense_prediction.bias"),
    ],
    "sequence_classification": _sequence_head("L"),
    "multiple_choice": _sequence_head("1"),
    "token_classification": [
        Row("classifier.weight", "L D", "classifier.weight"),
        Row("classifier.bias", "L", "classifier.bias"),
    ],
    "question_answering": [
        Row("qa_outputs.weight", "2 D", "qa_outputs.weight"),
        Row("qa_outputs.bias", "2", "qa_outputs.bias"),
    ],
}
_UNTIED = Row("lm_head.decoder.weight", "V D", "lm_head.weight")


def load(folder: str | Path) -> Loaded:
    """Read a folder that transformers saved, of any of its Funnel classes.

    Raises UserError naming the file and the key or tensor.
    """
    folder = Path(folder)
    path = folder / "config.json"
    theirs = read_json(path)
    weights = find_weights(folder)
    state = read_state_dict(weights, mapped=True)
    prefix = "funnel." if any(name.startswith("funnel.") for name in state) else ""
    name = _named_architecture(theirs, state, prefix, path)
    architecture = _ARCHITECTURES.get(name, "model")
    config = config_from_theirs(theirs, str(path), decoder=name not in WITHOUT_DECODER)
    if name not in WITHOUT_DECODER and config.decoder_layers == 0:
        raise UserError(
            f"{path}: num_decoder_layers is 0 in a {name}; a decoder without layers is not supported"
        )
    table = _table(config, architecture, prefix)
    ours, ignored = to_ours(state, table, _ignorable(name, architecture, prefix), str(weights))
    return Loaded(config, ours, architecture, ignored, "transformers-funnel", folder, names(table))


def export(config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str) -> Exported:
    """Translate a model.

    Raises UserError naming every option that the format cannot hold.
    """
    theirs = config_to_theirs(config, architecture)
    prefix = "" if architecture == "model" else "funnel."
    ignorable = {"lm_head.decoder.weight": "tied to the word embeddings"}
    if architecture in SEQUENCE_HEADS:
        ignorable[r"funnelformer\.decoder\..*"] = f"{_TARGET} classifies sequences without a decoder"
    table = _table(config, architecture, prefix)
    return Exported(theirs, *from_ours(state, table, ignorable), names(table), architecture)


def save(
    config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str, folder: str | Path
) -> dict[str, str]:
    """Write `config.json` and `model.safetensors` for stock transformers; returns and raises as `export`."""
    theirs, tensors, ignored, *_ = export(config, state, architecture)
    write_model(theirs, tensors, folder)
    return ignored


def config_from_theirs(
    theirs: Mapping[str, Any], source: str, decoder: bool | None = None
) -> FunnelformerConfig:
    """Translate the content of a Funnel `config.json`.

    decoder: whether there are decoder layers; by default, whether the class it names has them.
    """
    with translating(source):
        if decoder is None:
            decoder = not WITHOUT_DECODER.intersection(theirs.get("architectures") or ())
        return _config(theirs, decoder, source)


def _config(theirs: Mapping[str, Any], decoder: bool, source: str) -> FunnelformerConfig:
    try:
        parsed = FunnelConfig.from_dict(with_classes(theirs, source))
        values = {ours: getattr(parsed, name) for ours, name in _SAME.items()}
        blocks, repeats = list(parsed.block_sizes), list(parsed.block_repeats or [])
    except UserError:
        raise
    except (StrictDataclassError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: {joined(error)}") from error
    if not decoder:
        values["decoder_layers"] = 0
    if parsed.initializer_std is not None:
        values["initializer_std"] = parsed.initializer_std
    # theirs is hidden_states[block_sizes[0]]; ours counts the repeats
    skip = blocks[0] if values["decoder_layers"] and repeats[0] > 1 else None
    values |= {"blocks": blocks, "repeats": repeats, "decoder_skip_state": skip}
    return make_config(
        {**values, "padding": "transformers", "default_token_type_id": 0, "mlm_head": "linear"}, source, _SAME
    )


def config_to_theirs(config: FunnelformerConfig, architecture: str) -> FunnelConfig:
    """Translate a config to `FunnelConfig`, naming the class in `architectures`.

    Raises UserError naming every option that transformers' Funnel cannot hold. A different `padding` matters
    for padded batches, `default_token_type_id` for calls without segments; they need the user's word.
    """
    allowed = funnel_options(config, architecture)
    if architecture == "masked_lm":
        allowed["mlm_head"] = ["linear"]
    if architecture not in ("model", *SEQUENCE_HEADS) and config.decoder_layers == 0:
        raise UserError(f"{_TARGET} cannot hold decoder_layers=0 in a model of tokens ({architecture})")
    by_flag: dict[str, Any] = {"padding": "transformers", "default_token_type_id": 0}
    if config.decoder_layers and architecture not in SEQUENCE_HEADS:
        allowed["decoder_repeats"] = [1]
        if config.decoder_skip_state is not None or (config.repeats or [1])[0] > 1:
            by_flag["decoder_skip_state"] = config.blocks[0]
    check_holds(config, _TARGET, allowed, by_flag)
    return FunnelConfig(
        **{name: getattr(config, ours) for ours, name in _SAME.items()},
        initializer_std=config.initializer_std,
        architectures=[architecture_name(config, architecture)],
    )


def architecture_name(config: FunnelformerConfig, architecture: str) -> str:
    """The transformers class for one of our architectures."""
    names = {ours: theirs for theirs, ours in _ARCHITECTURES.items()}
    return names.get(architecture) or ("FunnelModel" if config.decoder_layers else "FunnelBaseModel")


def _named_architecture(
    theirs: Mapping[str, Any], state: Mapping[str, Tensor], prefix: str, path: Path
) -> str:
    names = theirs.get("architectures") or []
    if names:
        if not isinstance(names, list) or not str(names[0]).startswith("Funnel"):
            raise UserError(f"{path}: architectures is {names!r}, not one of transformers' Funnel classes")
        return str(names[0])
    if "lm_head.bias" in state:
        return "FunnelForMaskedLM"
    if "classifier.linear_out.weight" in state:
        return "FunnelForSequenceClassification"
    if "classifier.weight" in state:
        return "FunnelForTokenClassification"
    if "qa_outputs.weight" in state:
        return "FunnelForQuestionAnswering"
    if "discriminator_predictions.dense.weight" in state:
        return "FunnelForPreTraining"
    has_decoder = any(name.startswith(f"{prefix}decoder.") for name in state)
    return "FunnelModel" if has_decoder else "FunnelBaseModel"


def _table(config: FunnelformerConfig, architecture: str, prefix: str) -> list[Row]:
    ours = "" if architecture == "model" else "funnelformer."
    rows = expand(_EMBEDDINGS, config, ours, prefix)
    for _, block, layer in encoder_layers(config):
        name = f"encoder.blocks.{block}.{layer}."
        rows += expand(_LAYER, config, ours + name, prefix + name)
    if architecture not in SEQUENCE_HEADS:
        for layer in range(config.decoder_layers or 0):
            name = f"decoder.layers.{layer}."
            rows += expand(_LAYER, config, ours + name, prefix + name)
    rows += expand(_HEADS[architecture], config)
    if architecture == "masked_lm" and not config.tie_word_embeddings:
        rows += expand([_UNTIED], config)
    return rows


def _ignorable(name: str, architecture: str, prefix: str) -> dict[str, str]:
    reasons = {}
    if name in WITHOUT_DECODER:
        reasons[rf"{prefix}decoder\..*"] = f"{name} does not use the decoder"
    if architecture == "masked_lm":
        reasons["lm_head.weight"] = "tied to the word embeddings"
    return reasons


add_form("transformers-funnel", sys.modules[__name__], model_type="funnel", to="transformers")
