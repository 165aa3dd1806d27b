"""ELECTRA's discriminators and generators (`model_type: electra`).

A discriminator's logit is positive for a replaced token, ours for an original one: its last layer changes its sign.
Source: transformers' models/electra.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import ElectraConfig

from .bert_rows import BERT_LAYER, QUESTION_HEAD, TOKEN_HEAD, choice_head, rows_of
from .encoder_format import BERT_KEYS, EncoderFormat, add_encoder
from .roberta import OUT_PROJ_HEAD

__all__ = ["ELECTRA"]

ELECTRA = EncoderFormat(
    name="electra",
    title="ELECTRA",
    config_class=ElectraConfig,
    prefix="electra.",
    architectures={
        "ElectraModel": "model",
        "ElectraForPreTraining": "token_detection",
        "ElectraForMaskedLM": "masked_lm",
        "ElectraForSequenceClassification": "sequence_classification",
        "ElectraForMultipleChoice": "multiple_choice",
        "ElectraForTokenClassification": "token_classification",
        "ElectraForQuestionAnswering": "question_answering",
    },
    keys={**BERT_KEYS, "embedding_size": "embedding_size"},
    projection=rows_of("embeddings.projection", "embeddings_project", "D De", "D"),
    layer=BERT_LAYER,
    heads={
        "token_detection": [
            *rows_of("detector.dense", "discriminator_predictions.dense", "D D", "D"),
            *(
                replace(row, negated=True)
                for row in rows_of(
                    "detector.output", "discriminator_predictions.dense_prediction", "1 D", "1"
                )
            ),
        ],
        "masked_lm": [
            *rows_of("lm_head.dense", "generator_predictions.dense", "De D", "De"),
            *rows_of("lm_head.layer_norm", "generator_predictions.LayerNorm", "De", "De"),
        ],
        "sequence_classification": OUT_PROJ_HEAD,
        "multiple_choice": [
            *rows_of("classifier.dense", "sequence_summary.summary", "D D", "D"),
            *choice_head("1"),
        ],
        "token_classification": TOKEN_HEAD,
        "question_answering": QUESTION_HEAD,
    },
    head_keys={
        "multiple_choice": {
            "classifier_activation": "summary_activation",
            "classifier_dropout": "summary_last_dropout",
        }
    },
    classifier_activation="gelu",
    head_fixed={"masked_lm": {"hidden_act": "gelu"}},
    head_refused={"multiple_choice": {"summary_type": ("first",), "summary_use_proj": (True,)}},
    lm_decoder="generator_lm_head",
    lm_bias="generator_lm_head.bias",
)

add_encoder(ELECTRA)
