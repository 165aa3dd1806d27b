"""Answers as spans of tokens: the head of the paper, and the losses and masks of either head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..config.model_config import FunnelformerConfig

__all__ = [
    "ConditionalSpanHead",
    "SpanOutput",
    "first_real",
    "hide",
    "no_answer_loss",
    "span_loss",
]


@dataclass
class SpanOutput(ModelOutput):
    """What `FunnelformerForQuestionAnswering` returns.

    start_logits: [B, T]. end_logits: [B, T]; of the conditional head [B, K, T], given each of `start_index`.
    start_index: [B, K], the starts that ends were looked for from; of the conditional head alone.
    null_logits: [B], the log-odds of there being no answer; of the conditional head alone.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    start_index: Tensor | None = None
    null_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ConditionalSpanHead(nn.Module):
    """The end given the start, and whether there is an answer at all.

    start: linear(h). end: linear(LayerNorm(tanh(dense [h; h_start]))). null: linear(dropout(tanh(dense [E h; h_CLS]))),
    where E h averages the states by the probability that the answer starts there.
    Source: Dai et al. 2020, after Yang et al. 2019 (XLNet), arXiv:1906.08237, and its public code.
    """

    weights_read = ("end_dense",)

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.start = nn.Linear(size, 1)
        self.end_dense = nn.Linear(2 * size, size)
        self.end_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.end = nn.Linear(size, 1)
        self.null_dense = nn.Linear(2 * size, size)
        rate = config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)
        self.null = nn.Linear(size, 1, bias=False)

    def starts(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
        return self.start(hidden).squeeze(-1)

    def ends(self, hidden: Float[Tensor, "B T D"], start_index: Int[Tensor, "B K"]) -> Float[Tensor, "B K T"]:
        """Logits of the ends, given each of K starts."""
        of_token, of_start = self.end_dense.weight.chunk(
            2, dim=1
        )  # the product of [h; h_start], once a token
        tokens = F.linear(hidden, of_token, self.end_dense.bias)
        if torch.compiler.is_exporting():  # as many starts as the input's length allows
            states = hidden.gather(1, start_index[..., None].expand(-1, -1, hidden.size(-1)))
            joined = torch.tanh(tokens[:, None] + F.linear(states, of_start)[:, :, None])
            return self.end(self.end_norm(joined)).squeeze(-1)
        found = []
        for index in start_index.unbind(1):  # one after another: [B, K, T, D] need not exist
            state = hidden[torch.arange(hidden.size(0), device=hidden.device), index]
            joined = torch.tanh(tokens + F.linear(state, of_start)[:, None])
            found.append(self.end(self.end_norm(joined)).squeeze(-1))
        return torch.stack(found, dim=1)

    def nulls(
        self,
        hidden: Float[Tensor, "B T D"],
        start_logits: Float[Tensor, "B T"],
        cls_index: Int[Tensor, " B"],
    ) -> Float[Tensor, " B"]:
        """Log-odds that there is no answer. start_logits: very low where no answer may start, see `hide`."""
        expected = torch.einsum("bt,btd->bd", start_logits.float().softmax(-1).to(hidden.dtype), hidden)
        first = hidden[torch.arange(hidden.size(0), device=hidden.device), cls_index]
        joined = torch.tanh(self.null_dense(torch.cat([expected, first], dim=-1)))
        return self.null(self.dropout(joined)).squeeze(-1)

    def beam(
        self, start_logits: Float[Tensor, "B T"], cls_index: Int[Tensor, " B"], width: int
    ) -> Int[Tensor, "B K"]:
        """The best starts except [CLS], which is not part of a passage; K = min(width, T)."""
        others = start_logits.scatter(1, cls_index[:, None], -torch.inf)
        return others.topk(torch.sym_min(width, start_logits.size(1)), dim=1).indices


def hide(logits: Float[Tensor, "B *K T"], answer_mask: Num[Tensor, "B T"] | None) -> Float[Tensor, "B *K T"]:
    """Give the logits of tokens that no answer begins or ends at (0 in the mask) the lowest finite value."""
    if answer_mask is None:
        return logits
    mask = answer_mask.bool().view(answer_mask.size(0), *[1] * (logits.dim() - 2), answer_mask.size(1))
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def span_loss(
    start_logits: Float[Tensor, "B T"],
    end_logits: Float[Tensor, "B T"],
    start_positions: Int[Tensor, " B"],
    end_positions: Int[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Mean of the two cross-entropies. Positions outside of the input do not count; if none is left, the loss is 0."""
    length = start_logits.size(1)
    losses = []
    for logits, positions in ((start_logits, start_positions), (end_logits, end_positions)):
        target = positions.clamp(0, length)
        total = F.cross_entropy(logits.float(), target, ignore_index=length, reduction="sum")
        losses.append(total / (target < length).sum().clamp(min=1))
    return torch.stack(losses).mean()


def first_real(
    attention_mask: Num[Tensor, "B T"] | None, hidden: Float[Tensor, "B T D"]
) -> Int[Tensor, " B"]:
    """Index of each sequence's first real token, [CLS]."""
    if attention_mask is None:
        return torch.zeros(hidden.size(0), dtype=torch.long, device=hidden.device)
    return attention_mask.bool().to(torch.uint8).argmax(1)


def no_answer_loss(
    null_logits: Float[Tensor, " B"],
    start_positions: Int[Tensor, " B"],
    cls_index: Int[Tensor, " B"],
    length: int,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of there being no answer, which a start at [CLS] says; a start outside takes no part."""
    inside: Bool[Tensor, " B"] = start_positions < length
    losses = F.binary_cross_entropy_with_logits(
        null_logits.float(), (start_positions == cls_index).float(), reduction="none"
    )
    return torch.where(inside, losses, 0.0).sum() / inside.sum().clamp(min=1)
