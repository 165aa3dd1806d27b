"""Text encoders that shorten the sequence as they deepen."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from .config import FunnelformerConfig
from .errors import UserError
from .modeling import (
    FunnelformerForElectra,
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenDetection,
    FunnelformerModel,
)

__all__ = [
    "FunnelformerConfig",
    "FunnelformerForElectra",
    "FunnelformerForMaskedLM",
    "FunnelformerForSequenceClassification",
    "FunnelformerForTokenDetection",
    "FunnelformerModel",
    "UserError",
    "__version__",
]

__version__ = "0.1.0"

AutoConfig.register(FunnelformerConfig.model_type, FunnelformerConfig)
AutoModel.register(FunnelformerConfig, FunnelformerModel)
AutoModelForMaskedLM.register(FunnelformerConfig, FunnelformerForMaskedLM)
AutoModelForSequenceClassification.register(FunnelformerConfig, FunnelformerForSequenceClassification)
