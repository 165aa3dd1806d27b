"""The objectives of pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...modeling import DECODER_PREFIX, HEADS, FunnelformerForMaskedLM
from ...modeling.electra import FunnelformerForElectra
from ...modeling.structure import FunnelformerForSentenceStructure
from .electra_trainer import LOGGED, ElectraTrainer
from .trainer import PretrainTrainer, Unit

__all__ = ["OBJECTIVES", "Objective"]


# What a model without a masked-LM head lacks.
_MASKED_LM = (*HEADS["masked_lm"].parameters, f"funnelformer.{DECODER_PREFIX}")


@dataclass(frozen=True)
class Objective:
    """A way to pretrain.

    model_class: its forward gives the loss from what `MaskedBlocks.collate` makes.
    heads: prefixes of the parameters that a model to start from may lack.
    logged: the fields of the output that go to the log beside the loss, and what each is a mean over. The losses among
        them add up to the loss.
    pairs: it needs rows of the form "structure", and their labels.
    trainer_class: takes `logged`.
    """

    model_class: Any
    heads: tuple[str, ...] = _MASKED_LM
    logged: Mapping[str, Unit] = field(default_factory=dict)
    pairs: bool = False
    trainer_class: type[PretrainTrainer] = PretrainTrainer


OBJECTIVES: dict[str, Objective] = {
    "mlm": Objective(FunnelformerForMaskedLM),
    "mlm+sso": Objective(
        FunnelformerForSentenceStructure,
        heads=(*_MASKED_LM, "structure_head."),
        logged={"mlm_loss": "targets", "structure_loss": "rows", "structure_accuracy": "rows"},
        pairs=True,
    ),
    "electra": Objective(
        FunnelformerForElectra,
        heads=(),
        logged=LOGGED,
        trainer_class=ElectraTrainer,
    ),
}
