"""FNet (`model_type: fnet`): a Fourier transform in place of attention, padding included, and a projection.

Source: transformers' models/fnet, which has no attention mask: the padding of a batch takes part in the transform.
"""

from __future__ import annotations

from transformers import FNetConfig

from .bert_rows import LM_HEAD, OUTPUT, POOLER, QUESTION_HEAD, TOKEN_HEAD, choice_head, layer_rows, rows_of
from .encoder_format import BERT_KEYS, EncoderFormat, add_encoder

__all__ = ["FNET"]

_NOT_KEYS = ("num_attention_heads", "attention_dropout", "classifier_dropout")

FNET = EncoderFormat(
    name="fnet",
    title="FNet",
    config_class=FNetConfig,
    prefix="fnet.",
    architectures={
        "FNetModel": "model",
        "FNetForMaskedLM": "masked_lm",
        "FNetForPreTraining": "masked_lm",
        "FNetForSequenceClassification": "sequence_classification",
        "FNetForMultipleChoice": "multiple_choice",
        "FNetForTokenClassification": "token_classification",
        "FNetForQuestionAnswering": "question_answering",
    },
    keys={ours: theirs for ours, theirs in BERT_KEYS.items() if ours not in _NOT_KEYS},
    fixed={"mixer": "fourier", "padding": "transformers", "project_embeddings": True},
    projection=rows_of("embeddings.projection", "embeddings.projection", "D De", "D"),
    layer=layer_rows({"mixer_norm": "fourier.output.LayerNorm", **OUTPUT}, "encoder.layer.{k}."),
    body_heads={"sequence_classification": POOLER, "multiple_choice": POOLER},
    heads={
        "masked_lm": LM_HEAD,
        "sequence_classification": choice_head("L"),
        "multiple_choice": choice_head("1"),
        "token_classification": TOKEN_HEAD,
        "question_answering": QUESTION_HEAD,
    },
    poolers=("model", "masked_lm", "token_classification", "question_answering"),
    unread={r".*\.dft_mat_(hidden|seq)": "the matrices of the Fourier transform, the same in every model"},
)

add_encoder(FNET)
