"""Models: encoder and decoder, and the heads on them; transformers' Auto classes know them from here on."""

from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ..config import FunnelformerConfig
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

AutoModel.register(FunnelformerConfig, FunnelformerModel)
AutoModelForMaskedLM.register(FunnelformerConfig, FunnelformerForMaskedLM)
AutoModelForSequenceClassification.register(FunnelformerConfig, FunnelformerForSequenceClassification)
AutoModelForTokenClassification.register(FunnelformerConfig, FunnelformerForTokenClassification)
AutoModelForQuestionAnswering.register(FunnelformerConfig, FunnelformerForQuestionAnswering)
AutoModelForMultipleChoice.register(FunnelformerConfig, FunnelformerForMultipleChoice)
