"""RoBERTa, XLM-RoBERTa and CamemBERT: one form of three names (`model_type: roberta`, `xlm-roberta`, `camembert`).

Positions count from `pad_token_id` + 1 on: the rows of the table before that are padding's, and are left out.
Source: transformers' models/roberta.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import CamembertConfig, RobertaConfig, XLMRobertaConfig

from .bert_rows import BERT_LAYER, EMBEDDINGS, POOLER, QUESTION_HEAD, TOKEN_HEAD, choice_head, rows_of
from .encoder_format import EncoderFormat, add_encoder

__all__ = ["CAMEMBERT", "OUT_PROJ_HEAD", "ROBERTA", "XLM_ROBERTA"]

OUT_PROJ_HEAD = [
    *rows_of("classifier.dense", "classifier.dense", "D D", "D"),
    *rows_of("classifier.output", "classifier.out_proj", "L D", "L"),
]
_POSITIONS = "embeddings.position_embeddings.weight"


def _architectures(name: str) -> dict[str, str]:
    return {
        f"{name}Model": "model",
        f"{name}ForMaskedLM": "masked_lm",
        f"{name}ForSequenceClassification": "sequence_classification",
        f"{name}ForMultipleChoice": "multiple_choice",
        f"{name}ForTokenClassification": "token_classification",
        f"{name}ForQuestionAnswering": "question_answering",
    }


ROBERTA = EncoderFormat(
    name="roberta",
    title="RoBERTa",
    config_class=RobertaConfig,
    prefix="roberta.",
    architectures=_architectures("Roberta"),
    embeddings=[
        replace(row, their_shape="R De", skips_first=True) if row.ours == _POSITIONS else row
        for row in EMBEDDINGS
    ],
    layer=BERT_LAYER,
    body_heads={"multiple_choice": POOLER},
    heads={
        "masked_lm": [
            *rows_of("lm_head.dense", "lm_head.dense", "De D", "De"),
            *rows_of("lm_head.layer_norm", "lm_head.layer_norm", "De", "De"),
        ],
        "sequence_classification": OUT_PROJ_HEAD,
        "multiple_choice": choice_head("1"),
        "token_classification": TOKEN_HEAD,
        "question_answering": QUESTION_HEAD,
    },
    head_fixed={"masked_lm": {"hidden_act": "gelu"}},
    lm_decoder="lm_head.decoder",
    lm_bias="lm_head.bias",
    poolers=("model",),
    positions_after_padding=True,
)
XLM_ROBERTA = replace(
    ROBERTA,
    name="xlm-roberta",
    title="XLM-RoBERTa",
    config_class=XLMRobertaConfig,
    architectures=_architectures("XLMRoberta"),
)
CAMEMBERT = replace(
    ROBERTA,
    name="camembert",
    title="CamemBERT",
    config_class=CamembertConfig,
    architectures=_architectures("Camembert"),
)

for _form in (ROBERTA, XLM_ROBERTA, CAMEMBERT):
    add_encoder(_form)
