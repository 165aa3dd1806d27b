"""Text encoders that shorten the sequence as they deepen."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .config import FunnelformerConfig
from .errors import UserError
from .modeling import (
    FunnelformerForElectra,
    FunnelformerForMaskedLM,
    FunnelformerForMultipleChoice,
    FunnelformerForQuestionAnswering,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
    FunnelformerForTokenDetection,
    FunnelformerModel,
    prepack,
)
from .version import __version__

__all__ = [
    "FunnelformerConfig",
    "FunnelformerForElectra",
    "FunnelformerForMaskedLM",
    "FunnelformerForMultipleChoice",
    "FunnelformerForQuestionAnswering",
    "FunnelformerForSequenceClassification",
    "FunnelformerForTokenClassification",
    "FunnelformerForTokenDetection",
    "FunnelformerModel",
    "UserError",
    "__version__",
    "prepack",
]

AutoConfig.register(FunnelformerConfig.model_type, FunnelformerConfig)
AutoModel.register(FunnelformerConfig, FunnelformerModel)
AutoModelForMaskedLM.register(FunnelformerConfig, FunnelformerForMaskedLM)
AutoModelForSequenceClassification.register(FunnelformerConfig, FunnelformerForSequenceClassification)
AutoModelForTokenClassification.register(FunnelformerConfig, FunnelformerForTokenClassification)
AutoModelForQuestionAnswering.register(FunnelformerConfig, FunnelformerForQuestionAnswering)
AutoModelForMultipleChoice.register(FunnelformerConfig, FunnelformerForMultipleChoice)
