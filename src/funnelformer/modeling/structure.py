"""Masked language modelling together with the sentence-structure objective."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..config.model_config import FunnelformerConfig
from .heads import FunnelformerForMaskedLM, MaskedLMHead, check_decoder, without_mask_tokens
from .model import FunnelformerModel, FunnelformerPreTrainedModel, sequence_vector, wants_dict

__all__ = ["NUM_STRUCTURE_LABELS", "FunnelformerForSentenceStructure", "StructureOutput"]

NUM_STRUCTURE_LABELS = 3  # B follows A, B precedes A, B is from elsewhere: the numbers of `data.pairs`


@dataclass
class StructureOutput(ModelOutput):
    """loss: the sum of the two; mlm_loss, structure_loss: means over this batch's own targets and pairs.

    logits: of the tokens, as `FunnelformerForMaskedLM` gives them; structure_logits: [B, 3].
    structure_accuracy: share of this batch's pairs that were told right.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    structure_logits: Tensor | None = None
    mlm_loss: Tensor | None = None
    structure_loss: Tensor | None = None
    structure_accuracy: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class StructureHead(nn.Module):
    """The published pooler (dense, tanh) and a linear layer to the three classes."""

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, NUM_STRUCTURE_LABELS)

    def forward(self, vector: Float[Tensor, "B D"]) -> Float[Tensor, "B 3"]:
        return self.output(torch.tanh(self.dense(vector)))


class FunnelformerForSentenceStructure(FunnelformerPreTrainedModel):
    """Predict hidden tokens, and how the second part of the input relates to the first.

    The first reads the decoder's states, the second what a fine-tuned sequence head will read: the encoder's first
    token (`config.classifier_pooling`). Saved, it is a `FunnelformerForMaskedLM` with `structure_head` besides.
    Source: Tan et al. 2022, arXiv:2110.02442; the classes are those of Wang et al. 2019, arXiv:1908.04577.
    """

    _tied_weights_keys = FunnelformerForMaskedLM._tied_weights_keys

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__(config)
        check_decoder(config, "masked language modelling")
        self.funnelformer = FunnelformerModel(config)
        self.lm_head = MaskedLMHead(config)
        self.structure_head = StructureHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head.decoder = new_embeddings

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As in transformers, under the name of the model that every command takes."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            config = copy.deepcopy(self.config)
            config.architectures = [FunnelformerForMaskedLM.__name__]
            config.save_pretrained(save_directory)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        structure_labels: Int[Tensor, " B"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> StructureOutput | tuple[Tensor, ...]:
        """Return both heads' logits, and the loss of each head whose labels are given.

        labels: -100 where there is no target; structure_labels: 0 to 2, -100 for a text without a second part.
        num_items_in_batch: the targets of all batches of the step, on all processes. The loss of the tokens is
            divided by it; the mean over the pairs counts by the batch's share of it, so that the shares sum to 1.
        """
        output = self._encode(
            input_ids=input_ids,
            attention_mask=without_mask_tokens(attention_mask, input_ids, self.config),
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            segment_ids=segment_ids,
        )
        hidden = output.last_hidden_state
        assert hidden is not None
        if self.config.sparse_prediction and labels is not None:
            is_target = labels != -100
            hidden, labels = hidden[is_target], labels[is_target]
        result = StructureOutput(
            logits=self.lm_head(hidden),
            structure_logits=self.structure_head(sequence_vector(output, self.config)),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
        share: Tensor | float = 1.0
        if labels is not None:
            num_targets = (labels != -100).sum()
            result.mlm_loss = _mean_cross_entropy(result.logits, labels)
            share = 1.0 if num_items_in_batch is None else num_targets / num_items_in_batch
            result.loss = result.mlm_loss * share
        if structure_labels is not None:
            logits = result.structure_logits
            assert logits is not None
            result.structure_loss = _mean_cross_entropy(logits, structure_labels)
            is_pair = structure_labels != -100
            right = (logits.detach().argmax(-1) == structure_labels) & is_pair
            result.structure_accuracy = right.sum() / is_pair.sum().clamp(min=1)
            part = result.structure_loss * share
            result.loss = part if result.loss is None else result.loss + part
        return result if wants_dict(return_dict, self.config) else result.to_tuple()


def _mean_cross_entropy(logits: Any, labels: Tensor) -> Tensor:
    """In float32; 0 with its gradient where nothing is labelled, so that such a batch harms no other."""
    total = F.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / (labels != -100).sum().clamp(min=1)
