"""`FunnelformerConfig`: what a model is made of, and the grammar of the papers' names (`B4-4-4H768`)."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from ..base.errors import UserError, did_you_mean, reject_unknown
from ..base.foreign_code import without_own_code
from ..base.foreign_models import reader
from ..base.version import VERSION_KEY, stamped
from .model_options import FOREIGN_KEYS, MIXERS, ModelOptions, check_dtype

__all__ = ["MIXERS", "PRESETS", "FunnelformerConfig", "parse_layout", "parse_name"]

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
# What PoNet and FNet have of BERT.
_BERT = {"position": "absolute", "layer_norm_eps": 1e-12, "default_token_type_id": 0}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"funnel-{size}": (name, {"decoder_layers": 2}) for size, name in _RELEASED.items()},
    **{f"funnel-{size}-base": (name, {"decoder_layers": 0}) for size, name in _RELEASED.items()},
    "transformer-base": ("L12H768", {}),
    "transformer-large": ("L24H1024", {}),
    "PoNet-base": ("L12H768", {**_BERT, "mixer": "ponet", "hidden_act": "gelu"}),
    "FNet-base": ("L12H768", {**_BERT, "mixer": "fourier", "project_embeddings": True}),
    "Hybrid-4-4-4H768": ("B4-4-4H768", {"mixer": ["ponet", "attention", "attention"]}),
    # As TITE (Schlatt et al. 2025) a half from the fourth layer on, [CLS] too: up to 512 tokens end in one state.
    "one-vector-base": (
        "B3-1-1-1-1-1-1-1-1-1H768",
        {"decoder_layers": 0, "separate_cls": False, "classifier_pooling": "mean_tokens"},
    ),
}


def parse_name(name: str) -> dict[str, Any]:
    """Translate a name of the paper's grammar, or a preset, into config arguments.

    Heads are 64 wide (the papers' choice) where the width allows, else the widest power of two down to 8
    that divides it. The feed-forward layer is four times the width.
    Raises UserError that shows the grammar.
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
    """The blocks, their repeats and the width (None where the name has none) of a layout such as "B2-2-2".

    Raises UserError that shows the grammar.
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


class FunnelformerConfig(ModelOptions, PreTrainedConfig):
    r"""Configuration of every funnelformer model. Unknown keys are errors.

    Shape of the encoder:
        blocks: parameter layers of each block; between two blocks the sequence is halved.
        repeats: times each layer of a block is applied (`B6-3x2-3x2` is `repeats=[1, 2, 2]`); default all 1.
        mixer: token mixer, "attention", "ponet" or "fourier", one name, or one for each block; the decoder's is
            that of the first block.
        hidden_size, num_attention_heads, head_size, intermediate_size: D, H, E and the feed-forward width.
        embedding_size: width of the token embeddings; a projection follows when it is not `hidden_size`,
            or with project_embeddings (FNet).
        decoder_layers: layers at full length after the encoder; default 2, or 0 when there is one block.
        decoder_repeats: times each decoder layer is applied.
        decoder_skip_state: index of the hidden state added to the upsampled ones; default the last of block 1.

    Shortening (paper, section 2.2; the ablations of its section 3.3):
        pooling: "mean", "max", or "top" (keep the half of the tokens that received the most attention; the
            layer that decides it runs the reference attention, which gives the weights).
        pool_q_only: the first layer of a block reads the unpooled sequence (keys and values).
        separate_cls: the first token is never pooled, and has neither position nor segment score.
        truncate_seq: drop the last token before pooling, so that a length 2^k stays 2^(k-1).
        padding: what a half-padded window is. "exact": only real tokens count, so a sequence's output does not
            depend on the batch around it; "original": real if any member is, averages include the padding;
            "transformers": real if all members are. Checkpoints of the last two keep their source's behaviour.

    Position and segments:
        position: "relative" (in the attention score) or "absolute" (learned, added to the embedding).
        max_position_embeddings: the longest input with absolute positions.
        default_token_type_id: segment of every token when `token_type_ids` is not given; None: no segment score.
        cls_token_type_id: the segment that counts as the same as every other.
        type_vocab_size: segments that have an embedding with absolute positions; default up to cls_token_type_id.

    PoNet: ponet_segments, what its segments are: the text between two special tokens ("separators"), also ended
        by one of sentence_end_token_ids ("sentences"), or pieces ("chunks"): ponet_num_segments of each sequence, or
        of ponet_chunk_length tokens each where that is given; cls_token_id and sep_token_id, the tokenizer's;
        ponet_special_apart: those two take part in neither segments nor windows.

    Speed: unpad: compute padded batches without their padding, which changes no state of a real token (those of
        padding are zeros); it gains where lengths in a batch differ. Needs padding "exact"; graphs of
        torch.compile keep the padding.

    Training: hidden_dropout, attention_dropout, activation_dropout, classifier_dropout (default hidden_dropout),
        initializer ("truncated_normal", "normal": initializer_std; "uniform": ± initializer_range).

    Heads: mlm_head "dense" (dense, activation, LayerNorm, tied embedding, bias: the paper's) or "linear" (tied
        embedding and bias: transformers' Funnel); sparse_prediction: with labels compute logits at the
        labelled positions alone; hide_mask_tokens: a model that predicts hidden tokens treats mask_token_id as
        padding, as the original's MLM graph. classifier_pooling: what a sequence head reads, the first token
        ("cls", the paper's), the mean of the encoder's real states ("mean"), or that mean with each state counted as
        often as the real tokens it holds ("mean_tokens"; the mean over tokens where nothing is pooled);
        classifier_head: of that vector, "dense" (dense, classifier_activation, dropout, linear: the paper's) or
        "linear" (dropout and linear alone); classifier_activation: "tanh" (the paper's), or what another family has.
        qa_head: of
        question answering, "simple" (a linear layer for start and end: transformers' Funnel) or "conditional" (the
        end given the start, and whether there is an answer: the paper's); qa_start_beam, qa_end_beam: the best starts,
        and ends of each, it looks at.

    Replaced-token pretraining: generator_size: the generator's share of hidden_size, intermediate_size and
        num_attention_heads; discriminator_weight: of the discriminator's loss in the sum.

    Vectors of texts: sentence_embedding: of an encoder that was trained to give them, how a text becomes one: pooling
        (as classifier_pooling), normalize, max_length, prompts, default_prompt, similarity, see `sentence_modules`.

    Origin: made_from: of a model whose layers were dealt anew, what they were, see `checkpoints.shortening`.

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
        # an export says the layers to those who read nothing else
        self._complete(kwargs.pop("num_hidden_layers", None), kwargs.get("num_labels"))
        super().__post_init__(**kwargs)

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> FunnelformerConfig:
        """Build a config from a name such as "B6-3x2-3x2H768" or a preset ("funnel-small"), then apply `overrides`.

        Raises UserError showing the grammar when the name cannot be read, or naming an unknown override.
        """
        return cls(**{**parse_name(name), **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but a keyword that is no config key is an error unless the caller asks for it back."""
        known = {field.name for field in fields(cls)}
        number = kwargs.get("num_labels")
        if not kwargs.keys().isdisjoint(_LABELS) or number not in (
            None,
            len(config_dict.get("id2label") or ()),
        ):
            # names from the caller, and not half of them from the file
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
        """As in transformers; the config of another family's model is translated.

        Raises UserError naming the file, and the key of a value that cannot be.
        """
        subfolder = kwargs.get("subfolder") or ""
        values, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        name = str(pretrained_model_name_or_path)
        file = name if os.path.isfile(name) else os.path.join(name, subfolder, "config.json")
        if values.get("model_type", cls.model_type) != cls.model_type:
            return reader().translated(values, file).to_dict(), kwargs
        try:
            if values.get("quantization_config") is not None:
                raise UserError(
                    "quantization_config is given; allowed: none, as quantised weights are not read"
                )
            cls(**without_own_code(values))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        return values, kwargs

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the version of this package."""
        return stamped(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """As in transformers, with the version of this package."""
        return stamped(super().to_diff_dict())


AutoConfig.register(FunnelformerConfig.model_type, FunnelformerConfig)
