"""`FunnelformerConfig`: what a model is made of, and the grammar of the papers' names (`B4-4-4H768`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar, get_args

from transformers import AutoConfig, PreTrainedConfig

from .base.errors import UserError, did_you_mean, reject_unknown, short
from .base.foreign_code import without_own_code
from .base.foreign_models import reader
from .base.sentence_modules import Pooling, SentenceEmbedding
from .base.version import VERSION_KEY, stamped

__all__ = ["MIXERS", "PRESETS", "FunnelformerConfig", "parse_layout", "parse_name"]

# The table of token mixers: a name, and where its class is. See `mixers.Mixer` for what the class must offer.
MIXERS = {
    "attention": "funnelformer.mixers.attention:Attention",
    "ponet": "funnelformer.mixers.ponet:PoNet",
    "fourier": "funnelformer.mixers.fourier:Fourier",
}
_CHOICES = {
    "pooling": ("mean", "max", "top"),
    "padding": ("exact", "original", "transformers"),
    "position": ("relative", "absolute"),
    "initializer": ("truncated_normal", "normal", "uniform"),
    "mlm_head": ("dense", "linear"),
    "classifier_pooling": get_args(Pooling),
    "classifier_head": ("dense", "linear"),
    "classifier_activation": ("tanh", "gelu", "gelu_new", "relu", "silu", "linear"),
    "qa_head": ("simple", "conditional"),
    "ponet_segments": ("separators", "sentences", "chunks"),
}
_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
_MOST = 1 << 31  # of anything that is counted, or is an id


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MOST < value < _MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_list_of(kind: type, values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)


def _are_numbered(labels: dict[Any, Any]) -> bool:
    """Whether names have the numbers from 0 on, which raw JSON has as text."""
    return {str(number) for number in labels} == {str(number) for number in range(len(labels))} and all(
        isinstance(name, str) for name in labels.values()
    )


# Of fields with these annotations: what is a right value, and what that is called.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true, false"),
    "int": (_is_count, "a whole number"),
    "int | None": (lambda value: value is None or _is_count(value), "a whole number, null"),
    "float": (_is_number, "a finite number"),
    "float | None": (lambda value: value is None or _is_number(value), "a finite number, null"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "str | list[str]": (lambda value: isinstance(value, str) or _is_list_of(str, value), "a name, names"),
    "list[int] | None": (
        lambda value: value is None or (isinstance(value, list | tuple) and all(map(_is_count, value))),
        "a list of whole numbers, null",
    ),
}
# What transformers itself passes or stores beside our own fields.
_FOREIGN_KEYS = (
    "model_type",
    "num_labels",
    "num_hidden_layers",  # said by an export, and the sum of blocks
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "output_attentions",
    "torch_dtype",
    VERSION_KEY,
    "auto_map",
    "custom_pipelines",
    "quantization_config",
    "use_cache",  # the Trainer sets it on every config
    "sentence_transformers",  # what its CrossEncoder does with scores
)

GRAMMAR = (
    "a name is B<layers>[x<repeats>]-...H<width> or L<layers>H<width>, "
    "as in B4-4-4H768, B6-3x2-3x2H768, L12H768"
)
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


class FunnelformerConfig(PreTrainedConfig):
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

    vocab_size: int = 30522
    blocks: list[int] | tuple[int, ...] = (4, 4, 4)
    repeats: list[int] | tuple[int, ...] | None = None
    mixer: str | list[str] = "attention"
    hidden_size: int = 768
    embedding_size: int | None = None
    num_attention_heads: int = 12
    head_size: int = 64
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    decoder_layers: int | None = None
    decoder_repeats: int = 1
    decoder_skip_state: int | None = None

    pooling: str = "mean"
    pool_q_only: bool = True
    separate_cls: bool = True
    truncate_seq: bool = True
    padding: str = "exact"

    position: str = "relative"
    max_position_embeddings: int = 512
    default_token_type_id: int | None = None
    cls_token_type_id: int = 2
    type_vocab_size: int | None = None
    project_embeddings: bool = False

    ponet_segments: str = "separators"
    ponet_num_segments: int = 64
    ponet_chunk_length: int | None = None
    ponet_special_apart: bool = True
    cls_token_id: int | None = None
    sep_token_id: int | None = None
    sentence_end_token_ids: list[int] | None = None

    unpad: bool = False

    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    classifier_dropout: float | None = None
    layer_norm_eps: float = 1e-9
    initializer: str = "truncated_normal"
    initializer_std: float = 0.02
    initializer_range: float = 0.1

    mlm_head: str = "dense"
    classifier_pooling: str = "cls"
    classifier_head: str = "dense"
    classifier_activation: str = "tanh"
    qa_head: str = "simple"
    qa_start_beam: int = 5
    qa_end_beam: int = 5
    sparse_prediction: bool = False
    hide_mask_tokens: bool = False
    mask_token_id: int | None = None
    generator_size: float = 0.25
    discriminator_weight: float = 50.0
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0

    sentence_embedding: dict[str, Any] | None = None
    made_from: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        known = {field.name for field in fields(self)}
        reject_unknown(kwargs.keys() - set(_FOREIGN_KEYS), known, "model config")
        kwargs.pop("model_type", None)
        self._check_types()
        kwargs.pop(VERSION_KEY, None)
        self.blocks = list(_positive_integers("blocks", self.blocks))
        num_blocks = len(self.blocks)
        num_layers = kwargs.pop("num_hidden_layers", None)  # an export says it to those who read nothing else
        if num_layers is not None and num_layers != self.num_hidden_layers:
            raise UserError(
                f"model config: num_hidden_layers is {short(num_layers)}; the blocks have {self.num_hidden_layers}"
            )
        self.repeats = list(
            _positive_integers("repeats", [1] * num_blocks if self.repeats is None else self.repeats)
        )
        if len(self.repeats) != num_blocks:
            raise UserError(f"model config: repeats {self.repeats} and blocks {self.blocks} differ in length")
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.type_vocab_size is None:
            self.type_vocab_size = self.cls_token_type_id + 1
        if self.decoder_layers is None:
            self.decoder_layers = 2 if num_blocks > 1 else 0
        self._validate()
        super().__post_init__(**kwargs)

    def _check_types(self) -> None:
        for field in fields(FunnelformerConfig):
            value, kind = getattr(self, field.name), str(field.type)
            if field.name not in FunnelformerConfig.__annotations__ or kind not in _TYPES:
                continue
            is_right, allowed = _TYPES[kind]
            if not is_right(value):
                raise UserError(f"model config: {field.name} is {short(value)}; allowed: {allowed}")
        if self.problem_type not in (None, *_PROBLEMS):
            raise UserError(
                f"model config: problem_type is {short(self.problem_type)}; allowed: {', '.join(_PROBLEMS)}"
            )
        names = self.architectures
        if names is not None and not _is_list_of(str, names):
            raise UserError(f"model config: architectures is {short(names)}; allowed: a list of names")
        labels = self.id2label
        if labels is not None and not (isinstance(labels, dict) and _are_numbered(labels)):
            raise UserError(
                f"model config: id2label is {short(labels)}; allowed: the numbers from 0 on, each with a name"
            )

    def _validate(self) -> None:
        for key, allowed in _CHOICES.items():
            _one_of(key, getattr(self, key), allowed)
        mixers = [self.mixer] if isinstance(self.mixer, str) else list(self.mixer)
        for mixer in mixers:
            _one_of("mixer", mixer, list(MIXERS))
        if not isinstance(self.mixer, str) and len(mixers) != len(self.blocks):
            raise UserError(
                f"model config: {len(mixers)} mixers for {len(self.blocks)} blocks; give one, or one a block"
            )
        if self.pooling == "top" and set(self.block_mixers[:-1]) - {"attention"}:
            raise UserError('model config: pooling="top" needs mixer "attention" in every block but the last')
        if self.unpad is True and self.padding != "exact":
            raise UserError(f'model config: unpad needs padding "exact", not {self.padding!r}')
        if self.unpad is True and self.hide_mask_tokens is True:
            raise UserError("model config: unpad would leave out the tokens of hide_mask_tokens")
        if self.sentence_end_token_ids is None and self.ponet_segments == "sentences":
            raise UserError('model config: ponet_segments="sentences" needs sentence_end_token_ids')
        if self.hide_mask_tokens is True and self.mask_token_id is None:
            raise UserError("model config: hide_mask_tokens needs mask_token_id")
        if self.ponet_chunk_length is not None:
            _positive_integers("ponet_chunk_length", [self.ponet_chunk_length])
        _positive_integers(
            "sizes",
            [
                self.vocab_size,
                self.hidden_size,
                self.embedding_size,
                self.num_attention_heads,
                self.head_size,
                self.intermediate_size,
                self.decoder_repeats,
                self.max_position_embeddings,
                self.type_vocab_size,
                self.ponet_num_segments,
                self.qa_start_beam,
                self.qa_end_beam,
            ],
        )
        if self.sentence_embedding is not None:
            vectors = SentenceEmbedding.from_dict(self.sentence_embedding, "model config: sentence_embedding")
            self.sentence_embedding = vectors.to_dict()
        if not 0 < self.generator_size <= 1:
            raise UserError(
                f"model config: generator_size is {self.generator_size!r}; allowed: 0 < share <= 1"
            )
        if self.discriminator_weight <= 0:
            raise UserError(
                f"model config: discriminator_weight is {self.discriminator_weight!r}; allowed: > 0"
            )
        if self.hidden_size % 2:
            raise UserError(
                f"model config: hidden_size {self.hidden_size} must be even (sine and cosine halves)"
            )
        if not isinstance(self.decoder_layers, int) or self.decoder_layers < 0:
            raise UserError(f"model config: decoder_layers is {self.decoder_layers!r}; allowed: 0, 1, 2, ...")
        for key in ("hidden_dropout", "attention_dropout", "activation_dropout", "classifier_dropout"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"model config: {key} is {value!r}; allowed: 0 <= p < 1")
        for key in ("layer_norm_eps", "initializer_std", "initializer_range"):
            value = getattr(self, key)
            if not 0 <= value < math.inf:
                raise UserError(f"model config: {key} is {value!r}; allowed: 0 <= number")
        if self.pad_token_id is not None and not (
            isinstance(self.pad_token_id, int) and 0 <= self.pad_token_id < self.vocab_size
        ):
            raise UserError(
                f"model config: pad_token_id is {self.pad_token_id!r}; allowed: 0 to {self.vocab_size - 1}"
            )
        applications = self.block_applications[0]
        if self.decoder_skip_state is not None and not 0 <= self.decoder_skip_state <= applications:
            raise UserError(
                f"model config: decoder_skip_state {self.decoder_skip_state} is not one of "
                f"the first block's states 0..{applications}"
            )

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
        """As in transformers; the config of another family's model is translated."""
        values, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if values.get("model_type", cls.model_type) != cls.model_type:
            values = reader().translated(values, str(pretrained_model_name_or_path)).to_dict()
        return values, kwargs

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the version of this package."""
        return stamped(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """As in transformers, with the version of this package."""
        return stamped(super().to_diff_dict())

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def num_hidden_layers(self) -> int:
        """Parameter layers of the encoder (repeats not counted)."""
        return sum(self.blocks)

    @property
    def has_embedding_projection(self) -> bool:
        """Whether a dense layer stands between the embedding and the first block."""
        return self.project_embeddings or self.embedding_size != self.hidden_size

    @property
    def vectors(self) -> SentenceEmbedding | None:
        """How a text becomes a vector, where the model says so (`sentence_embedding`)."""
        if self.sentence_embedding is None:
            return None
        return SentenceEmbedding.from_dict(self.sentence_embedding, "model config: sentence_embedding")

    @property
    def block_repeats(self) -> list[int]:
        """How often each layer of each block is applied."""
        return list(self.repeats or [1] * len(self.blocks))

    @property
    def block_applications(self) -> list[int]:
        """Layer applications of each block: its layers times their repeats."""
        return [layers * repeats for layers, repeats in zip(self.blocks, self.block_repeats, strict=True)]

    @property
    def block_mixers(self) -> list[str]:
        """The mixer of each block."""
        return [self.mixer] * len(self.blocks) if isinstance(self.mixer, str) else list(self.mixer)

    @property
    def name(self) -> str:
        """The layout in the paper's notation, such as "B6-3x2-3x2H768", with the mixer when it is not attention."""
        repeats = self.block_repeats
        parts = [f"{n}x{r}" if r > 1 else str(n) for n, r in zip(self.blocks, repeats, strict=True)]
        flat = len(parts) == 1 and repeats[0] == 1
        mixers = sorted(set(self.block_mixers), key=self.block_mixers.index)
        suffix = (
            ""
            if mixers == ["attention"]
            else f" ({self.mixer if len(mixers) == 1 else '-'.join(self.block_mixers)})"
        )
        return f"{'L' if flat else 'B'}{'-'.join(parts)}H{self.hidden_size}{suffix}"


def _positive_integers(key: str, values: Sequence[Any]) -> Sequence[int]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise UserError(f"model config: {key} is {values!r}; allowed: a list of integers >= 1")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"model config: {key} is {list(values)!r}; allowed: integers >= 1")
    return values


def _one_of(key: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise UserError(f"model config: {key} is {value!r}; allowed: {', '.join(allowed)}{hint}")


AutoConfig.register(FunnelformerConfig.model_type, FunnelformerConfig)
