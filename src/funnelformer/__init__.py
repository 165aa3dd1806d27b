"""Text encoders that shorten the sequence as they deepen."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from .config import FunnelformerConfig
from .errors import UserError
from .modeling import FunnelformerForMaskedLM, FunnelformerForSequenceClassification, FunnelformerModel

__all__ = [
    "FunnelformerConfig",
    "FunnelformerForMaskedLM",
    "FunnelformerForSequenceClassification",
    "FunnelformerModel",
    "UserError",
    "__version__",
]

__version__ = "0.1.0"

AutoConfig.register(FunnelformerConfig.model_type, FunnelformerConfig)
AutoModel.register(FunnelformerConfig, FunnelformerModel)
AutoModelForMaskedLM.register(FunnelformerConfig, FunnelformerForMaskedLM)
AutoModelForSequenceClassification.register(FunnelformerConfig, FunnelformerForSequenceClassification)
