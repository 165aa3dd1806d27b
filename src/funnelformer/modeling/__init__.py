"""Models: encoder and decoder, and the heads on them."""

from .electra import ElectraOutput, FunnelformerForElectra
from .heads import (
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenDetection,
    HeadOutput,
)
from .model import FunnelformerModel, FunnelformerModelOutput, FunnelformerPreTrainedModel
from .task_heads import (
    FunnelformerForMultipleChoice,
    FunnelformerForQuestionAnswering,
    FunnelformerForTokenClassification,
)

__all__ = [
    "ElectraOutput",
    "FunnelformerForElectra",
    "FunnelformerForMaskedLM",
    "FunnelformerForMultipleChoice",
    "FunnelformerForQuestionAnswering",
    "FunnelformerForSequenceClassification",
    "FunnelformerForTokenClassification",
    "FunnelformerForTokenDetection",
    "FunnelformerModel",
    "FunnelformerModelOutput",
    "FunnelformerPreTrainedModel",
    "HeadOutput",
]
