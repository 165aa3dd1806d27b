"""`FunnelformerModel`: encoder and optional decoder behind the transformers interface."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from ..config import FunnelformerConfig
from ..errors import UserError, did_you_mean
from ..mixers import Attention
from ..mixers.attention import IMPLEMENTATIONS
from ..mixers.ponet import add_segments
from ..sequence import Packing, SequenceState, pack, packed, padded, start_state
from .encoder import Decoder, Embeddings, Encoder, Trace
from .prepacked import num_prepacked

__all__ = ["FunnelformerModel", "FunnelformerModelOutput", "FunnelformerPreTrainedModel"]

logger = logging.get_logger(__name__)


@dataclass
class FunnelformerModelOutput(ModelOutput):
    """What `FunnelformerModel` returns.

    last_hidden_state: [B, T, D] from the decoder where the config has one, else `encoder_last_hidden_state`.
    encoder_last_hidden_state: [B, S, D], S the length after the last pooling. With several blocks the first
        real token stands at index 0, also in left-padded batches.
    encoder_attention_mask: [B, S], 1 for the real ones of them; None when no mask was given.
    encoder_position_ids: [1, S] of packed input: `encoder_last_hidden_state` is one row of all sequences then, and a 0
        stands where one begins.
    hidden_states: the embedding output, then one entry a layer application, encoder first, then decoder. Those of
        full length are in the order of the input, pooled ones begin at each sequence's first real token.
    attentions: [B, H, Q, K] (of PoNet [B, H, 1, K]), one a layer application that has any, from each sequence's
        first real token on.
    """

    last_hidden_state: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_attention_mask: Tensor | None = None
    encoder_position_ids: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class FunnelformerPreTrainedModel(PreTrainedModel):
    """Loading, saving and initial values of all funnelformer models."""

    config: FunnelformerConfig
    config_class = FunnelformerConfig
    base_model_prefix = "funnelformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer", "Embeddings"]
    _supports_sdpa = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers; a folder or name of transformers' Funnel or of the original release loads as well.

        Raises UserError when the weights do not fit, and for a folder that names code to run, which none of ours does.
        """
        kwargs["trust_remote_code"] = False
        if pretrained_model_name_or_path is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        from ..checkpoints import find_foreign, load_foreign

        hub = {
            key: kwargs[key]
            for key in ("revision", "token", "cache_dir", "local_files_only")
            if key in kwargs
        }
        source = find_foreign(os.fspath(pretrained_model_name_or_path), **hub)
        if source is None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        loaded = load_foreign(source)
        values = loaded.config.to_dict()
        if "num_labels" in kwargs:
            values = {key: value for key, value in values.items() if key not in ("id2label", "label2id")}
        apart: dict[str, Any] = {key: kwargs.pop(key) for key in ("dtype", "config") if key in kwargs}
        config, kwargs = FunnelformerConfig.from_dict(values, return_unused_kwargs=True, **kwargs)
        config, kwargs = apart.pop("config", config), kwargs | apart
        return super().from_pretrained(
            None, *args, config=config, state_dict=cls._with_own_prefix(loaded.state_dict), **kwargs
        )

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """As in transformers; prepacked weights count, though they cannot be trained."""
        number: int = super().num_parameters(only_trainable, exclude_embeddings)
        return number if only_trainable else number + num_prepacked(self)

    def get_correct_attn_implementation(
        self, requested_attention: str | None, is_init_check: bool = False
    ) -> str:
        """The implementation that was asked for, or sdpa. Raises UserError when there is none of that name."""
        name = requested_attention or "sdpa"
        if name not in IMPLEMENTATIONS:
            raise UserError(
                f"attn_implementation is {name!r}; allowed: {', '.join(IMPLEMENTATIONS)}"
                f"{did_you_mean(name, IMPLEMENTATIONS)}"
            )
        return name

    @classmethod
    def _with_own_prefix(cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Body weights carry the prefix in models with a head and none in the bare model."""
        prefix = cls.base_model_prefix + "."
        bodies = ("embeddings.", "encoder.", "decoder.")
        state_dict = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
        if cls is FunnelformerModel:
            return {name: tensor for name, tensor in state_dict.items() if name.startswith(bodies)}
        return {
            prefix + name if name.startswith(bodies) else name: tensor for name, tensor in state_dict.items()
        }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initial values.

        | parameter                                  | distribution                                            |
        |--------------------------------------------|---------------------------------------------------------|
        | dense kernels, W_r                         | `initializer`: (truncated) normal(0, initializer_std)   |
        |                                            | or uniform(-initializer_range, initializer_range)       |
        | embeddings (token, position, segment)      | the same                                                |
        | r_w, r_r, r_s, segment vectors of attention| the same                                                |
        | biases                                     | 0                                                       |
        | LayerNorm gain, bias                       | 1, 0                                                    |

        Truncation is at two standard deviations. Source: the original code's defaults (truncated normal, 0.02).
        """
        if isinstance(module, nn.Linear):
            self._draw(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            self._draw(module.weight)
        elif isinstance(module, Attention):
            self._draw(module.content_bias)
            if module.relative is not None:
                for parameter in (module.position_bias, module.segment_bias, module.segment_embedding):
                    self._draw(parameter)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def _draw(self, parameter: Tensor) -> None:
        config = self.config
        std, limit = config.initializer_std, config.initializer_range
        if config.initializer == "uniform":
            init.uniform_(parameter, -limit, limit)
        elif config.initializer == "normal":
            init.normal_(parameter, mean=0.0, std=std)
        else:
            init.trunc_normal_(parameter, mean=0.0, std=std, a=-2 * std, b=2 * std)


class FunnelformerModel(FunnelformerPreTrainedModel):
    """Encoder that shortens the sequence block by block, and a decoder back to full length where the config has one.

    add_decoder: False leaves the decoder out whatever the config says, for heads that read the first token alone.
    Source: Dai et al. 2020, arXiv:2006.03236.
    """

    # Heads for whole sequences drop the decoder of a pretrained checkpoint.
    _keys_to_ignore_on_load_unexpected = [r"(^|\.)decoder\.layers\."]

    def __init__(self, config: FunnelformerConfig, add_decoder: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config) if add_decoder and config.decoder_layers else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
    ) -> FunnelformerModelOutput | tuple[Tensor, ...]:
        """Encode a batch of token sequences of any length >= 1.

        attention_mask: 1 for real tokens, 0 for padding. With `padding="exact"` padding may be on either side.
        token_type_ids: segments of the input; `config.cls_token_type_id` belongs to every one.
        segment_ids: PoNet's segments, numbers below a sequence's length, in place of those of `config.ponet_segments`.
        position_ids: rows are packed: each sequence follows the last one without padding and counts from 0 on, as in
            transformers' `DataCollatorWithFlattening`. Every state is what the sequence has alone; hidden states and
            weights that are asked for are those of the N sequences, padded.
        Raises ValueError unless exactly one of `input_ids` and `inputs_embeds` is given, when shapes disagree, or for
        other numbers in `segment_ids` or `position_ids`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, and only one of them")
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        batch_size, length = given.shape[:2]
        if length == 0:
            raise ValueError("the input has no tokens; a sequence needs at least one")
        config = self.config
        if segment_ids is not None and "ponet" not in config.block_mixers:
            raise ValueError("segment_ids are PoNet's, and the model has no such mixer")
        for name, tensor in (
            ("attention_mask", attention_mask),
            ("token_type_ids", token_type_ids),
            ("segment_ids", segment_ids),
            ("position_ids", position_ids),
        ):
            if tensor is not None and tensor.shape != (batch_size, length):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the input {(batch_size, length)}")
        if token_type_ids is None and config.default_token_type_id is not None:
            token_type_ids = torch.full(
                (batch_size, length), config.default_token_type_id, dtype=torch.long, device=given.device
            )
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if output_attentions is None:
            output_attentions = config.output_attentions
        trace = Trace(bool(output_hidden_states), bool(output_attentions))
        if (
            trace.attentions is not None
            and "attention" in config.block_mixers
            and config._attn_implementation != "eager"
        ):
            logger.warning_once(
                "output_attentions: eager attention takes the place of the faster ones, which give none"
            )

        keep = None if attention_mask is None else attention_mask.bool()
        order = inverse = packing = None
        if position_ids is not None:
            if attention_mask is not None or config.padding != "exact":
                raise ValueError('packed rows have no attention_mask, and need padding="exact"')
            keep = _keep_of_packed(position_ids)
            packing, length = pack(keep), keep.size(1)
            token_type_ids = _unpacked(token_type_ids, packing)
            input_ids = _unpacked(input_ids, packing)
            segment_ids = _unpacked(segment_ids, packing)
            inputs_embeds = _unpacked(inputs_embeds, packing)
        elif keep is not None and config.padding == "exact":
            # Every sequence starts at index 0, so that windows and distances do not depend on the padding's side.
            place = torch.arange(length, device=given.device)[None]
            num_leading = keep.to(torch.uint8).argmax(1, keepdim=True)
            num_places = place[:, -1:] + 1  # as a tensor, so that an exported graph has it from the input
            order, inverse = (place + num_leading) % num_places, (place - num_leading) % num_places
            keep = keep.gather(1, order)
            token_type_ids = None if token_type_ids is None else token_type_ids.gather(1, order)
            input_ids = None if input_ids is None else input_ids.gather(1, order)
            segment_ids = None if segment_ids is None else segment_ids.gather(1, order)
            inputs_embeds = _reorder(inputs_embeds, order)
            if config.unpad and not torch.compiler.is_compiling():
                packing = pack(keep)

        embedded = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = self.embeddings(embedded, token_type_ids)
        state = start_state(length, keep, token_type_ids, hidden.device)
        if "ponet" in config.block_mixers:
            state = add_segments(state, input_ids, segment_ids, config)
        hidden, state = packed(hidden, packing), replace(state, packing=packing)
        encoded, encoded_state, skip = self.encoder(hidden, state, trace)
        last = encoded if self.decoder is None else self.decoder(encoded, encoded_state, skip, state, trace)

        if position_ids is not None:
            return self._packed_output(last, encoded, encoded_state, position_ids, trace, return_dict)
        encoded = padded(encoded, encoded_state.packing)
        num_full = 1 + config.block_applications[0]
        num_encoder = 1 + sum(config.block_applications)
        hidden_states = None
        if trace.hidden_states is not None:
            hidden_states = tuple(
                _reorder(states, inverse) if i < num_full or i >= num_encoder else states
                for i, states in enumerate(trace.hidden_states)
            )
        if config.num_blocks == 1:
            encoded, encoded_keep = _reorder(encoded, inverse), attention_mask
        else:
            encoded_keep = None if encoded_state.keep is None else encoded_state.keep.long()
        output = FunnelformerModelOutput(
            last_hidden_state=encoded if self.decoder is None else _reorder(padded(last, packing), inverse),
            encoder_last_hidden_state=encoded,
            encoder_attention_mask=encoded_keep,
            hidden_states=hidden_states,
            attentions=None if trace.attentions is None else tuple(trace.attentions),
        )
        return output if wants_dict(return_dict, config) else output.to_tuple()

    def sequence_vectors(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """One vector a sequence, of the encoder's states (`config.classifier_pooling`), see `sequence_vector`.

        The decoder, where the config has one, runs to no purpose: load with decoder_layers=0. Inputs as of `forward`.
        """
        output = self(input_ids, attention_mask, token_type_ids, inputs_embeds, None, None, True, segment_ids)
        return sequence_vector(output, self.config)

    def _packed_output(
        self,
        last: Float[Tensor, "1 P D"],
        encoded: Float[Tensor, "1 S D"],
        encoded_state: SequenceState,
        position_ids: Int[Tensor, "B T"],
        trace: Trace,
        return_dict: bool | None,
    ) -> FunnelformerModelOutput | tuple[Tensor, ...]:
        """States of full length in the rows of the input, pooled ones in one row."""
        assert encoded_state.keep is not None
        places = torch.arange(encoded_state.keep.size(1), device=encoded.device)
        is_full = self.decoder is not None or self.config.num_blocks == 1
        output = FunnelformerModelOutput(
            last_hidden_state=last.view(*position_ids.shape, -1) if is_full else last,
            encoder_last_hidden_state=encoded,
            encoder_position_ids=packed(places.expand_as(encoded_state.keep), encoded_state.packing),
            hidden_states=None if trace.hidden_states is None else tuple(trace.hidden_states),
            attentions=None if trace.attentions is None else tuple(trace.attentions),
        )
        return output if wants_dict(return_dict, self.config) else output.to_tuple()


def sequence_vector(output: FunnelformerModelOutput, config: FunnelformerConfig) -> Float[Tensor, "B D"]:
    """One vector a sequence: the encoder's first real token ([CLS]), or the mean of its real tokens.

    They are the tokens of the encoder's own length S, and each counts once: [CLS], and every window of 2^(blocks - 1)
    tokens with a real one in it, however many those are (`encoder_attention_mask` of `padding="exact"`).
    """
    encoded, mask = output.encoder_last_hidden_state, output.encoder_attention_mask
    assert encoded is not None
    if output.encoder_position_ids is not None:
        row, is_first = encoded[0], output.encoder_position_ids[0] == 0
        if config.classifier_pooling == "cls":
            return row[is_first]
        number = is_first.cumsum(0) - 1
        counts = number.bincount()[:, None]
        return row.new_zeros(counts.size(0), row.size(1)).index_add(0, number, row) / counts
    if config.classifier_pooling == "mean":
        if mask is None:
            return encoded.mean(1)
        weight = mask.to(encoded.dtype)[..., None]
        return (encoded * weight).sum(1) / weight.sum(1).clamp(min=1)
    if config.num_blocks > 1 or mask is None or config.padding != "exact":
        return encoded[:, 0]
    first = mask.bool().to(torch.uint8).argmax(1)
    return encoded[torch.arange(encoded.size(0), device=encoded.device), first]


def _keep_of_packed(position_ids: Int[Tensor, "B T"]) -> Bool[Tensor, "N L"]:
    """The mask [N, L] of the N sequences in packed rows, as a padded batch. Raises ValueError for other positions."""
    positions = position_ids.flatten()
    is_first = positions == 0
    places = torch.arange(len(positions), device=positions.device)
    starts = torch.where(is_first, places, 0).cummax(0).values
    if (positions != places - starts).any():
        raise ValueError(
            "position_ids of packed rows must count 0, 1, 2, ... from each sequence's first token on"
        )
    lengths = (is_first.cumsum(0) - 1).bincount()[:, None]
    return torch.arange(int(lengths.max()), device=positions.device) < lengths


def _unpacked(x: Tensor | None, packing: Packing) -> Any:
    return None if x is None else padded(x.flatten(0, 1)[None], packing)


def _reorder(hidden: Any, order: Tensor | None) -> Any:
    if hidden is None or order is None:
        return hidden
    return hidden.gather(1, order[..., None].expand(-1, -1, hidden.size(-1)))


def wants_dict(return_dict: bool | None, config: FunnelformerConfig) -> bool:
    return bool(config.return_dict if return_dict is None else return_dict)
