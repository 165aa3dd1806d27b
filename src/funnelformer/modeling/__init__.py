"""Models: encoder and decoder, and the heads on them."""

from .electra import ElectraOutput, FunnelformerForElectra
from .heads import (
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenDetection,
    HeadOutput,
)
from .model import FunnelformerModel, FunnelformerModelOutput, FunnelformerPreTrainedModel

__all__ = [
    "ElectraOutput",
    "FunnelformerForElectra",
    "FunnelformerForMaskedLM",
    "FunnelformerForSequenceClassification",
    "FunnelformerForTokenDetection",
    "FunnelformerModel",
    "FunnelformerModelOutput",
    "FunnelformerPreTrainedModel",
    "HeadOutput",
]
