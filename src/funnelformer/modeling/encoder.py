"""The paper read from top to bottom: embedding, layer, encoder with shortening between blocks, decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..config.model_config import FunnelformerConfig
from ..mixers.mixer import MixerClass, mixer_class
from ..mixers.sequence import Packing, SequenceState, pack, packed, padded
from .pooling import restore, shorten

__all__ = ["Block", "Decoder", "Embeddings", "Encoder", "Layer", "Trace", "received_attention"]


class Trace:
    """Collects the hidden states and attention weights that were asked for, as padded batches."""

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
        """Raise ValueError if the input is longer than the absolute positions."""
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
    """The activation that the config names; both spellings of tanh-GELU give the fused one."""
    return ACT2FN["gelu_pytorch_tanh" if config.hidden_act == "gelu_new" else config.hidden_act]


# Enough for a product to be as fast as over all of them, see benchmarks/LOG.md.
_PIECE_ROWS = 1024


class FeedForward(nn.Module):
    """Dense, activation, dense, for every token by itself.

    At inference on a CPU many tokens go through it piece by piece: what it holds in between is four times their states.
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config)
        self.dropout = nn.Dropout(config.activation_dropout)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        whole = self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if whole or hidden.device.type != "cpu" or hidden.numel() <= _PIECE_ROWS * hidden.size(-1):
            return self._apply_dense(hidden)
        tokens, result = hidden.flatten(0, -2), hidden.new_empty(0)
        for start in range(0, len(tokens), _PIECE_ROWS):
            piece = self._apply_dense(tokens[start : start + _PIECE_ROWS])
            if not start:
                result = piece.new_empty(tokens.shape)  # of the dtype that autocast gives
            result[start : start + _PIECE_ROWS] = piece
        return result.view(hidden.shape)

    def _apply_dense(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.contract(self.dropout(self.activation(self.expand(hidden))))


class Layer(GradientCheckpointingLayer):
    """Post-norm layer: h = LN(q + mix(q, kv)); h = LN(h + FFN(h)). Source: Dai et al. 2020, section 2.1."""

    def __init__(self, config: FunnelformerConfig, mixer: str) -> None:
        super().__init__()
        self.mixer: Any = mixer_class(mixer)(config)
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


class BlockOutput(NamedTuple):
    """skip: the state after `decoder_skip_state` applications. received: see `received_attention`."""

    hidden: Float[Tensor, "B T D"]
    skip: Float[Tensor, "B T D"]
    received: Float[Tensor, "B T"] | None


class Block(nn.ModuleList):
    """The layers that work at one length, each applied `repeats` times in a row."""

    def __init__(self, config: FunnelformerConfig, index: int) -> None:
        super().__init__(Layer(config, config.block_mixers[index]) for _ in range(config.blocks[index]))
        self.config = config
        self.mixer_class: MixerClass = mixer_class(config.block_mixers[index])
        self.num_repeats = config.block_repeats[index]
        skip = config.decoder_skip_state
        self.skip_index = len(self) * self.num_repeats if skip is None else skip
        # Top pooling asks the last layer before it which tokens received most attention.
        self.needs_received = config.pooling == "top" and index + 1 < config.num_blocks

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        state: SequenceState,
        longer: Float[Tensor, "B K D"],
        longer_state: SequenceState,
        trace: Trace,
    ) -> BlockOutput:
        """Apply the layers to `hidden`, the pooled sequence; `longer` is the sequence before the pooling.

        In the first layer pooled queries read the longer sequence (`pool_q_only`), where the mixer can. In the first
        block nothing is pooled, and both are the same.
        """
        prepare = self.mixer_class.prepare
        keys, key_state = hidden, state
        if self.config.pool_q_only and self.mixer_class.reads_unpooled:
            keys, key_state = longer, longer_state
        inputs = prepare(state, key_state, self.config, hidden, self.training)
        skip, received = hidden, None
        applications = [layer for layer in self for _ in range(self.num_repeats)]
        for number, layer in enumerate(applications, start=1):
            wants_received = self.needs_received and number == len(applications)
            needs_weights = trace.attentions is not None or wants_received
            hidden, weights = layer(hidden, keys, inputs, need_weights=needs_weights)
            trace.add(hidden, state.packing, weights)
            if number == self.skip_index:
                skip = hidden
            if wants_received:
                received = received_attention(weights, state, key_state)
            if key_state is not state and number < len(applications):
                inputs = prepare(state, state, self.config, hidden, self.training)
            keys, key_state = hidden, state
        return BlockOutput(hidden, skip, received)


class Encoder(nn.Module):
    """Blocks of layers; from one block to the next the sequence is halved. Source: Dai et al. 2020, section 2.2."""

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.num_blocks))

    def forward(
        self, hidden: Float[Tensor, "B T D"], state: SequenceState, trace: Trace
    ) -> tuple[Float[Tensor, "B S D"], SequenceState, Float[Tensor, "B T D"]]:
        """Return the last block's states and what travels with them, and the first block's state for the decoder."""
        trace.add(hidden, state.packing)
        first, *others = self.blocks
        hidden, skip, received = first(hidden, state, hidden, state, trace)
        for block in others:
            longer, longer_state = hidden, state
            hidden, state = _shorten(longer, longer_state, self.config, received)
            hidden, _, received = block(hidden, state, longer, longer_state, trace)
        return hidden, state, skip


class Decoder(nn.Module):
    """Upsample the last block, add the first block's states, then layers at full length.

    They mix as the first block, whose length they share: a hybrid's decoder stays as cheap as its first block.
    Source: Dai et al. 2020, section 2.3.
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.config = config
        mixer = config.block_mixers[0]
        self.mixer_class: MixerClass = mixer_class(mixer)
        self.layers = nn.ModuleList(Layer(config, mixer) for _ in range(config.decoder_layers or 0))

    def forward(
        self,
        pooled: Float[Tensor, "B S D"],
        pooled_state: SequenceState,
        skip: Float[Tensor, "B T D"],
        state: SequenceState,
        trace: Trace,
    ) -> Float[Tensor, "B T D"]:
        hidden = restore(padded(pooled, pooled_state.packing), pooled_state, state.span, self.config)
        hidden = packed(hidden, state.packing) + skip
        inputs = self.mixer_class.prepare(state, state, self.config, hidden, self.training)
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
