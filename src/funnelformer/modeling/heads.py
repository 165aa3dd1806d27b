"""Heads: masked language modelling, replaced-token detection, classification or regression of whole sequences."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from ..config.model_config import FunnelformerConfig
from .encoder import activation
from .model import (
    FunnelformerModel,
    FunnelformerModelOutput,
    FunnelformerPreTrainedModel,
    sequence_vector,
    wants_dict,
)

__all__ = [
    "FunnelformerForMaskedLM",
    "FunnelformerForSequenceClassification",
    "FunnelformerForTokenDetection",
    "HeadOutput",
    "without_mask_tokens",
]


@dataclass
class HeadOutput(ModelOutput):
    """What a model with a head returns: loss (with labels), logits, and the states and weights asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MaskedLMHead(nn.Module):
    """Dense to the embedding's width, activation, LayerNorm, tied embedding, bias; "linear" has the last two alone.

    Source: Dai et al. 2020 and the original code's `lm_proj` and `lm_loss`.
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.dense: nn.Linear | None = None
        if config.mlm_head == "dense":
            self.dense = nn.Linear(config.hidden_size, size)
            self.activation = activation(config)
            self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        elif size != config.hidden_size:
            raise ValueError(
                f'mlm_head="linear" needs embedding_size {size} == hidden_size {config.hidden_size}'
            )
        self.decoder = nn.Linear(size, config.vocab_size)

    def forward(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        if self.dense is not None:
            hidden = self.layer_norm(self.activation(self.dense(hidden)))
        return self.decoder(hidden)


class FunnelformerForMaskedLM(FunnelformerPreTrainedModel):
    """Predict the tokens behind `<mask>`, from the decoder's states (or a one-block encoder's)."""

    _tied_weights_keys = {"lm_head.decoder.weight": "funnelformer.embeddings.word_embeddings.weight"}

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__(config)
        check_decoder(config, "masked language modelling")
        self.funnelformer = FunnelformerModel(config)
        self.lm_head = MaskedLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head.decoder = new_embeddings

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        **kwargs: Any,
    ) -> HeadOutput | tuple[Tensor, ...]:
        """Return logits [B, T, V], and with `labels` (-100: no target) the mean cross-entropy of the targets.

        With `config.sparse_prediction` and labels, logits are [number of targets, V].
        With `config.hide_mask_tokens` `<mask>` tokens of `input_ids` count as padding; the first token may not be one.
        kwargs: `num_items_in_batch` of the Trainer divides the loss in place of the targets of this batch.
        """
        output = self._encode(
            input_ids=input_ids,
            attention_mask=without_mask_tokens(attention_mask, input_ids, self.config),
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            segment_ids=segment_ids,
            position_ids=position_ids,
        )
        hidden = output.last_hidden_state
        assert hidden is not None
        if self.config.sparse_prediction and labels is not None:
            is_target = labels != -100
            hidden, labels = hidden[is_target], labels[is_target]
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return finish(loss, logits, output, return_dict, self.config)


def without_mask_tokens(
    attention_mask: Num[Tensor, "B T"] | None,
    input_ids: Int[Tensor, "B T"] | None,
    config: FunnelformerConfig,
) -> Num[Tensor, "B T"] | None:
    """The mask; with `config.hide_mask_tokens` it counts `<mask>` as padding."""
    if not config.hide_mask_tokens:
        return attention_mask
    if input_ids is None:
        raise ValueError("hide_mask_tokens needs input_ids")
    assert config.mask_token_id is not None  # the config has seen to it
    visible = input_ids.ne(config.mask_token_id).long()
    return visible if attention_mask is None else attention_mask * visible


class TokenDetectionHead(nn.Module):
    """Dense with activation, then one logit a token. Source: the original code's `binary_proj` and `binary_loss`."""

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config)
        self.output = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
        return self.output(self.activation(self.dense(hidden))).squeeze(-1)


class FunnelformerForTokenDetection(FunnelformerPreTrainedModel):
    """Decide for every token whether it is the original one. A positive logit says original, as in the paper's code.

    (ELECTRA's own code and transformers' say 1 for replaced: their logit is minus this one.)
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__(config)
        check_decoder(config, "replaced-token detection")
        self.funnelformer = FunnelformerModel(config)
        self.detector = TokenDetectionHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> HeadOutput | tuple[Tensor, ...]:
        """Return logits [B, T], and with `labels` (1: original, 0: replaced, -100: neither) the mean cross-entropy.

        num_items_in_batch: divides the loss in place of the labels of this batch.
        """
        output = self._encode(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            segment_ids=segment_ids,
        )
        logits = self.detector(output.last_hidden_state)
        loss = None
        if labels is not None:
            counts = labels != -100
            losses = F.binary_cross_entropy_with_logits(
                logits.float(), labels.clamp(min=0).float(), reduction="none"
            )
            total = torch.where(counts, losses, 0.0).sum()
            loss = total / (counts.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return finish(loss, logits, output, return_dict, self.config)


class SequenceHead(nn.Module):
    """Dense with `config.classifier_activation`, dropout, linear; `classifier_head="linear"` has the last two alone.

    Source: Dai et al. 2020, with tanh (`cls_head`).
    """

    def __init__(self, config: FunnelformerConfig, num_outputs: int | None = None) -> None:
        """num_outputs: by default one a label."""
        super().__init__()
        self.dense: nn.Linear | None = None
        if config.classifier_head == "dense":
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
            self.activation = ACT2FN[config.classifier_activation]
        rate = config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)
        self.output = nn.Linear(config.hidden_size, num_outputs or config.num_labels or 2)

    def forward(self, vector: Float[Tensor, "B D"]) -> Float[Tensor, "B L"]:
        if self.dense is not None:
            vector = self.activation(self.dense(vector))
        return self.output(self.dropout(vector))


class FunnelformerForSequenceClassification(FunnelformerPreTrainedModel):
    """Classify or score a whole sequence from its one vector (`config.classifier_pooling`); there is no decoder.

    `config.num_labels` 1 is regression (mean squared error); `config.problem_type` may say
    "multi_label_classification" as in transformers.
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        config = copy.deepcopy(config)
        config.decoder_layers, config.decoder_skip_state = 0, None
        super().__init__(config)
        self.funnelformer = FunnelformerModel(config)
        self.classifier = SequenceHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        labels: Num[Tensor, "N ..."] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
    ) -> HeadOutput | tuple[Tensor, ...]:
        """Return logits [B, num_labels], and with `labels` the loss."""
        output = self._encode(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            segment_ids=segment_ids,
            position_ids=position_ids,
        )
        logits = self.classifier(sequence_vector(output, self.config))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return finish(loss, logits, output, return_dict, self.config)


def check_decoder(config: FunnelformerConfig, task: str) -> None:
    if config.num_blocks > 1 and not config.decoder_layers:
        raise ValueError(f"{task} needs a decoder: set decoder_layers >= 1")


def finish(
    loss: Tensor | None,
    logits: Tensor,
    output: FunnelformerModelOutput,
    return_dict: bool | None,
    config: FunnelformerConfig,
) -> HeadOutput | tuple[Tensor, ...]:
    result = HeadOutput(
        loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
    )
    return result if wants_dict(return_dict, config) else result.to_tuple()
