"""Text encoders that shorten the sequence as they deepen."""

import os

# Before the Hub's client is imported, which would tell the Hub what asks it. Who wants that sets it to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

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
