"""The original's `net_config.json`: its keys, its layouts such as "6_3x2_3x2", and ours.

Source: the authors' configuration, Dai et al. 2020; the PyTorch code writes the required keys, TensorFlow's
also the optional ones. `truncate_seq`, the padding id and the segment of [CLS] are run-time arguments there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError, reject_unknown
from ..config.model_config import FunnelformerConfig
from .foreign_options import translating

__all__ = ["config_values", "net_config", "tensorflow_net_config"]

# their key -> ours, where the value is the same
_SAME = {
    "vocab_size": "vocab_size",
    "d_embed": "embedding_size",
    "d_model": "hidden_size",
    "n_head": "num_attention_heads",
    "d_head": "head_size",
    "d_inner": "intermediate_size",
    "dropout": "hidden_dropout",
    "dropatt": "attention_dropout",
    "dropact": "activation_dropout",
    "separate_cls": "separate_cls",
    "pooling_type": "pooling",
    "pool_q_only": "pool_q_only",
}
_REQUIRED = (*_SAME, "block_size", "pooling_size")
_OPTIONAL_SAME = {"init": "initializer", "init_std": "initializer_std", "init_range": "initializer_range"}
_OPTIONAL = (*_OPTIONAL_SAME, "decoder_size", "ff_activation", "rel_attn_type")
_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu"}


def config_values(net: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Translate the keys of a net config to arguments of `FunnelformerConfig`.

    `rel_attn_type` chooses between two equal computations and is dropped. Raises UserError naming `source`
    and the key.
    """
    with translating(source):
        return _values(net, source)


def _values(net: Mapping[str, Any], source: str) -> dict[str, Any]:
    reject_unknown(net, (*_REQUIRED, *_OPTIONAL), source)
    for key in _REQUIRED:
        if key not in net:
            raise UserError(f"{source}: key {key!r} is missing")
    if net["pooling_size"] != 2:
        raise UserError(f"{source}: pooling_size is {net['pooling_size']!r}; allowed: 2")
    activation = net.get("ff_activation", "gelu")
    if activation not in _ACTIVATIONS:
        raise UserError(f"{source}: ff_activation is {activation!r}; allowed: {', '.join(_ACTIVATIONS)}")
    values = {ours: net[key] for key, ours in _SAME.items()}
    values |= {ours: net[key] for key, ours in _OPTIONAL_SAME.items() if key in net}
    values["blocks"], values["repeats"] = _layout(net["block_size"], "block_size", source)
    layers, times = _layout(net.get("decoder_size", "0"), "decoder_size", source)
    if len(layers) != 1:
        raise UserError(
            f"{source}: decoder_size is {net['decoder_size']!r}; allowed: one layout such as '2' or '1x2'"
        )
    values["decoder_layers"], values["decoder_repeats"] = layers[0], times[0]
    values["hidden_act"] = _ACTIVATIONS[activation]
    return values


def net_config(config: FunnelformerConfig) -> dict[str, Any]:
    """The keys that the PyTorch code reads, for one of our configs."""
    pairs = zip(config.blocks, config.repeats or [1] * config.num_blocks, strict=True)
    values = {key: getattr(config, ours) for key, ours in _SAME.items()}
    values["block_size"] = "_".join(
        f"{layers}x{times}" if times > 1 else str(layers) for layers, times in pairs
    )
    values["pooling_size"] = 2
    return dict(sorted(values.items()))


def tensorflow_net_config(config: FunnelformerConfig) -> dict[str, Any]:
    """The keys that the TensorFlow code reads, for one of our configs."""
    activations = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    decoder = f"{config.decoder_layers}x{config.decoder_repeats}"
    values = {
        **net_config(config),
        **{key: getattr(config, ours) for key, ours in _OPTIONAL_SAME.items()},
        "decoder_size": decoder.removesuffix("x1"),
        "ff_activation": activations[config.hidden_act],
        "rel_attn_type": "factorized",  # its default; chooses between two equal computations
    }
    return dict(sorted(values.items()))


def _layout(value: Any, key: str, source: str) -> tuple[list[int], list[int]]:
    parts = [re.fullmatch(r"(\d+)(?:x(\d+))?", part) for part in str(value).split("_")]
    if None in parts:
        raise UserError(
            f"{source}: {key} is {value!r}; allowed: layers[xrepeats] joined by '_', as in '6_3x2_3x2'"
        )
    matches = [part for part in parts if part]
    return [int(match[1]) for match in matches], [int(match[2] or 1) for match in matches]
