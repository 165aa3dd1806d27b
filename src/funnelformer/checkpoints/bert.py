"""BERT (`model_type: bert`). Source: transformers' models/bert."""

from __future__ import annotations

from transformers import BertConfig

from .bert_rows import BERT_LAYER, LM_HEAD, POOLER, QUESTION_HEAD, TOKEN_HEAD, choice_head
from .encoder_format import EncoderFormat, add_encoder

__all__ = ["BERT"]

BERT = EncoderFormat(
    name="bert",
    title="BERT",
    config_class=BertConfig,
    prefix="bert.",
    architectures={
        "BertModel": "model",
        "BertForMaskedLM": "masked_lm",
        "BertForPreTraining": "masked_lm",
        "BertForSequenceClassification": "sequence_classification",
        "BertForMultipleChoice": "multiple_choice",
        "BertForTokenClassification": "token_classification",
        "BertForQuestionAnswering": "question_answering",
    },
    layer=BERT_LAYER,
    body_heads={"sequence_classification": POOLER, "multiple_choice": POOLER},
    heads={
        "masked_lm": LM_HEAD,
        "sequence_classification": choice_head("L"),
        "multiple_choice": choice_head("1"),
        "token_classification": TOKEN_HEAD,
        "question_answering": QUESTION_HEAD,
    },
    poolers=("model",),
)

add_encoder(BERT)
