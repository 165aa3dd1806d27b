"""Text encoders that shorten the sequence as they deepen."""

import transformers

from .config import FunnelformerConfig
from .errors import UserError
from .modeling import (
    HEADS,
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

transformers.AutoConfig.register(FunnelformerConfig.model_type, FunnelformerConfig)
for _head in HEADS.values():
    if _head.auto_class is not None:
        getattr(transformers, _head.auto_class).register(FunnelformerConfig, _head.model_class)
