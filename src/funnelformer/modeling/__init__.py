"""Models: encoder and decoder, and the heads on them."""

from .heads import FunnelformerForMaskedLM, FunnelformerForSequenceClassification, HeadOutput
from .model import FunnelformerModel, FunnelformerModelOutput, FunnelformerPreTrainedModel

__all__ = [
    "FunnelformerForMaskedLM",
    "FunnelformerForSequenceClassification",
    "FunnelformerModel",
    "FunnelformerModelOutput",
    "FunnelformerPreTrainedModel",
    "HeadOutput",
]
