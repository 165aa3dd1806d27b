"""Folders of transformers' encoders with absolute positions and post-norm layers, read and written.

A format is one `EncoderFormat`: its rows, its config's keys, and what its heads are, all as data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from ..base.errors import UserError, joined
from ..base.json_toml import read_json
from ..config.model_config import FunnelformerConfig
from .bert_rows import EMBEDDINGS
from .foreign_options import LABEL_KEYS, check_holds, make_config, with_classes
from .form_table import add_form
from .key_map import Row, encoder_layers, expand, from_ours, names, to_ours
from .loaded import SEQUENCE_HEADS, Exported, Loaded
from .weights import find_weights, read_state_dict, write_model

__all__ = ["BERT_KEYS", "ENCODERS", "EncoderFormat", "add_encoder"]

_LABELLED = ("sequence_classification", "token_classification")
# our config key -> BERT's, where the value is the same
BERT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "initializer_std": "initializer_range",
    "layer_norm_eps": "layer_norm_eps",
    "pad_token_id": "pad_token_id",
    "tie_word_embeddings": "tie_word_embeddings",
}
_LABEL_KEYS = ("id2label", "label2id", "problem_type")
# What every such model is in our terms: read so, and needed to write.
_FIXED = {
    "position": "absolute",
    "decoder_layers": 0,
    "initializer": "normal",
    "cls_token_type_id": 0,
    "default_token_type_id": 0,
    "padding": "exact",
}
# Of these, what a model with another value computes differs, but not its tensors.
_BY_FLAG = ("cls_token_type_id", "default_token_type_id", "padding")
_WRITTEN_ANYHOW = ("initializer",)
# Their options that we do not have -> the values that are none.
_REFUSED: Mapping[str, Sequence[Any]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}
_OLD_NORM = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")
_NEW_NORM = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class EncoderFormat:
    """One family of models of transformers.

    name: its `model_type`, and what `convert --to` says. title: its name in sentences.
    prefix: of the body's tensors in a model with a head.
    architectures: transformers' class -> our architecture; the first of each is written.
    heads: our architecture -> its rows; body_heads: those of them whose names carry the prefix.
    lm_decoder, lm_bias: their names of the masked-LM decoder's module, and of its bias where it is tied.
    poolers: the architectures whose class has a pooler that ours does not read: an identity when written.
    keys: our config key -> theirs. fixed: our config key -> its one value.
    head_fixed: architecture -> the same, of that head alone. refused: as `_REFUSED`.
    head_keys: architecture -> our config key -> theirs.
    projection: rows of the layer after the embedding, where a model has one.
    positions_after_padding: positions count from `pad_token_id` + 1 on.
    classifier_activation: of its heads for sequences, also of one that is yet to be trained.
    zeros: our tensors that theirs has not -> shape: zeros when read.
    unread: patterns of their tensors that nothing reads -> why.
    """

    name: str
    title: str
    config_class: type[Any]
    prefix: str
    architectures: Mapping[str, str]
    layer: list[Row]
    heads: Mapping[str, list[Row]]
    body_heads: Mapping[str, list[Row]] = field(default_factory=dict)
    embeddings: list[Row] = field(default_factory=lambda: EMBEDDINGS)
    projection: list[Row] = field(default_factory=list)
    lm_decoder: str = "cls.predictions.decoder"
    lm_bias: str = "cls.predictions.bias"
    poolers: tuple[str, ...] = ()
    num_layers: str = "num_hidden_layers"
    keys: Mapping[str, str] = field(default_factory=lambda: BERT_KEYS)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    head_fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    head_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refused: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    head_refused: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    classifier_activation: str = "tanh"
    zeros: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    positions_after_padding: bool = False

    def load(self, folder: str | Path) -> Loaded:
        """Read a folder that transformers saved, of any class of the family.

        A class with a head that we do not have leaves the body, "model".
        Raises UserError naming the file and the key or tensor.
        """
        folder = Path(folder)
        path = folder / "config.json"
        theirs = read_json(path)
        named = self._named(theirs, str(path))
        self.config_from_theirs(theirs, str(path), named)  # before the long work
        weights = find_weights(folder)
        original = read_state_dict(weights, mapped=True)
        state, old_names = _modern(original, weights)
        prefix = self.prefix if any(name.startswith(self.prefix) for name in state) else ""
        architecture = named or self._by_tensors(state, prefix)
        config = self.config_from_theirs(theirs, str(path), architecture)
        if architecture in _LABELLED and theirs.keys().isdisjoint(LABEL_KEYS):
            bias = next(row for row in self.heads[architecture] if row.our_shape == "L")
            if bias.theirs in state:
                config.num_labels = state[bias.theirs].numel()
        if architecture == "masked_lm" and not self._is_tied(config, state, prefix):
            config.tie_word_embeddings = False
        table = self._table(config, architecture, prefix, state)
        ours, ignored = to_ours(state, table, self._ignorable(architecture, prefix), str(weights))
        like = next(iter(ours.values()))
        for name, shape in self._zeros(config, architecture).items():
            ours[name] = like.new_zeros(shape)
        restored = {ours: old_names.get(name, name) for ours, name in names(table).items()}
        return Loaded(config, ours, architecture, ignored, self.name, folder, restored)

    def export(self, config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str) -> Exported:
        """Translate a model.

        A pooler that the class has and ours has not is written as an identity.
        Raises UserError naming every option that the format cannot hold.
        """
        theirs = self.config_to_theirs(config, architecture)
        prefix = "" if architecture == "model" else self.prefix
        ignorable = {}
        for name in self._zeros(config, architecture):
            if name in state and bool(state[name].any()):
                raise UserError(f"{self.title} cannot hold tensor {name!r}, which is not zero")
            ignorable[re.escape(name)] = "zeros"
        if config.tie_word_embeddings:
            ignorable[r"lm_head\.decoder\.weight"] = "tied to the word embeddings"
        table = self._table(config, architecture, prefix)
        tensors, ignored = from_ours(state, table, ignorable)
        if architecture in self.poolers:
            like = next(iter(tensors.values()))
            tensors[f"{prefix}pooler.dense.weight"] = torch.eye(config.hidden_size, dtype=like.dtype)
            tensors[f"{prefix}pooler.dense.bias"] = torch.zeros(config.hidden_size, dtype=like.dtype)
        if architecture == "masked_lm" and f"{self.lm_decoder}.bias" in tensors:
            tensors[self.lm_bias] = tensors[f"{self.lm_decoder}.bias"]
        return Exported(theirs, tensors, ignored, names(table), architecture)

    def save(
        self,
        config: FunnelformerConfig,
        state: Mapping[str, Tensor],
        architecture: str,
        folder: str | Path,
    ) -> dict[str, str]:
        """Write `config.json` and `model.safetensors` for stock transformers; returns and raises as `export`."""
        theirs, tensors, ignored, *_ = self.export(config, state, architecture)
        write_model(theirs, tensors, folder)
        return ignored

    def class_name(self, architecture: str) -> str:
        """The class of transformers for one of our architectures."""
        return next(name for name, ours in self.architectures.items() if ours == architecture)

    def config_from_theirs(
        self, theirs: Mapping[str, Any], source: str, architecture: str | None = None
    ) -> FunnelformerConfig:
        """Translate the content of a `config.json`; architecture: ours, by default the one it names.

        Raises UserError naming `source` and the key.
        """
        architecture = architecture or self._named(theirs, source) or "model"
        refused = {**_REFUSED, **self.refused, **self.head_refused.get(architecture, {})}
        for key, allowed in refused.items():
            value = theirs.get(key, allowed[0])
            if value not in allowed:
                given = " or ".join(repr(choice) for choice in allowed if choice is not None) or "nothing"
                raise UserError(f"{source}: {key} is {value!r}; allowed: {given}")
        keys = {**self.keys, **self.head_keys.get(architecture, {})}
        try:
            parsed = self.config_class.from_dict(with_classes(theirs, source))
            values = {ours: getattr(parsed, name) for ours, name in keys.items()}
            values |= {key: getattr(parsed, key) for key in _LABEL_KEYS}
            layers = getattr(parsed, self.num_layers)
        except UserError:
            raise
        except (StrictDataclassError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise UserError(f"{source}: {joined(error)}") from error
        width, heads = values["hidden_size"], values.get("num_attention_heads")
        for name, value in (
            (self.num_layers, layers),
            (keys["hidden_size"], width),
            (keys.get("num_attention_heads", ""), heads),
        ):
            if name and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"{source}: {name} is {value!r}; allowed: 1 or more")
        if heads is None:  # nothing reads them
            values["num_attention_heads"] = width // math.gcd(width, 64)
        elif width % heads:
            raise UserError(
                f"{source}: {keys['hidden_size']} {width} is not a multiple of {keys['num_attention_heads']} {heads}"
            )
        values["head_size"] = width // values["num_attention_heads"]
        if self.positions_after_padding:
            padding, positions = values["pad_token_id"], values["max_position_embeddings"]
            if padding is None or padding < 0 or positions <= padding + 1:
                raise UserError(
                    f"{source}: max_position_embeddings {positions} leaves none after pad_token_id {padding}"
                )
            values["max_position_embeddings"] = positions - padding - 1
        for key, value in self.head_fixed.get(architecture, {}).items():
            if values.setdefault(key, value) != value:
                raise UserError(f"{source}: {keys[key]} is {values[key]!r}; allowed: {value!r}")
        values.setdefault("classifier_activation", self.classifier_activation)
        return make_config({**_FIXED, **self.fixed, **values, "blocks": [layers]}, source, keys)

    def config_to_theirs(self, config: FunnelformerConfig, architecture: str) -> Any:
        """Translate a config, naming the class in `architectures`.

        Raises UserError naming every option that the format cannot hold; those that change what a model computes, not
        its tensors, need the user's word.
        """
        if architecture not in self.architectures.values():
            raise UserError(f"{self.title} has no model for {architecture.replace('_', ' ')}")
        fixed = {**_FIXED, **self.fixed, **self.head_fixed.get(architecture, {})}
        keys = {**self.keys, **self.head_keys.get(architecture, {})}
        allowed: dict[str, Sequence[Any]] = {
            "blocks": [[config.num_hidden_layers]],
            "repeats": [[1]],
            "mixer": ["attention", ["attention"]],
            "project_embeddings": [False],
            "activation_dropout": [0.0],
            "hide_mask_tokens": [False],
        }
        if "embedding_size" not in keys:
            allowed["embedding_size"] = [config.hidden_size]
        if "num_attention_heads" in keys:
            allowed["head_size"] = [config.hidden_size / config.num_attention_heads]
        if self.positions_after_padding and config.pad_token_id is None:
            allowed["pad_token_id"] = [0]
        if architecture == "masked_lm":
            allowed["mlm_head"] = ["dense"]
        if architecture in SEQUENCE_HEADS:
            allowed["classifier_pooling"] = ["cls"]
            allowed["classifier_head"] = ["dense"]
            if "classifier_activation" not in keys:
                allowed["classifier_activation"] = [self.classifier_activation]
        if architecture == "question_answering":
            allowed["qa_head"] = ["simple"]
        by_flag = {key: fixed.pop(key) for key in _BY_FLAG}
        for key, value in fixed.items():
            if key not in _WRITTEN_ANYHOW:
                allowed[key] = [value, [value]] if key == "mixer" else [value]
        check_holds(config, self.title, allowed, by_flag)
        values = {name: getattr(config, ours) for ours, name in keys.items()}
        values |= {key: getattr(config, key) for key in _LABEL_KEYS}
        rate = keys.get("classifier_dropout")
        if rate and rate != "classifier_dropout" and values[rate] is None:  # theirs has no other default
            values[rate] = config.hidden_dropout
        if self.positions_after_padding:
            values["max_position_embeddings"] += values["pad_token_id"] + 1
        values[self.num_layers] = config.num_hidden_layers
        return self.config_class(**values, architectures=[self.class_name(architecture)])

    def _named(self, theirs: Mapping[str, Any], source: str) -> str | None:
        """The architecture that a config names; None where it names none."""
        given = theirs.get("architectures")
        if not given:
            return None
        if not isinstance(given, list) or not isinstance(given[0], str):
            raise UserError(f"{source}: architectures is {given!r}; allowed: a list with the name of a class")
        return self.architectures.get(given[0], "model")

    def _by_tensors(self, state: Mapping[str, Tensor], prefix: str) -> str:
        for architecture in dict.fromkeys(self.architectures.values()):
            rows = [row.theirs for row in self.heads.get(architecture, [])]
            rows += [prefix + row.theirs for row in self.body_heads.get(architecture, [])]
            if rows and all(name in state for name in rows):
                return architecture
        return "model"

    def _is_tied(self, config: FunnelformerConfig, state: Mapping[str, Tensor], prefix: str) -> bool:
        """Whether the decoder has the word embeddings; a file that holds another one counts more than its config."""
        decoder = state.get(f"{self.lm_decoder}.weight")
        embeddings = state.get(f"{prefix}embeddings.word_embeddings.weight")
        if decoder is None or embeddings is None or decoder is embeddings:
            return bool(config.tie_word_embeddings)
        return bool(config.tie_word_embeddings) and torch.equal(decoder, embeddings)

    def _table(
        self,
        config: FunnelformerConfig,
        architecture: str,
        prefix: str,
        state: Mapping[str, Tensor] | None = None,
    ) -> list[Row]:
        """All rows; state: theirs, which decides between two names of one tensor."""
        ours = "" if architecture == "model" else "funnelformer."
        rows = expand(self.embeddings, config, ours, prefix)
        if config.has_embedding_projection:
            rows += expand(self.projection, config, ours, prefix)
        for k, block, layer in encoder_layers(config):
            rows += expand(self.layer, config, f"{ours}encoder.blocks.{block}.{layer}.", prefix, k=k)
        rows += expand(self.body_heads.get(architecture, []), config, theirs=prefix)
        rows += expand(self.heads.get(architecture, []), config)
        if architecture == "masked_lm":
            rows += expand(self._decoder(config, state), config)
        return rows

    def _decoder(self, config: FunnelformerConfig, state: Mapping[str, Tensor] | None) -> list[Row]:
        """The decoder's rows; an old file holds its bias under one of two names."""
        candidates = [self.lm_bias, f"{self.lm_decoder}.bias"]
        if not config.tie_word_embeddings:
            candidates.reverse()
        name = next((name for name in candidates if state is None or name in state), candidates[0])
        rows = [Row("lm_head.decoder.bias", "V", name)]
        if not config.tie_word_embeddings:
            rows.append(Row("lm_head.decoder.weight", "V De", f"{self.lm_decoder}.weight"))
        return rows

    def _zeros(self, config: FunnelformerConfig, architecture: str) -> dict[str, tuple[int, ...]]:
        ours = "" if architecture == "model" else "funnelformer."
        rows = [Row(name, shape, "") for name, shape in self.zeros.items()]
        return {row.ours: row.shape("ours") for row in expand(rows, config, ours)}

    def _ignorable(self, architecture: str, prefix: str) -> dict[str, str]:
        body = re.escape(prefix)
        reasons = {
            rf"{body}embeddings\.(position|token_type)_ids": "numbers that are the same in every model",
            rf"{body}pooler\..*": "the pooler belongs to heads for whole sequences",
            r"cls\.seq_relationship\..*": "the head for pairs of sentences: not loaded",
            **self.unread,
        }
        if architecture == "masked_lm":
            reasons[re.escape(f"{self.lm_decoder}.weight")] = "tied to the word embeddings"
            reasons[re.escape(f"{self.lm_decoder}.bias")] = f"the same as {self.lm_bias}"
            reasons[re.escape(self.lm_bias)] = f"the same as {self.lm_decoder}.bias"
        if prefix:
            reasons[rf"(?!{body}).*"] = "belongs to a head that is not loaded"
        return reasons


def _modern(state: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Files older than 2020 say gamma and beta for a LayerNorm's weight and bias; new name -> old one."""
    old = {
        _OLD_NORM.sub(lambda match: _NEW_NORM[match[0]], name): name
        for name in state
        if _OLD_NORM.search(name)
    }
    twice = old.keys() & state.keys()
    if twice:
        name = min(twice)
        raise UserError(f"{source}: holds both {name!r} and {old[name]!r}")
    gone = set(old.values())
    kept = {name: tensor for name, tensor in state.items() if name not in gone}
    return kept | {name: state[theirs] for name, theirs in old.items()}, old


# transformers' encoders, by their model_type
ENCODERS: dict[str, EncoderFormat] = {}


def add_encoder(form: EncoderFormat) -> None:
    """Add one of transformers' encoders to the table of forms, read and written under its `model_type`."""
    ENCODERS[form.name] = form
    add_form(form.name, form, model_type=form.name, to=form.name)
