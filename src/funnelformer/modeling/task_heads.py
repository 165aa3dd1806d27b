"""Heads for labels of tokens, spans that answer a question, and the choice among several texts."""

from __future__ import annotations

import copy
from typing import Any

from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.model_config import FunnelformerConfig
from .heads import HeadOutput, SequenceHead, check_decoder, finish
from .model import FunnelformerModel, FunnelformerPreTrainedModel, sequence_vector, wants_dict
from .span_head import ConditionalSpanHead, SpanOutput, first_real, hide, no_answer_loss, span_loss

__all__ = [
    "FunnelformerForMultipleChoice",
    "FunnelformerForQuestionAnswering",
    "FunnelformerForTokenClassification",
]


class FunnelformerForTokenClassification(FunnelformerPreTrainedModel):
    """A label for every token, by dropout and a linear layer on the decoder's states (or a one-block encoder's)."""

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__(config)
        check_decoder(config, "token classification")
        self.funnelformer = FunnelformerModel(config)
        rate = config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
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
        position_ids: Int[Tensor, "B T"] | None = None,
        **kwargs: Any,
    ) -> HeadOutput | tuple[Tensor, ...]:
        """Return logits [B, T, num_labels], and with `labels` (-100: no label) the mean cross-entropy.

        kwargs: `num_items_in_batch` of the Trainer divides the loss in place of the labels of this batch.
        """
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
        logits = self.classifier(self.dropout(output.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return finish(loss, logits, output, return_dict, self.config)


class FunnelformerForQuestionAnswering(FunnelformerPreTrainedModel):
    """First and last token of the answer, from the decoder's states (or a one-block encoder's).

    config.qa_head: "simple", one linear layer for both (transformers' convention); or "conditional", the paper's
    `ConditionalSpanHead`.
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        config = copy.deepcopy(config)
        config.num_labels = 2
        super().__init__(config)
        check_decoder(config, "question answering")
        self.funnelformer = FunnelformerModel(config)
        self.qa_outputs: nn.Module = (
            nn.Linear(config.hidden_size, 2) if config.qa_head == "simple" else ConditionalSpanHead(config)
        )
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        start_positions: Int[Tensor, " B"] | None = None,
        end_positions: Int[Tensor, " B"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
        answer_mask: Num[Tensor, "B T"] | None = None,
    ) -> SpanOutput | tuple[Tensor, ...]:
        """Return start and end logits, see `SpanOutput`, and with both positions the loss.

        A position outside of the input takes no part in the loss; a start at [CLS], the first real token, says that
        there is no answer.
        answer_mask: 1 for the tokens that an answer may begin or end at, the passage and [CLS]; logits elsewhere are
            very low. By default all tokens of the simple head (as in transformers), the real ones of the conditional.
        With positions, in training, the conditional head looks for ends from the true start alone; otherwise from a
        beam of the `config.qa_start_beam` best. Its loss is 0.5 (start + end) + 0.5 (no answer).
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
        hidden = output.last_hidden_state
        assert hidden is not None
        positions = (
            None if start_positions is None or end_positions is None else (start_positions, end_positions)
        )
        if isinstance(self.qa_outputs, ConditionalSpanHead):
            result = self._conditional(self.qa_outputs, hidden, attention_mask, answer_mask, positions)
        else:
            start, end = (hide(logits, answer_mask) for logits in self.qa_outputs(hidden).unbind(-1))
            loss = None if positions is None else span_loss(start, end, *positions)
            result = SpanOutput(loss=loss, start_logits=start, end_logits=end)
        result.hidden_states, result.attentions = output.hidden_states, output.attentions
        return result if wants_dict(return_dict, self.config) else result.to_tuple()

    def _conditional(
        self,
        head: ConditionalSpanHead,
        hidden: Float[Tensor, "B T D"],
        attention_mask: Num[Tensor, "B T"] | None,
        answer_mask: Num[Tensor, "B T"] | None,
        positions: tuple[Tensor, Tensor] | None,
    ) -> SpanOutput:
        mask = attention_mask if answer_mask is None else answer_mask
        cls_index = first_real(attention_mask, hidden)
        start = hide(head.starts(hidden), mask)
        null = head.nulls(hidden, start, cls_index)
        loss = ends = index = None
        if positions is not None:
            length = hidden.size(1)
            index = positions[0].clamp(0, length - 1)[:, None]
            ends = hide(head.ends(hidden, index), mask)
            no_answer = no_answer_loss(null, positions[0], cls_index, length)
            loss = span_loss(start, ends[:, 0], *positions) + 0.5 * no_answer
        if ends is None or not self.training:
            index = head.beam(start, cls_index, self.config.qa_start_beam)
            ends = hide(head.ends(hidden, index), mask)
        return SpanOutput(loss=loss, start_logits=start, end_logits=ends, start_index=index, null_logits=null)


class FunnelformerForMultipleChoice(FunnelformerPreTrainedModel):
    """One score for each choice, from its sequence's vector (`config.classifier_pooling`); there is no decoder."""

    def __init__(self, config: FunnelformerConfig) -> None:
        config = copy.deepcopy(config)
        config.decoder_layers, config.decoder_skip_state = 0, None
        super().__init__(config)
        self.funnelformer = FunnelformerModel(config)
        self.classifier = SequenceHead(config, num_outputs=1)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B C T"] | None = None,
        attention_mask: Num[Tensor, "B C T"] | None = None,
        token_type_ids: Int[Tensor, "B C T"] | None = None,
        inputs_embeds: Float[Tensor, "B C T W"] | None = None,
        labels: Int[Tensor, " B"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B C T"] | None = None,
    ) -> HeadOutput | tuple[Tensor, ...]:
        """Return logits [B, C] for C choices, and with `labels` the cross-entropy. States are of B * C sequences."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("give input_ids or inputs_embeds, and only one of them")
        output = self._encode(
            input_ids=_flat(input_ids),
            attention_mask=_flat(attention_mask),
            token_type_ids=_flat(token_type_ids),
            inputs_embeds=_flat(inputs_embeds),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            segment_ids=_flat(segment_ids),
        )
        logits = self.classifier(sequence_vector(output, self.config)).view(given.shape[:2])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return finish(loss, logits, output, return_dict, self.config)


def _flat(x: Any) -> Any:
    """The choices of all rows as rows of their own."""
    return None if x is None else x.flatten(0, 1)
