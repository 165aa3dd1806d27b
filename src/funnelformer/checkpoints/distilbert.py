"""DistilBERT (`model_type: distilbert`): BERT without segments, under names of its own.

Source: transformers' models/distilbert.
"""

from __future__ import annotations

from transformers import DistilBertConfig

from .bert_rows import EMBEDDINGS, QUESTION_HEAD, TOKEN_HEAD, choice_head, layer_rows, rows_of
from .encoder_format import EncoderFormat, add_encoder

__all__ = ["DISTILBERT"]

_SEGMENTS = "embeddings.token_type_embeddings.weight"
_PRE_CLASSIFIER = rows_of("classifier.dense", "pre_classifier", "D D", "D")

DISTILBERT = EncoderFormat(
    name="distilbert",
    title="DistilBERT",
    config_class=DistilBertConfig,
    prefix="distilbert.",
    architectures={
        "DistilBertModel": "model",
        "DistilBertForMaskedLM": "masked_lm",
        "DistilBertForSequenceClassification": "sequence_classification",
        "DistilBertForMultipleChoice": "multiple_choice",
        "DistilBertForTokenClassification": "token_classification",
        "DistilBertForQuestionAnswering": "question_answering",
    },
    num_layers="n_layers",
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "max_position_embeddings": "max_position_embeddings",
        "initializer_std": "initializer_range",
        "pad_token_id": "pad_token_id",
        "tie_word_embeddings": "tie_word_embeddings",
    },
    fixed={"default_token_type_id": None, "type_vocab_size": 1, "layer_norm_eps": 1e-12},
    embeddings=[row for row in EMBEDDINGS if row.ours != _SEGMENTS],
    zeros={_SEGMENTS: "S De"},
    layer=layer_rows(
        {
            "mixer.query": "attention.q_lin",
            "mixer.key": "attention.k_lin",
            "mixer.value": "attention.v_lin",
            "mixer.output": "attention.out_lin",
            "mixer_norm": "sa_layer_norm",
            "feed_forward.expand": "ffn.lin1",
            "feed_forward.contract": "ffn.lin2",
            "feed_forward_norm": "output_layer_norm",
        },
        "transformer.layer.{k}.",
    ),
    heads={
        "masked_lm": [
            *rows_of("lm_head.dense", "vocab_transform", "De D", "De"),
            *rows_of("lm_head.layer_norm", "vocab_layer_norm", "De", "De"),
        ],
        "sequence_classification": [*_PRE_CLASSIFIER, *choice_head("L")],
        "multiple_choice": [*_PRE_CLASSIFIER, *choice_head("1")],
        "token_classification": TOKEN_HEAD,
        "question_answering": QUESTION_HEAD,
    },
    head_keys={
        "sequence_classification": {"classifier_dropout": "seq_classif_dropout"},
        "multiple_choice": {"classifier_dropout": "seq_classif_dropout"},
    },
    classifier_activation="relu",
    lm_decoder="vocab_projector",
    lm_bias="vocab_projector.bias",
)

add_encoder(DISTILBERT)
