"""`FunnelformerConfig`: what a model is made of, and the grammar of the papers' names (`B4-4-4H768`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from ..base.errors import UserError, did_you_mean, reject_unknown
from ..base.foreign_code import without_own_code
from ..base.foreign_models import reader
from ..base.version import VERSION_KEY, stamped
from .model_options import FOREIGN_KEYS, MIXERS, ModelOptions, check_dtype

__all__ = ["MIXERS", "PRESETS", "FunnelformerConfig", "own_options", "parse_layout", "parse_name"]

GRAMMAR = (
    "a name is B<layers>[x<repeats>]-...H<width> or L<layers>H<width>, "
    "as in B4-4-4H768, B6-3x2-3x2H768, L12H768"
)
_LABELS = ("id2label", "label2id")
_LAYOUT = re.compile(r"(?:L(?P<flat>\d+)|B(?P<blocks>\d+(?:x\d+)?(?:-\d+(?:x\d+)?)*))(?:H(?P<width>\d+))?")

# The released Funnel-Transformers (https://huggingface.co/funnel-transformer) and the standard
# Transformers they are compared with (paper, tables 1 and 2).
_RELEASED = {
    "small": "B4-4-4H768",
    "medium": "B6-3x2-3x2H768",
    "intermediate": "B6-6-6H768",
    "large": "B8-8-8H1024",
    "xlarge": "B10-10-10H1024",
}
# What PoNet and FNet took over from BERT.
_BERT = {"position": "absolute", "layer_norm_eps": 1e-12, "default_token_type_id": 0}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"funnel-{size}": (name, {"decoder_layers": 2}) for size, name in _RELEASED.items()},
    **{f"funnel-{size}-base": (name, {"decoder_layers": 0}) for size, name in _RELEASED.items()},
    "transformer-base": ("L12H768", {}),
    "transformer-large": ("L24H1024", {}),
    "PoNet-base": ("L12H768", {**_BERT, "mixer": "ponet", "hidden_act": "gelu"}),
    "FNet-base": ("L12H768", {**_BERT, "mixer": "fourier", "project_embeddings": True}),
    "Hybrid-4-4-4H768": ("B4-4-4H768", {"mixer": ["ponet", "attention", "attention"]}),
    # Like TITE (Schlatt et al. 2025): halved before each layer from the fourth on, [CLS] too, so that up to 512 tokens
    # become one state.
    "one-vector-base": (
        "B3-1-1-1-1-1-1-1-1-1H768",
        {"decoder_layers": 0, "separate_cls": False, "classifier_pooling": "mean_tokens"},
    ),
}


def parse_name(name: str) -> dict[str, Any]:
    """Translate a layout in the paper's notation ("B4-4-4H768"), or the name of a preset, into config arguments.

    Attention heads are 64 wide, as in the papers, if 64 divides the model width; otherwise 32, 16 or 8 wide. The
    feed-forward layer is four times as wide as the model.
    Raises UserError, showing the grammar, if the name cannot be read or the width is not a multiple of 8.
    Source: Dai et al. 2020, section 3.1 (notation of tables 1 and 2).
    """
    if name in PRESETS:
        base, extra = PRESETS[name]
        return {**parse_name(base), **extra}
    blocks, repeats, width = _read_layout(name) or ([], [], None)
    if width is None:
        hint = did_you_mean(name, [*PRESETS, *_RELEASED.values()])
        raise UserError(f"model name {name!r} cannot be read: {GRAMMAR}; presets: {', '.join(PRESETS)}{hint}")
    if min(*blocks, *repeats, width) < 1:
        raise UserError(f"model name {name!r}: layers, repeats and width must be at least 1; {GRAMMAR}")
    head_size = next((size for size in (64, 32, 16, 8) if width % size == 0), None)
    if head_size is None:
        raise UserError(f"model name {name!r}: the width {width} is not a multiple of 8")
    return {
        "blocks": blocks,
        "repeats": repeats,
        "hidden_size": width,
        "num_attention_heads": width // head_size,
        "head_size": head_size,
        "intermediate_size": 4 * width,
    }


def parse_layout(name: str) -> tuple[list[int], list[int], int | None]:
    """Return the blocks, their repeats and the width (None if not given) of a layout such as "B2-2-2".

    Raises UserError, showing the grammar, if the layout cannot be read.
    """
    layout = _read_layout(name)
    if layout is None:
        raise UserError(
            f"layout {name!r} cannot be read: a layout is B<layers>[x<repeats>]-... or L<layers>, with H<width> or "
            "without, as in B2-2-2, B4-4x2H768, L3"
        )
    if min(*layout[0], *layout[1]) < 1:
        raise UserError(f"layout {name!r}: layers and repeats must be at least 1")
    return layout


def _read_layout(name: str) -> tuple[list[int], list[int], int | None] | None:
    match = _LAYOUT.fullmatch(name)
    if match is None:
        return None
    pairs = [part.split("x") for part in (match["flat"] or match["blocks"]).split("-")]
    repeats = [int(pair[1]) if len(pair) == 2 else 1 for pair in pairs]
    return [int(pair[0]) for pair in pairs], repeats, None if match["width"] is None else int(match["width"])


def own_options(values: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The options in the content of a config.json of ours: all its keys, apart from names of this package's own code.

    Raises UserError naming the file if it says that the weights are quantised.
    """
    if values.get("quantization_config") is not None:
        raise UserError(
            f"{file}: quantization_config is given; allowed: none, because quantised weights cannot be read"
        )
    return without_own_code(values)


class FunnelformerConfig(ModelOptions, PreTrainedConfig):
    r"""Configuration of every funnelformer model. Unknown keys are errors.

    Shape of the encoder:
        blocks: number of layers with own parameters in each block; the sequence is halved between two blocks.
        repeats: how often each layer of a block is applied (`B6-3x2-3x2` is `repeats=[1, 2, 2]`); by default once.
        mixer: the token mixer, "attention", "ponet" or "fourier": one name, or a list with one for each block. The
            decoder has the mixer of the first block.
        hidden_size, num_attention_heads, head_size, intermediate_size: D, H, E and the feed-forward width.
        embedding_size: width of the token embeddings; a projection follows when it is not `hidden_size`,
            or with project_embeddings (FNet).
        decoder_layers: layers at full length after the encoder; by default 2, or 0 if there is one block.
        decoder_repeats: how often each decoder layer is applied.
        decoder_skip_state: index of the hidden states that are added to the upsampled ones; by default the last of
            block 1.

    Shortening (paper, section 2.2; the ablations of its section 3.3):
        pooling: "mean", "max", or "top" (keep the half of the tokens that received the most attention; the
            layer that decides this runs the reference attention, because only that returns the weights).
        pool_q_only: pool only the queries of a block's first layer; keys and values are the unpooled sequence.
        separate_cls: the first token is never pooled, and its attention scores have no position and segment terms.
        truncate_seq: drop the last token before pooling, so that a length of 2^k becomes 2^(k-1) although the first
            token is apart.
        padding: how a pooling window that is partly padding counts. "exact": only its real tokens count, so a
            sequence's output does not depend on the rest of the batch. "original": the window is real if any token in
            it is, and means include the padding. "transformers": it is real if all its tokens are. Checkpoints
            converted from these two sources keep their behaviour.

    Position and segments:
        position: "relative" (a term of the attention scores) or "absolute" (learned, added to the embedding).
        max_position_embeddings: the longest input in tokens, with absolute positions.
        default_token_type_id: the segment of every token if `token_type_ids` is not given; None: the attention scores
            then have no segment term.
        cls_token_type_id: the segment of [CLS], which counts as equal to every other segment.
        type_vocab_size: number of segment embeddings, with absolute positions; by default cls_token_type_id + 1.

    PoNet:
        ponet_segments: what a segment is: the text between two special tokens ("separators"); such text, also cut
            after each of sentence_end_token_ids ("sentences"); or pieces of equal length ("chunks").
        ponet_num_segments: number of chunks per sequence. ponet_chunk_length: tokens per chunk, in place of it.
        cls_token_id, sep_token_id: ids of the tokenizer's special tokens.
        ponet_special_apart: these two tokens take part in neither segments nor windows.

    Speed:
        unpad: compute a padded batch without its padding. The states of real tokens stay the same, those of padding
            are zeros. It is faster if the lengths in a batch differ. Needs padding "exact"; graphs of torch.compile
            keep the padding.

    Training:
        hidden_dropout, attention_dropout, activation_dropout, classifier_dropout: probabilities, 0 <= p < 1;
            classifier_dropout is hidden_dropout by default.
        initializer: "truncated_normal" or "normal", with deviation initializer_std, or "uniform", within
            ± initializer_range.

    Heads:
        mlm_head: "dense" (dense, activation, LayerNorm, tied embedding, bias: the paper's) or "linear" (tied embedding
            and bias: transformers' Funnel).
        sparse_prediction: if labels are given, compute logits only at the labelled positions.
        hide_mask_tokens: a masked language model treats mask_token_id as padding, as the MLM graph of the original
            code does.
        classifier_pooling: the vector that a sequence head reads: the state of the first token ("cls", the paper's),
            the mean over the encoder's real states ("mean"), or the mean weighted by the number of real tokens that
            each state holds ("mean_tokens"; equal to "mean" if nothing is pooled).
        classifier_head: "dense" (dense, classifier_activation, dropout, linear: the paper's) or "linear" (dropout,
            linear). classifier_activation: "tanh" (the paper's), or that of another family of models.
        qa_head: "simple" (a linear layer for start and end: transformers' Funnel) or "conditional" (the end given the
            start, and whether there is an answer: the paper's). qa_start_beam, qa_end_beam: how many starts the
            conditional head considers, and how many ends for each.

    Replaced-token pretraining (ELECTRA):
        generator_size: hidden_size, intermediate_size and num_attention_heads of the generator, as a share of the
            discriminator's. discriminator_weight: factor of the discriminator's loss in the sum.

    Vectors of texts:
        sentence_embedding: how a text becomes a vector, if the encoder was trained for that: pooling (as
            classifier_pooling), normalize, max_length, prompts, default_prompt, similarity, see `sentence_modules`.

    Origin:
        made_from: the model whose layers were rearranged into this one, see `checkpoints.shortening`.

    Raises UserError naming the key, for an unknown one or a value that is not allowed.
    Source: Dai et al. 2020, arXiv:2006.03236.
    """

    model_type = "funnelformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "attentions"]

    def __post_init__(self, **kwargs: Any) -> None:
        known = {field.name for field in fields(self)}
        reject_unknown(kwargs.keys() - set(FOREIGN_KEYS), known, "model config")
        kwargs.pop("model_type", None)
        kwargs.pop(VERSION_KEY, None)
        for value in (self.dtype, kwargs.get("torch_dtype")):
            check_dtype(value)
        # an export's config.json has num_hidden_layers, for programs that know no other key
        self._complete(kwargs.pop("num_hidden_layers", None), kwargs.get("num_labels"))
        super().__post_init__(**kwargs)

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> FunnelformerConfig:
        """Build a config from a name such as "B6-3x2-3x2H768" or a preset ("funnel-small"), then apply `overrides`.

        Raises UserError, showing the grammar, if the name cannot be read, or naming an unknown override.
        """
        return cls(**{**parse_name(name), **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but an unknown keyword raises UserError unless `return_unused_kwargs` is True."""
        known = {field.name for field in fields(cls)}
        number = kwargs.get("num_labels")
        if not kwargs.keys().isdisjoint(_LABELS) or number not in (
            None,
            len(config_dict.get("id2label") or ()),
        ):
            # All names are the caller's: the file's would be of other classes.
            config_dict = {
                key: value for key, value in config_dict.items() if key not in (*_LABELS, "num_labels")
            }
        config_dict = {
            **without_own_code(config_dict),
            **{key: kwargs.pop(key) for key in known & kwargs.keys() if key != "dtype"},
        }
        if kwargs.get("return_unused_kwargs"):
            return super().from_dict(config_dict, **kwargs)
        config, unused = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
        reject_unknown(unused, known, "model config")
        return config

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers, and the config of a model of another family (BERT, say) is translated.

        Raises UserError naming the file, and the key whose value is not allowed.
        """
        subfolder = kwargs.get("subfolder") or ""
        values, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        name = str(pretrained_model_name_or_path)
        file = name if os.path.isfile(name) else os.path.join(name, subfolder, "config.json")
        if values.get("model_type", cls.model_type) != cls.model_type:
            return reader().translated(values, file).to_dict(), kwargs
        options = own_options(values, file)
        try:
            cls(**options)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        return values, kwargs

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with this package's version added."""
        return stamped(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """As in transformers, with this package's version added."""
        return stamped(super().to_diff_dict())


AutoConfig.register(FunnelformerConfig.model_type, FunnelformerConfig)
