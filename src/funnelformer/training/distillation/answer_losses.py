"""How far a model's answers are from a teacher's: one number a text, choice, tag or window, in every kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["answer_losses", "divergence", "label_divergence"]

_NO_LABEL = -100


def divergence(
    ours: Float[Tensor, "P L"], theirs: Float[Tensor, "P L"], temperature: float
) -> Float[Tensor, " P"]:
    """T^2 KL(softmax(theirs / T) || softmax(ours / T)): of classes that exclude each other.

    T^2 keeps the size of the gradient. Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
    """
    mine, other = ((logits.float() / temperature).log_softmax(-1) for logits in (ours, theirs))
    return temperature**2 * F.kl_div(mine, other, reduction="none", log_target=True).sum(-1)


def label_divergence(
    ours: Float[Tensor, "P L"], theirs: Float[Tensor, "P L"], temperature: float
) -> Float[Tensor, " P"]:
    """T^2 KL of the yes or no to each label, averaged over the labels as their cross-entropy is."""
    mine, other = ours.float() / temperature, theirs.float() / temperature
    share = other.sigmoid()
    yes = share * (F.logsigmoid(other) - F.logsigmoid(mine))
    no = (1 - share) * (F.logsigmoid(-other) - F.logsigmoid(-mine))
    return temperature**2 * (yes + no).mean(-1)


def answer_losses(
    kind: str,
    outputs: Mapping[str, Tensor],
    theirs: Float[Tensor, "P W"],
    inputs: Mapping[str, Any],
    temperature: float,
) -> Float[Tensor, " N"]:
    """The loss of each text or window, or of each tag that is learned, one row after another.

    kind: of the task. outputs: of the model for `inputs`, which have the labels of tags and the answer_mask of windows.
    theirs: of texts a row of logits, of amounts of one number; of tags a row of logits each; of windows the logits of
    start and end of each token that an answer may begin or end at.
    """
    if kind == "span":
        may_answer = inputs["answer_mask"].bool()
        whole = theirs.new_zeros((*may_answer.shape, 2))
        whole[may_answer] = theirs
        parts = [
            divergence(
                _only(outputs[name], may_answer, temperature),
                _only(logits, may_answer, temperature),
                temperature,
            )
            for name, logits in zip(("start_logits", "end_logits"), whole.unbind(-1), strict=True)
        ]
        return torch.stack(parts).mean(0)
    logits = outputs["logits"]
    if kind == "tokens":
        logits = logits[inputs["labels"] != _NO_LABEL]
    if kind == "regression":
        return (logits.float().reshape(-1) - theirs.reshape(-1)).square()
    return (label_divergence if kind == "multi-label" else divergence)(logits, theirs, temperature)


def _only(
    logits: Float[Tensor, "B T"], keep: Bool[Tensor, "B T"], temperature: float
) -> Float[Tensor, "B T"]:
    """The logits with no probability elsewhere, also behind a temperature below 1."""
    lowest = torch.finfo(torch.float32).min * min(1.0, temperature)
    return logits.float().masked_fill(~keep, lowest)
