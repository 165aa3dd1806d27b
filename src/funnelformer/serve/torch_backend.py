"""The model of a service as PyTorch runs it. It is imported where a folder has no graph, or torch was asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding

from ..base.errors import UserError
from ..base.sentence_modules import Pooling
from ..config.head_table import HEADS, head_of
from ..data.tokenizer import load_tokenizer
from ..inference.load import load_model, ready
from ..inference.predictor import Predictor, load_predictor
from ..inference.settings import read_architectures
from ..modeling.model import sequence_vector
from .backend import Ability, Feature, LoadedModel, checked, limited, vector_length
from .config import ServeConfig
from .funnel import Funnel
from .funnel_trace import trace_funnel

__all__ = ["TorchBackend", "load_torch_backend"]


class TorchBackend(LoadedModel):
    """The model as PyTorch runs it."""

    def __init__(self, predictor: Predictor, vector_length: int | None = None) -> None:
        names = [base.__name__ for base in type(predictor.model).__mro__]
        of_head: set[Ability] = {
            head.ability for head in HEADS.values() if head.ability and head.class_name in names
        }
        super().__init__(predictor, frozenset((*of_head, "embed", "inspect")), vector_length)
        self._collator = DataCollatorWithPadding(predictor.tokenizer)

    def logits(self, features: list[Feature]) -> list[np.ndarray]:
        with torch.inference_mode():
            return list(checked(self.model(**self._batch(features)).logits).float().cpu().numpy())

    def vectors(self, features: list[Feature], pooling: Pooling) -> list[np.ndarray]:
        with torch.inference_mode():
            output = self._encode(self._batch(features))
            config = copy.copy(self.model.config)
            config.classifier_pooling = pooling
            return list(checked(sequence_vector(output, config)).float().cpu().numpy())

    def mask_logits(self, features: list[Feature]) -> list[np.ndarray]:
        batch = self._batch(features)
        is_mask = batch["input_ids"] == self.predictor.tokenizer.mask_token_id
        # With labels, and `sparse_prediction`, logits of these tokens alone: all others would fill the memory.
        with torch.inference_mode():
            output = self.model(**batch, labels=torch.where(is_mask, 0, -100))
        logits = checked(output.logits).float().cpu()
        return [part.numpy() for part in logits.split(is_mask.sum(1).tolist())]

    def spans(self, features: list[Feature]) -> list[np.ndarray]:
        assert self.questions is not None
        batch = self._batch(features, self.questions.collator(self.predictor.tokenizer))
        with torch.inference_mode():
            output = self.model(**batch)
            for tensor in output.values():
                checked(tensor, may_be_lowest=True)
            return list(self.questions.reduce(tuple(output.values()), self.model.config).cpu().numpy())

    def _encode(self, batch: dict[str, torch.Tensor]) -> Any:
        """The encoder's states; a decoder would run to no purpose."""
        return self.model.base_model(**batch, use_decoder=False)

    def funnel(self, feature: Feature) -> Funnel:
        return trace_funnel(self.model.base_model, self._batch([feature]))

    def _batch(
        self, features: list[Feature], collator: Callable[[list[Feature]], Any] | None = None
    ) -> dict[str, torch.Tensor]:
        batch = (collator or self._collator)(features)
        if batch["attention_mask"].all():
            del batch["attention_mask"]  # nothing to mask, so nothing to compute it with
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}


def load_torch_backend(config: ServeConfig) -> TorchBackend:
    """Load the model with the head that its config names, or its body. Raises UserError when it cannot be served."""
    predictor = _load_predictor(config)
    # Out of the pages of their file: a change of the file would change them, or end the process.
    for tensor in (*predictor.model.parameters(), *predictor.model.buffers()):
        tensor.data = tensor.data.clone()
    return TorchBackend(predictor, vector_length(predictor.model.config, config))


def _load_predictor(config: ServeConfig) -> Predictor:
    """The model with the head that its config names, or its body."""
    names = read_architectures(config.model)
    head = head_of(names[0]) if names else None
    if head is not None and head.task_kind in ("text", "tokens", "choice"):
        return load_predictor(config.model, config.max_length, config.device, "torch", config)
    if head is None or head.ability is None:
        head = HEADS["model"]  # what the service does not offer has its body alone
    settings: dict[str, Any] = {"sparse_prediction": True} if head.ability == "fill" else {}
    model, random = load_model(head.model_class, config.model, **settings)
    if random:
        raise UserError(f"{config.model}: parameter {random[0]} is not among the weights")
    tokenizer = load_tokenizer(config.model)
    return limited(ready(model, config.device), tokenizer, config)
