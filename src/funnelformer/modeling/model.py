"""`FunnelformerModel`: encoder and optional decoder behind the transformers interface."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from ..base.bundled import located
from ..base.errors import UserError, did_you_mean
from ..base.foreign_models import reader
from ..config.model_config import FunnelformerConfig
from ..mixers import Mixer, TokenInputs, mixer_class
from ..mixers.attention import IMPLEMENTATIONS, fused
from ..mixers.sequence import SequenceState, packed, padded, start_state
from .arrangement import Arrangement
from .encoder import Decoder, Embeddings, Encoder, Trace
from .prepacked import num_prepacked

__all__ = ["EncoderInputs", "FunnelformerModel", "FunnelformerModelOutput", "FunnelformerPreTrainedModel"]

logger = logging.get_logger(__name__)


@dataclass
class FunnelformerModelOutput(ModelOutput):
    """What `FunnelformerModel` returns.

    last_hidden_state: [B, T, D] from the decoder where the config has one, else `encoder_last_hidden_state`.
    encoder_last_hidden_state: [B, S, D], S the length after the last pooling. With several blocks the first
        real token stands at index 0, also in left-padded batches.
    encoder_attention_mask: [B, S], 1 for the real ones of them; None when no mask was given.
    encoder_token_counts: [B, S], the real tokens that each of them holds; [1, S] of packed input.
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
    encoder_token_counts: Tensor | None = None


class EncoderInputs(TypedDict, total=False):
    """What every model with a head hands on to its body, see `FunnelformerModel.forward`."""

    input_ids: Int[Tensor, "B T"] | None
    attention_mask: Num[Tensor, "B T"] | None
    token_type_ids: Int[Tensor, "B T"] | None
    inputs_embeds: Float[Tensor, "B T W"] | None
    output_hidden_states: bool | None
    output_attentions: bool | None
    segment_ids: Int[Tensor, "B T"] | None
    position_ids: Int[Tensor, "B T"] | None
    use_decoder: bool


class FunnelformerPreTrainedModel(PreTrainedModel):
    """Loading, saving and initial values of all funnelformer models, and the call of the body by every head."""

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
        """As in transformers, but folders and names of other formats load as well, see docs/checkpoints.md.

        blocks, repeats, layout, layers: put the layers of the encoder in other blocks, or keep some of them, as
            `blocks=[2, 2, 2]`, `layout="B2-2-2"`, `layers=[0, 2, 3, 5]`; see `checkpoints.shortening.deal`.
        Raises UserError when the weights do not fit, and for a folder that names code to run, which none of ours does.
        """
        kwargs["trust_remote_code"] = False
        if pretrained_model_name_or_path is not None:
            pretrained_model_name_or_path = located(pretrained_model_name_or_path)
        if pretrained_model_name_or_path is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        hub = {
            key: kwargs[key]
            for key in ("revision", "token", "cache_dir", "local_files_only")
            if key in kwargs
        }
        name = os.fspath(pretrained_model_name_or_path)
        source = reader().find_foreign(name, **hub)
        wishes: dict[str, Any] = {}
        if "config" not in kwargs and not kwargs.keys().isdisjoint(("blocks", "layout", "layers")):
            given = ("layout", "blocks", "repeats", "layers")
            wishes = {key: kwargs.pop(key) for key in given if key in kwargs}
        if source is None and not wishes:
            reader().check_weights(Path(name, kwargs.get("subfolder") or ""))
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        loaded = reader().read_source(name, source, wishes, **hub)
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
        """The implementation asked for, or sdpa. Raises UserError for an unknown name, or one that cannot serve."""
        name = requested_attention or "sdpa"
        if name not in IMPLEMENTATIONS:
            raise UserError(
                f"attn_implementation is {name!r}; allowed: {', '.join(IMPLEMENTATIONS)}"
                f"{did_you_mean(name, IMPLEMENTATIONS)}"
            )
        if name == "triton":
            fused.check_config(self.config)
        return name

    def _encode(self, **inputs: Unpack[EncoderInputs]) -> FunnelformerModelOutput:
        """Run the body; the one place where a head's inputs meet the body's."""
        output: FunnelformerModelOutput = self.base_model(**inputs, return_dict=True)
        return output

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
        elif isinstance(module, Mixer):
            module.init_weights(self._draw)
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
    """Encoder that shortens the sequence block by block, and a decoder back to full length if the config has one.

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
        # Of the mixers that must know more of every token, by name.
        self._start_extra = {
            name: start
            for name in dict.fromkeys(config.block_mixers)
            if (start := mixer_class(name).start_extra) is not None
        }
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
        use_decoder: bool = True,
    ) -> FunnelformerModelOutput | tuple[Tensor, ...]:
        """Encode a batch of token sequences of any length >= 1.

        attention_mask: 1 for real tokens, 0 for padding. With `padding="exact"` padding may be on either side.
        token_type_ids: segments of the input; `config.cls_token_type_id` belongs to every one. A model with absolute
            positions and a `config.type_vocab_size` of 1 knows none.
        segment_ids: PoNet's segments, numbers below a sequence's length, in place of those of `config.ponet_segments`.
        position_ids: given when rows are packed: sequences follow one another without padding, each counted from 0, as
            in transformers' `DataCollatorWithFlattening`. A sequence gets the states that it would get alone; hidden
            states and weights that you ask for are those of the N sequences, padded.
        use_decoder: False stops after the encoder, if you need only its states.
        Raises ValueError unless exactly one of `input_ids` and `inputs_embeds` is given, when shapes disagree, or for
        other numbers in `segment_ids` or `position_ids`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, and only one of them")
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        self._check_inputs(
            given,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            segment_ids=segment_ids,
            position_ids=position_ids,
        )
        token_type_ids = self._known_segments(token_type_ids, given)
        trace = self._start_trace(output_hidden_states, output_attentions)
        arrangement = Arrangement((given.size(0), given.size(1)), attention_mask, position_ids, self.config)
        input_ids, token_type_ids, segment_ids, inputs_embeds = map(
            arrangement.arrange, (input_ids, token_type_ids, segment_ids, inputs_embeds)
        )
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        hidden = packed(self.embeddings(inputs_embeds, token_type_ids), arrangement.packing)
        state = self._start_state(arrangement, token_type_ids, TokenInputs(input_ids, segment_ids), hidden)
        del inputs_embeds  # as long as the states, and read no more
        encoded, encoded_state, skip = self.encoder(hidden, state, trace)
        del hidden
        decoded = None
        if self.decoder is not None and use_decoder:
            decoded = self.decoder(encoded, encoded_state, skip, state, trace)
        output = self._arranged_back(arrangement, trace, encoded, encoded_state, decoded, attention_mask)
        return output if wants_dict(return_dict, self.config) else output.to_tuple()

    def _check_inputs(self, given: Tensor, **others: Tensor | None) -> None:
        """Raise ValueError for no tokens, for segments that no mixer reads, and for shapes other than the first's."""
        shape = (given.size(0), given.size(1))
        if shape[1] == 0:
            raise ValueError("the input has no tokens; a sequence needs at least one")
        if others["segment_ids"] is not None and not self._start_extra:
            raise ValueError("segment_ids are PoNet's, and the model has no such mixer")
        for name, tensor in others.items():
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the input {shape}")

    def _known_segments(self, token_type_ids: Tensor | None, given: Tensor) -> Tensor | None:
        """The segments as the embeddings and the mixers know them."""
        config = self.config
        if config.position == "absolute" and config.type_vocab_size == 1:
            token_type_ids = None  # there is one segment, whatever a tokenizer says of pairs
        if token_type_ids is None and config.default_token_type_id is not None:
            token_type_ids = torch.full(
                given.shape[:2], config.default_token_type_id, dtype=torch.long, device=given.device
            )
        return token_type_ids

    def _start_trace(self, output_hidden_states: bool | None, output_attentions: bool | None) -> Trace:
        """What is kept on the way; by default what the config says."""
        config = self.config
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if output_attentions is None:
            output_attentions = config.output_attentions
        if (
            output_attentions
            and "attention" in config.block_mixers
            and config._attn_implementation != "eager"
        ):
            logger.warning_once(
                "output_attentions: eager attention takes the place of the faster ones, which give none"
            )
        return Trace(bool(output_hidden_states), bool(output_attentions))

    def _arranged_back(
        self,
        arrangement: Arrangement,
        trace: Trace,
        encoded: Tensor,
        state: SequenceState,
        decoded: Tensor | None,
        attention_mask: Tensor | None,
    ) -> FunnelformerModelOutput:
        """The output, with states of all tokens in the order of the input.

        encoded, state: of the encoder. decoded: None where no decoder ran. attention_mask: as it was given.
        """
        is_full = self.config.num_blocks == 1  # a state for every token
        last = encoded if decoded is None else decoded
        encoder_mask, encoder_positions = None, None
        # Of packed rows as many as there are sequences; else one row may stand for all of the batch.
        counts = state.counts
        if arrangement.is_packed:
            encoder_positions = _packed_positions(state)
            counts = packed(counts, state.packing)
        elif is_full:
            encoded, encoder_mask = arrangement.put_back(encoded, state.packing), attention_mask
            counts = arrangement.put_back(counts.expand(arrangement.batch_size, -1), None)
        else:
            counts = counts.expand(arrangement.batch_size, -1)
            encoded = padded(encoded, state.packing)
            encoder_mask = None if state.keep is None else state.keep.long()
        hidden_states = trace.hidden_states
        if hidden_states is not None and not arrangement.is_packed:
            applications = self.config.block_applications
            num_full, num_encoder = 1 + applications[0], 1 + sum(applications)
            hidden_states = [
                arrangement.put_back(states, None) if i < num_full or i >= num_encoder else states
                for i, states in enumerate(hidden_states)
            ]
        has_every_token = decoded is not None or (arrangement.is_packed and is_full)
        return FunnelformerModelOutput(
            last_hidden_state=arrangement.put_back(last, arrangement.packing) if has_every_token else encoded,
            encoder_last_hidden_state=encoded,
            encoder_attention_mask=encoder_mask,
            encoder_position_ids=encoder_positions,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if trace.attentions is None else tuple(trace.attentions),
            encoder_token_counts=counts,
        )

    def _start_state(
        self,
        arrangement: Arrangement,
        token_type_ids: Int[Tensor, "N L"] | None,
        tokens: TokenInputs,
        hidden: Float[Tensor, "M P D"],
    ) -> SequenceState:
        """The state of the arranged tokens, with the extras of the mixers that have some."""
        state = start_state(arrangement.length, arrangement.keep, token_type_ids, hidden.device)
        extras = {name: start(state, tokens, self.config) for name, start in self._start_extra.items()}
        return replace(state, packing=arrangement.packing, extras=extras)

    def sequence_vectors(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """One vector [B, D] for each sequence, see `config.classifier_pooling` and `sequence_vector`.

        The decoder does not run, even if the config has one. The inputs are those of `forward`.
        """
        output = self(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            segment_ids=segment_ids,
            return_dict=True,
            use_decoder=False,
        )
        return sequence_vector(output, self.config)


def sequence_vector(output: FunnelformerModelOutput, config: FunnelformerConfig) -> Float[Tensor, "B D"]:
    """One vector for each sequence, from the encoder's S states, as `config.classifier_pooling` says.

    "cls": the first real one, of [CLS]. "mean": the mean of the real ones, [CLS] and every window of 2^(blocks - 1)
    tokens with a real one in it (`encoder_attention_mask` of `padding="exact"`), each counted once. "mean_tokens": each
    counted as often as the real tokens it holds (`encoder_token_counts`), [CLS] once.
    """
    encoded, mask, pooling = (
        output.encoder_last_hidden_state,
        output.encoder_attention_mask,
        config.classifier_pooling,
    )
    assert encoded is not None
    if output.encoder_position_ids is not None:
        row, is_first = encoded[0], output.encoder_position_ids[0] == 0
        if pooling == "cls":
            return row[is_first]
        number = is_first.cumsum(0) - 1
        counts = output.encoder_token_counts if pooling == "mean_tokens" else torch.ones_like(number)[None]
        assert counts is not None
        weights = counts[0].to(row.dtype)[:, None]
        sums, totals = (
            x.new_zeros(int(is_first.sum()), x.size(1)).index_add(0, number, x)
            for x in (row * weights, weights)
        )
        return sums / totals
    if pooling == "cls":
        if config.num_blocks > 1 or mask is None or config.padding != "exact":
            return encoded[:, 0]
        first = mask.bool().to(torch.uint8).argmax(1)
        return encoded[torch.arange(encoded.size(0), device=encoded.device), first]
    weight = output.encoder_token_counts if pooling == "mean_tokens" else mask
    if weight is None:
        return encoded.mean(1)
    weight = weight.to(encoded.dtype)[..., None]
    return (encoded * weight).sum(1) / weight.sum(1).clamp(min=1)


def _packed_positions(state: SequenceState) -> Int[Tensor, "1 S"]:
    """The position of each pooled token in its own sequence, in one row; a 0 stands where one begins."""
    assert state.keep is not None
    places = torch.arange(state.keep.size(1), device=state.keep.device)
    return packed(places.expand_as(state.keep), state.packing)


def wants_dict(return_dict: bool | None, config: FunnelformerConfig) -> bool:
    return bool(config.return_dict if return_dict is None else return_dict)
