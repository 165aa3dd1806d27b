"""Models: encoder and decoder, and the heads on them."""

from .electra import ElectraOutput, FunnelformerForElectra
from .heads import (
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenDetection,
    HeadOutput,
)
from .model import FunnelformerModel, FunnelformerModelOutput, FunnelformerPreTrainedModel
from .prepacked import PrepackedLinear, num_prepacked, prepack
from .spans import NUM_BEST, SpanOutput, best_spans
from .task_heads import (
    FunnelformerForMultipleChoice,
    FunnelformerForQuestionAnswering,
    FunnelformerForTokenClassification,
)

__all__ = [
    "NUM_BEST",
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
    "PrepackedLinear",
    "SpanOutput",
    "best_spans",
    "num_prepacked",
    "prepack",
]
