"""The rows that the formats of the BERT family share, and how their modules become rows."""

from __future__ import annotations

from collections.abc import Mapping

from .key_map import LAYER, Row, layer_row

__all__ = [
    "ATTENTION",
    "BERT_LAYER",
    "EMBEDDINGS",
    "LM_HEAD",
    "LM_HEAD_BIAS",
    "OUTPUT",
    "POOLER",
    "QUESTION_HEAD",
    "TOKEN_HEAD",
    "choice_head",
    "layer_rows",
    "rows_of",
]


def rows_of(ours: str, theirs: str, weight: str, bias: str) -> list[Row]:
    """The weight and the bias of one module, with their shapes."""
    return [Row(f"{ours}.weight", weight, f"{theirs}.weight"), Row(f"{ours}.bias", bias, f"{theirs}.bias")]


def layer_rows(modules: Mapping[str, str], prefix: str) -> list[Row]:
    """Rows of an attention layer: our module -> theirs; the query's bias is our `content_bias`."""
    rows = []
    for ours, theirs in modules.items():
        rows += [
            layer_row(f"{ours}.{kind}", f"{prefix}{theirs}.{kind}")
            for kind in ("weight", "bias")
            if f"{ours}.{kind}" in LAYER
        ]
        if ours == "mixer.query":
            rows.append(layer_row("mixer.content_bias", f"{prefix}{theirs}.bias", "HE"))
    return rows


EMBEDDINGS = [
    Row("embeddings.word_embeddings.weight", "V De", "embeddings.word_embeddings.weight"),
    Row("embeddings.position_embeddings.weight", "P De", "embeddings.position_embeddings.weight"),
    Row("embeddings.token_type_embeddings.weight", "S De", "embeddings.token_type_embeddings.weight"),
    *rows_of("embeddings.layer_norm", "embeddings.LayerNorm", "De", "De"),
]
# our module -> theirs: what follows the mixing, and what mixes
OUTPUT = {
    "feed_forward.expand": "intermediate.dense",
    "feed_forward.contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
ATTENTION = {"mixer.output": "attention.output.dense", "mixer_norm": "attention.output.LayerNorm"}
BERT_LAYER = layer_rows(
    {
        "mixer.query": "attention.self.query",
        "mixer.key": "attention.self.key",
        "mixer.value": "attention.self.value",
        **ATTENTION,
        **OUTPUT,
    },
    "encoder.layer.{k}.",
)

LM_HEAD = [
    *rows_of("lm_head.dense", "cls.predictions.transform.dense", "De D", "De"),
    *rows_of("lm_head.layer_norm", "cls.predictions.transform.LayerNorm", "De", "De"),
]
LM_HEAD_BIAS = Row("lm_head.decoder.bias", "V", "cls.predictions.bias")
TOKEN_HEAD = rows_of("classifier", "classifier", "L D", "L")
QUESTION_HEAD = rows_of("qa_outputs", "qa_outputs", "2 D", "2")
# with the body's prefix
POOLER = rows_of("classifier.dense", "pooler.dense", "D D", "D")


def choice_head(outputs: str) -> list[Row]:
    """The last layer over a pooled vector: one output a label ("L"), or one ("1")."""
    return rows_of("classifier.output", "classifier", f"{outputs} D", outputs)
