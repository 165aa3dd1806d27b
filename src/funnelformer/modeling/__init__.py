"""Models: encoder and decoder, and the heads on them; transformers' Auto classes know them from here on."""

import transformers

from ..config.head_table import DECODER_PREFIX, HEAD_PREFIXES, HEADS, Head, head_of
from ..config.model_config import FunnelformerConfig
from .electra import ElectraOutput, FunnelformerForElectra
from .heads import (
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenDetection,
    HeadOutput,
)
from .model import FunnelformerModel, FunnelformerModelOutput, FunnelformerPreTrainedModel
from .prepacked import PrepackedLinear, fix_tables, num_prepacked, prepack
from .span_head import SpanOutput
from .task_heads import (
    FunnelformerForMultipleChoice,
    FunnelformerForQuestionAnswering,
    FunnelformerForTokenClassification,
)

__all__ = [
    "DECODER_PREFIX",
    "HEADS",
    "HEAD_PREFIXES",
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
    "Head",
    "HeadOutput",
    "PrepackedLinear",
    "SpanOutput",
    "fix_tables",
    "head_of",
    "num_prepacked",
    "prepack",
]

for _head in HEADS.values():
    if _head.auto_class is not None:
        getattr(transformers, _head.auto_class).register(FunnelformerConfig, globals()[_head.class_name])
