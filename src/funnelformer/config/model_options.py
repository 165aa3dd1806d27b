"""The options of a model: defaults, checks, and values derived from them. No PyTorch here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from ..base.errors import UserError, did_you_mean, short
from ..base.sentence_modules import Pooling, SentenceEmbedding
from ..base.version import VERSION_KEY

__all__ = ["FOREIGN_KEYS", "MIXERS", "ModelOptions", "check_dtype", "class_names"]

# The token mixers: name -> module:class. `mixers.Mixer` says what the class must offer.
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
    "hidden_act": (
        *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
        *(
            "gelu_pytorch_tanh",
            "hardswish",
            "laplace",
            "leaky_relu",
            "linear",
            "mish",
            "quick_gelu",
            "relu",
            "relu2",
        ),
        *("relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh"),
    ),
    "ponet_segments": ("separators", "sentences", "chunks"),
}
_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
_SIZES = (
    "vocab_size",
    "hidden_size",
    "embedding_size",
    "num_attention_heads",
    "head_size",
    "intermediate_size",
    "decoder_repeats",
    "max_position_embeddings",
    "type_vocab_size",
    "ponet_num_segments",
    "qa_start_beam",
    "qa_end_beam",
)
_DTYPES = ("float64", "float32", "float16", "bfloat16")
# The name that transformers gives to a class without one; the number is its id.
_NAMELESS = re.compile(r"LABEL_(\d+)")
_MOST = 1 << 31  # bound of counts and ids


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MOST < value < _MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_list_of(kind: type, values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)


def _are_numbered(labels: dict[Any, Any]) -> bool:
    """Whether the ids are 0, 1, 2, ... (in raw JSON they are text), and all names are text."""
    return {str(number) for number in labels} == {str(number) for number in range(len(labels))} and all(
        isinstance(name, str) for name in labels.values()
    )


def class_names(
    id2label: Any, label2id: Any = None, num_labels: Any = None, problem_type: Any = None
) -> dict[int, str] | None:
    """The names of a model's classes by id, from the keys of its config; None if the config has no names.

    If only one of `id2label` and `label2id` was ever set, transformers leaves LABEL_0, LABEL_1, ... in the other; the
    names that were set are taken.
    Raises UserError ("model config: ...") for a value that is not a set of names, and for two that contradict each
    other.
    """
    if id2label is not None and not (isinstance(id2label, dict) and _are_numbered(id2label)):
        raise UserError(
            f"model config: id2label is {short(id2label)}; allowed: the numbers from 0 on, each with a name"
        )
    swapped = None
    if label2id is not None:
        is_swappable = isinstance(label2id, dict) and all(
            isinstance(number, int | str) and not isinstance(number, bool) for number in label2id.values()
        )
        swapped = {number: name for name, number in label2id.items()} if is_swappable else {}
        if not is_swappable or len(swapped) < len(label2id) or not _are_numbered(swapped):
            raise UserError(
                f"model config: label2id is {short(label2id)}; allowed: names, each with one of the numbers from 0 on"
            )
    names, others = _by_number(id2label), _by_number(swapped)
    if names and len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise UserError(f"model config: id2label has two classes with the name {short(twice)}")
    if others and not names:
        names = others
    elif names and others and names != others and not _are_nameless(others):
        if not (_are_nameless(names) and len(names) == len(others)):
            number = next((n for n in names if names[n] != others.get(n)), len(names))
            raise UserError(
                f"model config: label2id contradicts id2label: class {number} is {short(others.get(number))} in the "
                f"one and {short(names.get(number))} in the other; allowed: the same names, or one of the two keys"
            )
        names = others
    if num_labels is not None:
        if not _is_count(num_labels) or num_labels < 1:
            raise UserError(
                f"model config: num_labels is {short(num_labels)}; allowed: a whole number, 1 or more"
            )
        if names and len(names) != num_labels:
            raise UserError(
                f"model config: num_labels is {num_labels}, but there are names for {len(names)} classes"
            )
    if problem_type == "single_label_classification" and (len(names) if names else num_labels) == 1:
        raise UserError(
            "model config: num_labels is 1, but problem_type is single_label_classification; allowed: 2 or more "
            "classes, or problem_type regression"
        )
    return names


def _by_number(names: Mapping[Any, str] | None) -> dict[int, str] | None:
    return None if names is None else dict(sorted((int(number), name) for number, name in names.items()))


def _are_nameless(names: Mapping[int, str]) -> bool:
    """Whether all names are transformers' LABEL_0, LABEL_1, ..., each under its own id."""
    matches = [(number, _NAMELESS.fullmatch(name)) for number, name in names.items()]
    return all(match is not None and int(match[1]) == number for number, match in matches)


def check_dtype(value: Any) -> None:
    """Raise UserError ("model config: ...") if a config's `dtype` is not a floating-point type."""
    name = str(value).removeprefix("torch.")
    if value is not None and name not in _DTYPES:
        raise UserError(f"model config: dtype is {short(value)}; allowed: {', '.join(_DTYPES)}")


# Annotation of a field -> the check of its value, and the words for what is allowed.
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
# Keys that transformers itself passes or stores beside our own.
FOREIGN_KEYS = (
    "model_type",
    "num_labels",
    "num_hidden_layers",  # in the config.json of an export; must be the sum of blocks
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
    "sentence_transformers",  # says what its CrossEncoder does with scores
)


@dataclass(kw_only=True, repr=False)
class ModelOptions:
    """The options of `FunnelformerConfig`, whose docstring explains them. That class adds what transformers needs."""

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

    def _complete(self, num_hidden_layers: Any = None, num_labels: Any = None) -> None:
        """Check every value, and fill in those that follow from others. Raises UserError naming the key.

        num_hidden_layers, num_labels: as a config file has them; they must agree with `blocks` and the class names.
        """
        self._check_types()
        own: Any = self  # with the fields of the classes below this one
        names = class_names(own.id2label, own.label2id, num_labels, own.problem_type)
        if names is not None:
            own.id2label, own.label2id = names, {name: number for number, name in names.items()}
        self.blocks = list(_positive_integers("blocks", self.blocks))
        num_blocks = len(self.blocks)
        if num_hidden_layers is not None and num_hidden_layers != self.num_hidden_layers:
            raise UserError(
                f"model config: num_hidden_layers is {short(num_hidden_layers)}; the blocks have "
                f"{self.num_hidden_layers}"
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

    def _check_types(self) -> None:
        for field in fields(ModelOptions):
            value, kind = getattr(self, field.name), str(field.type)
            if kind not in _TYPES:
                continue
            is_right, allowed = _TYPES[kind]
            if not is_right(value):
                raise UserError(f"model config: {field.name} is {short(value)}; allowed: {allowed}")
        own: Any = self  # with the fields of the classes below this one
        if own.problem_type not in (None, *_PROBLEMS):
            raise UserError(
                f"model config: problem_type is {short(own.problem_type)}; allowed: {', '.join(_PROBLEMS)}"
            )
        names = own.architectures
        if names is not None and not _is_list_of(str, names):
            raise UserError(f"model config: architectures is {short(names)}; allowed: a list of names")

    def _validate(self) -> None:
        for key, allowed in _CHOICES.items():
            _one_of(key, getattr(self, key), allowed)
        mixers = [self.mixer] if isinstance(self.mixer, str) else list(self.mixer)
        for mixer in mixers:
            _one_of("mixer", mixer, list(MIXERS))
        if not isinstance(self.mixer, str) and len(mixers) != len(self.blocks):
            raise UserError(
                f"model config: {len(mixers)} mixers for {len(self.blocks)} blocks; give one, or one for each block"
            )
        if self.pooling == "top" and set(self.block_mixers[:-1]) - {"attention"}:
            raise UserError('model config: pooling="top" needs mixer "attention" in every block but the last')
        if self.unpad is True and self.padding != "exact":
            raise UserError(f'model config: unpad needs padding "exact", not {self.padding!r}')
        if self.unpad is True and self.hide_mask_tokens is True:
            raise UserError("model config: unpad and hide_mask_tokens exclude each other")
        if self.sentence_end_token_ids is None and self.ponet_segments == "sentences":
            raise UserError('model config: ponet_segments="sentences" needs sentence_end_token_ids')
        if self.hide_mask_tokens is True and self.mask_token_id is None:
            raise UserError("model config: hide_mask_tokens needs mask_token_id")
        if self.ponet_chunk_length is not None:
            _positive_integer("ponet_chunk_length", self.ponet_chunk_length)
        for key in _SIZES:
            _positive_integer(key, getattr(self, key))
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
        """How a text becomes a vector (`sentence_embedding`); None if the model does not say."""
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
        """The layout in the paper's notation, such as "B6-3x2-3x2H768", and the mixer unless it is attention."""
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


def _positive_integer(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"model config: {key} is {short(value)}; allowed: a whole number, 1 or more")


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
        raise UserError(f"model config: {key} is {short(value)}; allowed: {', '.join(allowed)}{hint}")
