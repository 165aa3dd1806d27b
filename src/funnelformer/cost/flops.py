"""Forward FLOPs of a model, by part, from its configuration alone.

What is counted: matrix products, 2 FLOPs for a multiply-add, as `torch.utils.flop_counter` does; biases,
norms, activations, softmax, pooling, gathers and embedding look-ups are not. The counts are exact integers,
equal to the counter's on real models in tests/cost/test_flops.py. `eager` and `sdpa` have the same products. A
Fourier transform is no matrix product: of the mixer "fourier" only the feed-forward part counts.

Symbols in the docstrings: B sequences, T tokens, Q queries, K keys, H heads, E head width, W = H x E,
a = 1 with `separate_cls` and else 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ..config.model_config import FunnelformerConfig
from ..mixers.mixer import CallShape, MixerFlops, mixer_class, product_flops

__all__ = [
    "Flops",
    "FlopsRow",
    "Head",
    "LayerFlops",
    "flops_ratio",
    "forward_flops",
    "pooled_length",
    "stage_lengths",
    "training_flops",
]

Head = Literal["none", "masked_lm", "token_detection", "classification"]

# Backward multiplies the incoming gradient with the weight, for the input's gradient, and with the input, for
# the weight's: two products of the forward's size, after the forward itself.
TRAINING_PER_FORWARD = 3


@dataclass(frozen=True)
class LayerFlops(MixerFlops):
    """FLOPs of one application of a layer, or the sum over several: those of its mixer, see `MixerFlops`, and more.

    feed_forward: both products.
    """

    feed_forward: int = 0

    @property
    def position(self) -> int:
        """What relative positions cost: the table and the scores from it."""
        return self.position_table + self.position_scores

    @property
    def linear(self) -> int:
        """Projections and feed-forward: the part that grows with T and not with T squared."""
        return self.projections + self.feed_forward

    @property
    def total(self) -> int:
        return sum(self.to_dict().values())

    def __add__(self, other: LayerFlops) -> LayerFlops:
        mine, its = self.to_dict(), other.to_dict()
        return LayerFlops(**{part: mine[part] + its[part] for part in mine})


@dataclass(frozen=True)
class FlopsRow:
    """One line of the table: FLOPs of `part` for the batch, for an input token, and over the total."""

    part: str
    flops: int
    per_token: float
    share: float


@dataclass(frozen=True)
class Flops:
    """FLOPs of one forward pass over `batch_size` sequences of `length` tokens, by part.

    stage_lengths: tokens of each block (queries of its layers).
    embedding_projection: 0 unless `embedding_size` differs from `hidden_size`.
    """

    length: int
    batch_size: int
    stage_lengths: tuple[int, ...]
    embedding_projection: int
    blocks: tuple[LayerFlops, ...]
    decoder: LayerFlops
    head: int

    @property
    def encoder(self) -> int:
        """Embedding projection and blocks."""
        return self.embedding_projection + sum(block.total for block in self.blocks)

    @property
    def total(self) -> int:
        return self.encoder + self.decoder.total + self.head

    @property
    def per_token(self) -> float:
        """Total for each input token (of the unpooled sequence)."""
        return self.total / (self.length * self.batch_size)

    @property
    def layers(self) -> LayerFlops:
        """All blocks and the decoder, added part by part."""
        return sum(self.blocks, LayerFlops()) + self.decoder

    def rows(self, detail: bool = False) -> list[FlopsRow]:
        """The parts that cost anything, in the model's order; `detail` splits blocks into their products."""
        return [
            FlopsRow(part, flops, flops / (self.length * self.batch_size), flops / self.total)
            for part, flops in self._parts(detail)
            if flops
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, totals included."""
        return {
            "length": self.length,
            "batch_size": self.batch_size,
            "stage_lengths": list(self.stage_lengths),
            "embedding_projection": self.embedding_projection,
            "blocks": [{**block.to_dict(), "total": block.total} for block in self.blocks],
            "decoder": {**self.decoder.to_dict(), "total": self.decoder.total},
            "head": self.head,
            "total": self.total,
            "per_token": self.per_token,
        }

    def _parts(self, detail: bool) -> Iterator[tuple[str, int]]:
        yield "embedding projection", self.embedding_projection
        stages = [(f"block {index + 1}", block) for index, block in enumerate(self.blocks)]
        for name, stage in [*stages, ("decoder", self.decoder)]:
            if not detail:
                yield name, stage.total
                continue
            for part, flops in stage.to_dict().items():
                yield f"{name}: {part.replace('_', ' ')}", flops
        yield "head", self.head


def forward_flops(
    config: FunnelformerConfig,
    length: int,
    *,
    batch_size: int = 1,
    head: Head = "none",
    num_targets: int | None = None,
    decoder: bool = True,
    segments: bool = True,
) -> Flops:
    """Count one forward pass over `batch_size` sequences of `length` tokens, padding included.

    head: "masked_lm" has logits at every token, or at `num_targets` of the batch's tokens, as
        `sparse_prediction` has in training; "token_detection" has one logit a token; "classification" leaves the
        decoder out, as the model does.
    decoder: False leaves it out, as heads for whole sequences do.
    segments: `token_type_ids` are given. Without effect where the config has a `default_token_type_id`, and
        with absolute positions, which have neither position nor segment scores.
    Raises ValueError for lengths the model does not take, and for a masked-LM head without its decoder.
    """
    _check(config, length, batch_size, head, num_targets, decoder)
    has_segments = segments or config.default_token_type_id is not None
    lengths = stage_lengths(config, length)
    blocks = []
    stages = zip(config.blocks, config.block_repeats, config.block_mixers, strict=True)
    for index, (num_layers, num_repeats, mixer) in enumerate(stages):
        shape = CallShape(
            batch_size,
            num_queries=lengths[index],
            num_keys=lengths[index],
            span=length,
            is_regular=index == 0 or config.pooling != "top",
            has_segments=has_segments,
        )
        applications = [shape] * (num_layers * num_repeats)
        if index > 0 and config.pool_q_only and mixer_class(mixer).reads_unpooled:
            # The first application alone reads the longer sequence; repeats read their own.
            applications[0] = replace(shape, num_keys=lengths[index - 1], stride=2)
        blocks.append(sum((_layer(config, mixer, shape) for shape in applications), LayerFlops()))
    upper = LayerFlops()
    if decoder and head != "classification":
        # The decoder works at full length, with regular positions also after top pooling.
        shape = CallShape(batch_size, length, length, span=length, has_segments=has_segments)
        for _ in range((config.decoder_layers or 0) * config.decoder_repeats):
            upper += _layer(config, config.block_mixers[0], shape)
    return Flops(
        length=length,
        batch_size=batch_size,
        stage_lengths=tuple(lengths),
        embedding_projection=_embedding_projection(config, batch_size * length),
        blocks=tuple(blocks),
        decoder=upper,
        head=_head(config, head, batch_size, batch_size * length if num_targets is None else num_targets),
    )


def training_flops(flops: Flops) -> int:
    """Forward and backward, 3 x forward, for every parameter trained and no gradient checkpointing.

    The convention of the field. Ours need `position_table` FLOPs less, as sinusoids take no gradient; where the
    sinusoids have dropout (`hidden_dropout`), every distance needs a product of its own, about as many more.
    """
    return TRAINING_PER_FORWARD * flops.total


def flops_ratio(
    config: FunnelformerConfig, baseline: FunnelformerConfig, length: int, *, decoder: bool = False
) -> float:
    """Forward FLOPs of the layers of `config` over those of `baseline`, for one sequence.

    Embedding projection and heads are left out, as the paper's comparisons do.
    decoder: whether decoders count: in pretraining and token-level work, not in tasks on whole sequences.
    """
    own, other = (forward_flops(c, length, decoder=decoder).layers.total for c in (config, baseline))
    return own / other


def stage_lengths(config: FunnelformerConfig, length: int) -> list[int]:
    """Tokens in each block for an input of `length` tokens."""
    lengths = [length]
    while len(lengths) < config.num_blocks:
        lengths.append(pooled_length(config, lengths[-1]))
    return lengths


def pooled_length(config: FunnelformerConfig, length: int) -> int:
    """Tokens left of `length` after one pooling, the S of `modeling.pooling.shorten`."""
    if not config.separate_cls:
        return _half_up(length)
    # The last of the others is dropped, unless it is the only one.
    body = max(length - 2, min(length - 1, 1)) if config.truncate_seq else length - 1
    return 1 + _half_up(body)


def _half_up(count: int) -> int:
    return (count + 1) // 2


def _layer(config: FunnelformerConfig, mixer: str, shape: CallShape) -> LayerFlops:
    """One application: what the mixer says of itself, and the feed-forward layer at every query."""
    rows = shape.batch_size * shape.num_queries
    feed_forward = 2 * product_flops(rows, config.hidden_size, config.intermediate_size)
    return LayerFlops(**mixer_class(mixer).flops(config, shape).to_dict(), feed_forward=feed_forward)


def _embedding_projection(config: FunnelformerConfig, tokens: int) -> int:
    size = config.embedding_size or config.hidden_size
    return product_flops(tokens, size, config.hidden_size) if config.has_embedding_projection else 0


def _head(config: FunnelformerConfig, head: Head, batch: int, targets: int) -> int:
    """Masked LM: dense and vocabulary at each target. Detection: dense and one logit at each token of the batch.

    Classification: dense and classes at one token.
    """
    size = config.embedding_size or config.hidden_size
    if head == "masked_lm":
        dense = product_flops(targets, config.hidden_size, size) if config.mlm_head == "dense" else 0
        return dense + product_flops(targets, size, config.vocab_size)
    if head == "token_detection":
        return product_flops(targets, config.hidden_size, config.hidden_size) + product_flops(
            targets, config.hidden_size, 1
        )
    if head == "classification":
        dense = product_flops(batch, config.hidden_size, config.hidden_size)
        outputs = product_flops(batch, config.hidden_size, config.num_labels or 2)
        return outputs + (dense if config.classifier_head == "dense" else 0)
    return 0


def _check(
    config: FunnelformerConfig,
    length: int,
    batch_size: int,
    head: Head,
    num_targets: int | None,
    decoder: bool,
) -> None:
    for name, value in (("length", length), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}; allowed: >= 1")
    if config.position == "absolute" and length > config.max_position_embeddings:
        raise ValueError(
            f"the input has {length} tokens, but max_position_embeddings is {config.max_position_embeddings}"
        )
    if head not in get_args(Head):
        raise ValueError(f"head is {head!r}; allowed: {', '.join(get_args(Head))}")
    objective = {"masked_lm": "masked language modelling", "token_detection": "replaced-token detection"}.get(
        head
    )
    if objective and config.num_blocks > 1 and not (decoder and config.decoder_layers):
        raise ValueError(f"{objective} needs a decoder: set decoder_layers >= 1")
    if num_targets is not None and (head != "masked_lm" or not 0 <= num_targets <= batch_size * length):
        raise ValueError(
            f"num_targets is {num_targets}; allowed: 0..batch_size * length, with head='masked_lm'"
        )
