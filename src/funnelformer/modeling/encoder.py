"""The paper read from top to bottom: embedding, layer, encoder with shortening between blocks, decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..config import FunnelformerConfig
from ..mixers import MIXER_CLASSES
from ..sequence import Packing, SequenceState, pack, packed, padded
from .pooling import restore, shorten

__all__ = ["Decoder", "Embeddings", "Encoder", "Layer", "Trace", "received_attention"]


class Trace:
    """Collects hidden states and attention weights on the way, where they were asked for, as padded batches."""

    def __init__(self, hidden_states: bool, attentions: bool) -> None:
        self.hidden_states: list[Tensor] | None = [] if hidden_states else None
        self.attentions: list[Tensor] | None = [] if attentions else None

    def add(self, hidden: Tensor, packing: Packing | None, weights: Tensor | None = None) -> None:
        if self.hidden_states is not None:
            self.hidden_states.append(padded(hidden, packing))
        if self.attentions is not None and weights is not None:
            self.attentions.append(weights)


class Embeddings(nn.Module):
    """Token vector (plus absolute position and segment), LayerNorm, dropout, projection to the model's width."""

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size)
        self.absolute = config.position == "absolute"
        if self.absolute:
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size or 1, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.projection = nn.Linear(size, config.hidden_size) if config.has_embedding_projection else None

    def forward(
        self, embedded: Float[Tensor, "B T W"], segments: Int[Tensor, "B T"] | None
    ) -> Float[Tensor, "B T D"]:
        """Raise ValueError when absolute positions do not reach as far as the input."""
        if self.absolute:
            length, limit = embedded.size(1), self.position_embeddings.num_embeddings
            if length > limit:
                raise ValueError(f"the input has {length} tokens, but max_position_embeddings is {limit}")
            embedded = embedded + self.position_embeddings.weight[:length]
            if segments is not None:
                embedded = embedded + self.token_type_embeddings(segments)
        hidden = self.dropout(self.layer_norm(embedded))
        return hidden if self.projection is None else self.projection(hidden)


def activation(config: FunnelformerConfig) -> nn.Module:
    """The activation the config names; of the two spellings of tanh-GELU always the fused one."""
    return ACT2FN["gelu_pytorch_tanh" if config.hidden_act == "gelu_new" else config.hidden_act]


class FeedForward(nn.Module):
    """Dense, activation, dense, at every token by itself."""

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config)
        self.dropout = nn.Dropout(config.activation_dropout)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.contract(self.dropout(self.activation(self.expand(hidden))))


class Layer(GradientCheckpointingLayer):
    """Post-norm layer: h = LN(q + mix(q, kv)); h = LN(h + FFN(h)). Source: Dai et al. 2020, section 2.1."""

    def __init__(self, config: FunnelformerConfig, mixer: str) -> None:
        super().__init__()
        self.mixer = MIXER_CLASSES[mixer](config)
        self.mixer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        queries: Float[Tensor, "B Q D"],
        keys: Float[Tensor, "B K D"],
        inputs: Any,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "N H q k"] | None]:
        mixed, weights = self.mixer(queries, keys, inputs, need_weights)
        hidden = self.mixer_norm(queries + self.dropout(mixed))
        hidden = self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
        return hidden, weights


class Encoder(nn.Module):
    """Blocks of layers; from one block to the next the sequence is halved. Source: Dai et al. 2020, section 2.2."""

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            nn.ModuleList(Layer(config, mixer) for _ in range(num_layers))
            for num_layers, mixer in zip(config.blocks, config.block_mixers, strict=True)
        )

    def forward(
        self, hidden: Float[Tensor, "B T D"], state: SequenceState, trace: Trace
    ) -> tuple[Float[Tensor, "B S D"], SequenceState, Float[Tensor, "B T D"]]:
        """Return the last block's states and what travels with them, and the state the decoder adds to them."""
        config = self.config
        blocks = cast(list[list[Layer]], self.blocks)
        skip_index = config.decoder_skip_state
        if skip_index is None:
            skip_index = config.block_applications[0]
        trace.add(hidden, state.packing)
        skip, num_applied, received = hidden, 0, None
        for index, (block, mixer) in enumerate(zip(blocks, config.block_mixers, strict=True)):
            mixer_class: Any = MIXER_CLASSES[mixer]
            prepare = mixer_class.prepare
            keys, key_state = hidden, state
            if index > 0:
                hidden, state = _shorten(hidden, state, config, received)
                if not (config.pool_q_only and mixer_class.reads_unpooled):
                    keys, key_state = hidden, state
            # The first application may read a longer sequence than it writes; all others read their own.
            inputs = prepare(state, key_state, config, hidden, self.training)
            needs_scores = config.pooling == "top" and index + 1 < len(self.blocks)
            applications = [layer for layer in block for _ in range(config.block_repeats[index])]
            for number, layer in enumerate(applications):
                wants_top = needs_scores and number + 1 == len(applications)
                hidden, weights = layer(
                    hidden, keys, inputs, need_weights=trace.attentions is not None or wants_top
                )
                trace.add(hidden, state.packing, weights)
                num_applied += 1
                if num_applied == skip_index:
                    skip = hidden
                if wants_top:
                    received = received_attention(weights, state, key_state)
                if key_state is not state and number + 1 < len(applications):
                    inputs = prepare(state, state, config, hidden, self.training)
                keys, key_state = hidden, state
        return hidden, state, skip


class Decoder(nn.Module):
    """Upsample the last block, add the first block's states, then layers at full length.

    They mix as the first block, whose length they share: a hybrid's decoder stays as cheap as its first block.
    Source: Dai et al. 2020, section 2.3.
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.config = config
        self.mixer_name = config.block_mixers[0]
        self.layers = nn.ModuleList(Layer(config, self.mixer_name) for _ in range(config.decoder_layers or 0))

    def forward(
        self,
        pooled: Float[Tensor, "B S D"],
        pooled_state: SequenceState,
        skip: Float[Tensor, "B T D"],
        state: SequenceState,
        trace: Trace,
    ) -> Float[Tensor, "B T D"]:
        restored = restore(padded(pooled, pooled_state.packing), pooled_state, state.span, self.config)
        hidden = packed(restored, state.packing) + skip
        prepare = MIXER_CLASSES[self.mixer_name].prepare  # type: ignore[attr-defined]
        inputs = prepare(state, state, self.config, hidden, self.training)
        for layer in self.layers:
            for _ in range(self.config.decoder_repeats):
                hidden, weights = layer(hidden, hidden, inputs, need_weights=trace.attentions is not None)
                trace.add(hidden, state.packing, weights)
        return hidden


def _shorten(
    hidden: Tensor, state: SequenceState, config: FunnelformerConfig, received: Tensor | None
) -> tuple[Tensor, SequenceState]:
    """`shorten`, each of the packed sequences by itself."""
    hidden, state = shorten(padded(hidden, state.packing), state, config, received)
    if state.packing is not None:
        assert state.keep is not None
        state = replace(state, packing=pack(state.keep))
    return packed(hidden, state.packing), state


def received_attention(
    weights: Tensor | None, queries: SequenceState, keys: SequenceState
) -> Float[Tensor, "B T"]:
    """Attention each token received, summed over heads and real queries (paper, section 3.3, top-attention)."""
    assert weights is not None
    if queries.keep is not None:
        weights = weights * queries.keep[:, None, :, None].to(weights.dtype)
    received = weights.sum((1, 2))
    if keys is queries:
        return received
    # The only layer of a block read the unpooled sequence: take the shares of the tokens that stayed.
    assert queries.source is not None
    return torch.gather(received, 1, queries.source)
