"""The objectives of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..modeling import FunnelformerForMaskedLM
from ..modeling.electra import FunnelformerForElectra
from ..modeling.structure import FunnelformerForSentenceStructure
from .electra import LOSSES, SHARES, ElectraTrainer
from .pretrain_trainer import PretrainTrainer

__all__ = ["OBJECTIVES", "Objective"]


@dataclass(frozen=True)
class Objective:
    """A way to pretrain.

    model_class: its forward gives the loss from what `MaskedBlocks.collate` makes.
    heads: prefixes of the parameters that the weights of a model to go on from may lack.
    logged: fields of its output, numbers, that go to the log beside the loss.
    mlm_loss: the field with the loss of the hidden tokens, whose exponential is the perplexity.
    pairs: it needs rows of the form "structure", and their labels.
    trainer_class: takes `logged`.
    """

    model_class: Any
    heads: tuple[str, ...] = ("lm_head.", "funnelformer.decoder.")
    logged: tuple[str, ...] = ()
    mlm_loss: str = "loss"
    pairs: bool = False
    trainer_class: type[PretrainTrainer] = PretrainTrainer


OBJECTIVES: dict[str, Objective] = {
    "mlm": Objective(FunnelformerForMaskedLM),
    "mlm+sso": Objective(
        FunnelformerForSentenceStructure,
        heads=("lm_head.", "funnelformer.decoder.", "structure_head."),
        logged=("mlm_loss", "structure_loss", "structure_accuracy"),
        mlm_loss="mlm_loss",
        pairs=True,
    ),
    "electra": Objective(
        FunnelformerForElectra,
        heads=(),
        logged=(*LOSSES, *SHARES),
        mlm_loss="generator_loss",
        trainer_class=ElectraTrainer,
    ),
}
