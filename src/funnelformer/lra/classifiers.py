"""Models of the Long Range Arena: a name and a task give a config, a config and a task a classifier."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional

from ..base.errors import UserError, did_you_mean
from ..config.model_config import PRESETS, FunnelformerConfig, parse_name
from ..inference.settings import check_length
from ..modeling import FunnelformerForSequenceClassification
from ..modeling.heads import HeadOutput
from ..modeling.model import FunnelformerModel, FunnelformerPreTrainedModel, sequence_vector, wants_dict
from ..training.run.folder import config_from_name
from .arena_tasks import Task

__all__ = ["MODELS", "TwoTowerClassifier", "build_config", "build_model"]

_BERT = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
# Two layers each; a funnel halves the sequence between them. Widths: Tan et al. 2022, arXiv:2110.02442, appendix.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer": ("L2H64", _BERT),
    "ponet": ("L2H64", {**_BERT, "mixer": "ponet"}),
    "fnet": ("L2H64", {**_BERT, "mixer": "fourier"}),
    "funnel": ("B1-1H64", {}),
    "hybrid": ("B1-1H64", {"mixer": ["ponet", "attention"]}),
}
_HEAD_SIZE = 32


def build_config(task: Task, model: str, length: int, settings: dict[str, Any]) -> FunnelformerConfig:
    """The config of a model for sequences of `length` tokens; `settings` are config keys that win.

    model: one of `MODELS`, or a layout such as B1-1H64 or a preset. Heads are 32 wide and the feed-forward layer
    twice the width, as in the published runs; presets keep theirs. One block has learned absolute positions,
    several have relative ones. No token stands for the sequence, so all are pooled and the mean is classified.
    PoNet's chunks are as long in a short sequence as in one of `length` tokens, as in its published runs.
    Raises UserError for a name that cannot be read, or a setting that cannot be used.
    """
    layout, extra = MODELS.get(model, (model, {}))
    try:
        parsed = parse_name(layout)
    except UserError as error:
        raise UserError(
            f"--model: {error}; or one of {', '.join(MODELS)}{did_you_mean(model, MODELS)}"
        ) from None
    width = parsed["hidden_size"]
    sizes = {}
    if layout not in PRESETS and width % _HEAD_SIZE == 0:
        sizes = {
            "num_attention_heads": width // _HEAD_SIZE,
            "head_size": _HEAD_SIZE,
            "intermediate_size": 2 * width,
        }
    has_blocks = len(parsed["blocks"]) > 1
    ours = {
        **sizes,
        "position": "relative" if has_blocks else "absolute",
        "max_position_embeddings": length,
        "separate_cls": False,
        "truncate_seq": False,
        "ponet_segments": "chunks",
        "ponet_num_segments": task.num_segments,
    }
    config = config_from_name(
        layout,
        {
            **ours,
            **{key: value for key, value in parsed.items() if key in ours and key not in sizes},
            **extra,
            "classifier_pooling": "mean",
            "decoder_layers": 0,
            "vocab_size": task.vocab_size,
            "pad_token_id": None if task.image_size else 0,
            "num_labels": task.num_classes,
            "problem_type": "single_label_classification",
            **settings,
        },
    )
    check_length(config, length, "--length")
    is_marked = config.cls_token_id is not None or config.sep_token_id is not None
    if "ponet" in config.block_mixers and config.ponet_segments != "chunks" and not is_marked:
        raise UserError(
            f'model config: ponet_segments="{config.ponet_segments}" needs cls_token_id or sep_token_id'
        )
    if "ponet_chunk_length" not in settings:
        config.ponet_chunk_length = length // config.ponet_num_segments + 1
    return config


def build_model(task: Task, config: FunnelformerConfig) -> FunnelformerPreTrainedModel:
    """A classifier with random weights: of single sequences, or of two where the task has two."""
    if task.num_sequences == 2:
        return TwoTowerClassifier(config)
    return FunnelformerForSequenceClassification(config)


class TwoTowerClassifier(FunnelformerPreTrainedModel):
    """Encode two sequences by one encoder, and classify the pair from a, b, a * b and a - b, two vectors of them.

    Source: Tay et al. 2021, arXiv:2011.04006, section 2.2 (Retrieval): the two documents never see each other.
    """

    def __init__(self, config: FunnelformerConfig) -> None:
        super().__init__(config)
        self.funnelformer = FunnelformerModel(config)
        self.dense = nn.Linear(4 * config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.num_labels or 2)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Num[Tensor, "B T"] | None = None,
        other_ids: Int[Tensor, "B U"] | None = None,
        other_mask: Num[Tensor, "B U"] | None = None,
        labels: Int[Tensor, " B"] | None = None,
        return_dict: bool | None = None,
    ) -> HeadOutput | tuple[Tensor, ...]:
        """Return logits [B, num_labels], and with `labels` the mean cross-entropy.

        Raises ValueError without `other_ids`, the second sequences.
        """
        if other_ids is None:
            raise ValueError("two sequences are compared: other_ids is missing")
        a, b = self._vector(input_ids, attention_mask), self._vector(other_ids, other_mask)
        hidden = torch.relu(self.dense(torch.cat([a, b, a * b, a - b], dim=-1)))
        logits = self.output(hidden)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        result = HeadOutput(loss=loss, logits=logits)
        return result if wants_dict(return_dict, self.config) else result.to_tuple()

    def _vector(self, ids: Int[Tensor, "B T"], mask: Num[Tensor, "B T"] | None) -> Float[Tensor, "B D"]:
        return sequence_vector(self.funnelformer(ids, mask, return_dict=True), self.config)
