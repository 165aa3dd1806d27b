"""The models that are timed: ours by a name of the papers' grammar, and transformers' from their config classes.

All have random weights, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import transformers
from torch import nn

from ..base.errors import UserError, did_you_mean
from ..base.packages import need
from ..config.model_config import parse_name
from ..mixers.attention import IMPLEMENTATIONS
from ..modeling import FunnelformerModel, prepack
from ..training.run.folder import config_from_name
from .onnx import OnnxEncoder

__all__ = [
    "CLS",
    "FAMILIES",
    "FOR_ANY_MODEL",
    "ONNX",
    "ONNX_INT8",
    "PREPACKED",
    "SEP",
    "Family",
    "Subject",
    "find_subject",
]

# Ids of the special tokens in a measured input; PoNet's segments end at separators.
CLS, SEP = 1, 2
COMPILED = "+compile"
# What every model can be run as, transformers' too; the first is "sdpa+compile" by a shorter name.
SHORT_COMPILED, PREPACKED, ONNX, ONNX_INT8 = "compiled", "prepacked", "onnx", "onnx-int8"
FOR_ANY_MODEL = (SHORT_COMPILED, PREPACKED, ONNX, ONNX_INT8)


def _bert(layers: int, width: int) -> dict[str, Any]:
    return {**_sizes(layers, width), "intermediate_size": 4 * width}


def _deberta(layers: int, width: int) -> dict[str, Any]:
    """What the released v3 models have: both disentangled terms, log buckets, keys shared with the positions."""
    return {
        **_bert(layers, width),
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    }


def _fnet(layers: int, width: int) -> dict[str, Any]:
    return {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}


def _modernbert(layers: int, width: int) -> dict[str, Any]:
    """The feed-forward part is gated: three products of 1.5 x the width."""
    ids = {"cls_token_id": CLS, "sep_token_id": SEP, "bos_token_id": CLS, "eos_token_id": SEP}
    return {**_sizes(layers, width), "intermediate_size": width * 3 // 2, **ids}


def _sizes(layers: int, width: int) -> dict[str, Any]:
    heads = parse_name(f"L{layers}H{width}")["num_attention_heads"]
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}


@dataclass(frozen=True)
class Family:
    """One architecture of transformers.

    layout: the published base size. vocab_size: of the published models.
    shape: the config's arguments for so many layers of a width; None for the Funnel, which has blocks.
    model_options: arguments of the model's class, which leave out a pooler that the encoders compared with lack.
    """

    model_class: str
    layout: str
    vocab_size: int
    shape: Callable[[int, int], dict[str, Any]] | None
    model_options: dict[str, Any] = field(default_factory=dict)


_NO_POOLER = {"add_pooling_layer": False}
FAMILIES = {
    "bert": Family("BertModel", "L12H768", 30522, _bert, _NO_POOLER),
    "funnel": Family("FunnelBaseModel", "B4-4-4H768", 30522, None),
    "modernbert": Family("ModernBertModel", "L22H768", 50368, _modernbert),
    "fnet": Family("FNetModel", "L12H768", 32000, _fnet, _NO_POOLER),
    "deberta-v3": Family("DebertaV2Model", "L12H768", 128100, _deberta),
}


@dataclass(frozen=True)
class Subject:
    """A model that can be built, here or in another process.

    name: as in the tables. family: a key of `FAMILIES`, or None for ours. layout: a name of the papers' grammar.
    implementation: of attention, with "+compile" for torch.compile; or one of `FOR_ANY_MODEL`.
    settings: config keys of ours.
    """

    name: str
    family: str | None
    layout: str
    implementation: str
    settings: dict[str, Any] = field(default_factory=dict)

    def config(self, length: int, vocab_size: int | None = None) -> Any:
        """The config for inputs of up to `length` tokens; without `vocab_size`, with the published vocabulary.

        Raises UserError for a setting that the config refuses.
        """
        if self.family is None:
            # The encoder alone, as the peers are, unless the settings have a decoder.
            values = {"decoder_layers": 0, "cls_token_id": CLS, "sep_token_id": SEP, **self.settings}
            values |= {"max_position_embeddings": length}
            if vocab_size is not None:
                values["vocab_size"] = vocab_size
            return config_from_name(self.layout, values)
        family, shape = FAMILIES[self.family], parse_name(self.layout)
        limit = {"max_position_embeddings": length, "pad_token_id": 0}
        if family.shape is not None:
            values = family.shape(shape["blocks"][0], shape["hidden_size"]) | limit
        else:
            values = {
                "block_sizes": shape["blocks"],
                "block_repeats": shape["repeats"],
                "d_model": shape["hidden_size"],
                "n_head": shape["num_attention_heads"],
                "d_head": shape["head_size"],
                "d_inner": shape["intermediate_size"],
            }
        return self._class().config_class(**values, vocab_size=vocab_size or family.vocab_size)

    def build(self, length: int, vocab_size: int | None = None) -> nn.Module:
        """The model with random weights, in eval mode."""
        config = self.config(length, vocab_size)
        options = {} if self.family is None else FAMILIES[self.family].model_options
        attention = self.implementation.removesuffix(COMPILED)
        if attention in FOR_ANY_MODEL:
            attention = "sdpa" if self.family is None else _attentions(self.family)[-1]
        model: nn.Module = self._class()._from_config(config, attn_implementation=attention, **options).eval()
        if self.implementation in (ONNX, ONNX_INT8):
            return OnnxEncoder(model, int8=self.implementation == ONNX_INT8)
        if self.implementation == PREPACKED:
            prepack(model)
        if self.implementation.endswith(COMPILED) or self.implementation == SHORT_COMPILED:
            model.compile()
        return model

    def _class(self) -> Any:
        if self.family is None:
            return FunnelformerModel
        return getattr(transformers, FAMILIES[self.family].model_class)


def find_subject(
    name: str,
    flag: str,
    implementation: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Subject:
    """The model of a name: a family of transformers, alone or with a layout ("bert:L24H1024"), or one of ours.

    implementation: by default the fastest that the class has, sdpa before eager.
    settings: config keys, for a model of ours.
    Raises UserError, which begins with `flag`, for a name that is neither, and for an implementation that is not
    the model's.
    """
    family, _, layout = name.partition(":")
    if family not in FAMILIES:
        try:
            parse_name(name)
        except UserError as error:
            hint = did_you_mean(family, FAMILIES)
            raise UserError(f"{flag}: {error}; or one of {', '.join(FAMILIES)}{hint}") from None
        subject = Subject(name, None, name, implementation or "sdpa", settings or {})
        _check_implementation(subject, list(IMPLEMENTATIONS), flag)
        # The config's own name has the mixers too.
        return replace(subject, name=subject.config(length=1).name)
    layout = layout or FAMILIES[family].layout
    try:
        shape = parse_name(layout)
    except UserError as error:
        raise UserError(f"{flag} {name}: {error}") from None
    if FAMILIES[family].shape is not None and (len(shape["blocks"]) > 1 or shape["repeats"] != [1]):
        raise UserError(f"{flag} {name}: {family} has no blocks; allowed: a layout such as L12H768")
    allowed = _attentions(family)
    subject = Subject(f"{family} {layout}", family, layout, implementation or allowed[-1])
    _check_implementation(subject, allowed, flag)
    return subject


def _attentions(family: str) -> list[str]:
    """The implementations of attention that a family of transformers has, the fastest last."""
    return (
        ["eager", "sdpa"] if getattr(transformers, FAMILIES[family].model_class)._supports_sdpa else ["eager"]
    )


def _check_implementation(subject: Subject, allowed: list[str], flag: str) -> None:
    attention = subject.implementation.removesuffix(COMPILED)
    if subject.implementation in (ONNX, ONNX_INT8):
        need("onnx", "onnxscript", "onnxruntime")
    if attention not in allowed and subject.implementation not in FOR_ANY_MODEL:
        hint = did_you_mean(attention, [*allowed, *FOR_ANY_MODEL])
        raise UserError(
            f"{flag} {subject.name}: the implementation {subject.implementation!r} is unknown; "
            f"allowed: {', '.join(allowed)}, each also with {COMPILED}, and {', '.join(FOR_ANY_MODEL)}{hint}"
        )
