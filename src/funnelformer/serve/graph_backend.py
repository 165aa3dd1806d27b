"""The model of a service as an exported graph. No PyTorch here."""

from __future__ import annotations

import numpy as np

from ..base.sentence_modules import Pooling
from ..data.padding import pad_batch
from ..inference.onnx_model import OnnxModel, Outputs, pooled
from ..inference.predictor import Predictor
from .backend import Ability, Feature, LoadedModel, checked
from .funnel import Funnel

__all__ = ["OnnxBackend"]


class OnnxBackend(LoadedModel):
    """An exported graph: it answers only what it was exported for, and cannot show how a text shortens."""

    def __init__(self, predictor: Predictor, vector_length: int | None = None) -> None:
        graph: OnnxModel = predictor.model
        of_head: set[Ability] = {graph.head.ability} if graph.head.ability else set()
        abilities: frozenset[Ability] = frozenset({"embed"} if graph.gives_vectors else of_head)
        super().__init__(predictor, abilities, vector_length)

    def logits(self, features: list[Feature]) -> list[np.ndarray]:
        return list(checked(self._run(features).logits))

    def vectors(self, features: list[Feature], pooling: Pooling) -> list[np.ndarray]:
        return list(checked(pooled(self._run(features), self.model.config, pooling)))

    def mask_logits(self, features: list[Feature]) -> list[np.ndarray]:
        logits = self._run(features).logits
        mask_id = self.predictor.tokenizer.mask_token_id
        found = []
        for feature, row in zip(features, logits, strict=True):
            own = row[-len(feature["input_ids"]) :] if self._pads_left else row[: len(feature["input_ids"])]
            found.append(checked(own[np.asarray(feature["input_ids"]) == mask_id]))
        return found

    def spans(self, features: list[Feature]) -> list[np.ndarray]:
        assert self.questions is not None
        output = self._run(features)
        given = tuple(checked(array, may_be_lowest=True) for array in output.values())
        return list(self.questions.reduce(given, self.model.config))

    def funnel(self, feature: Feature) -> Funnel:
        raise NotImplementedError("a graph has no layers to look into")

    @property
    def _pads_left(self) -> bool:
        return self.questions is None and self.predictor.tokenizer.padding_side == "left"

    def _run(self, features: list[Feature]) -> Outputs:
        tokenizer = self.predictor.tokenizer
        batch = (
            pad_batch(tokenizer, features)
            if self.questions is None
            else self.questions.pad(tokenizer, features)
        )
        if batch["attention_mask"].all():
            del batch["attention_mask"]  # there is no padding, and without a mask there is less to compute
        return self.model(**batch)
