"""What runs the model: one protocol, and what its implementations share."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from ..base.errors import UserError
from ..base.sentence_modules import Pooling
from ..data.tokenizer import check_fits
from ..inference.answer import questions_of
from ..inference.finite import refuse_not_finite
from ..inference.predictor import Predictor
from ..inference.settings import DEFAULT_LENGTH, check_length, read_settings
from ..tasks.passages import check_room
from ..tasks.releases import find_task
from ..tasks.spans import Questions
from .config import ServeConfig
from .funnel import Funnel
from .refused import Refused

__all__ = [
    "Ability",
    "Backend",
    "Feature",
    "LoadedModel",
    "checked",
    "limited",
    "vector_length",
]

Ability = Literal["classify", "embed", "fill", "answer", "inspect", "rank"]
# The tokens of a text: input_ids, token_type_ids, attention_mask, each [T]; a question also has answer_mask.
Feature = dict[str, list[int]]


class Backend(Protocol):
    """A model with its tokenizer. One thread calls it, with one batch at a time.

    predictor: the labels, the kind of task, `max_length`, and how logits become answers.
    questions: how the model answers questions, if it does.
    abilities: the calls below that this model can answer; `served` adds the routes made of them.
    most_padding: number of padding tokens up to which a shared batch is worth it.
    batch_tokens: number of tokens beyond which a larger batch is no faster.
    vector_length: number of tokens after which a text is cut for its vector; None: as for the other calls.
    dtype: what the model computes in, as "float32".
    """

    predictor: Predictor
    questions: Questions | None
    abilities: frozenset[Ability]
    most_padding: int
    batch_tokens: int
    vector_length: int | None
    dtype: str

    def logits(self, features: list[Feature]) -> list[np.ndarray]:
        """The logits of each text: [L]; for token classification [T, L], where T may include padding."""

    def vectors(self, features: list[Feature], pooling: Pooling) -> list[np.ndarray]:
        """The encoder's vector [D] of each text."""

    def mask_logits(self, features: list[Feature]) -> list[np.ndarray]:
        """The logits [M, V] over the vocabulary, for the M mask tokens of each text in their order."""

    def spans(self, features: list[Feature]) -> list[np.ndarray]:
        """The best spans [N, 3] of each pair of question and passage, see `tasks.span_search.best_spans`."""

    def funnel(self, feature: Feature) -> Funnel:
        """How the encoder shortens one text."""


class LoadedModel:
    """What all backends share: what is known about a model before it runs."""

    def __init__(
        self, predictor: Predictor, abilities: frozenset[Ability], vector_length: int | None
    ) -> None:
        self.predictor = predictor
        self.model = predictor.model
        self.vector_length = vector_length
        self.abilities = abilities
        self.questions = _questions(predictor) if "answer" in abilities else None
        self.most_padding = predictor.most_padding
        self.batch_tokens = 1024 if self.model.device.type == "cpu" else 16384
        self.dtype = str(getattr(self.model, "dtype", "float32")).removeprefix("torch.")


def checked(output: Any, *, may_be_lowest: bool = False) -> Any:
    """The model's output, an array or a tensor. Raises Refused (500) if it holds NaN or infinity."""
    try:
        return refuse_not_finite(output, may_be_lowest=may_be_lowest)
    except UserError as error:
        raise Refused(500, str(error)) from error


def vector_length(model_config: Any, config: ServeConfig) -> int | None:
    """The length in tokens of texts for vectors: the one asked for, or the model's own, up to its positions."""
    own = None if model_config.vectors is None else model_config.vectors.max_length
    if config.max_length is not None or own is None:
        return config.max_length
    return min(own, model_config.max_position_embeddings) if model_config.position == "absolute" else own


def _questions(predictor: Predictor) -> Questions:
    """The settings in the model's folder; by default those of the task that its head is for."""
    check_room(predictor.task["max_length"])
    default = "squad2" if predictor.model.config.qa_head == "conditional" else "squad"
    return questions_of(predictor, find_task(predictor.task.get("task", default)), labelled=False)


def limited(model: Any, tokenizer: Any, config: ServeConfig) -> Predictor:
    """A model with its tokenizer, and the number of tokens after which it cuts a text."""
    check_fits(tokenizer, model.config, config.model)
    task = read_settings(config.model)
    own = None if model.config.vectors is None else model.config.vectors.max_length
    limit = (
        config.max_length or task.get("max_length") or own or min(tokenizer.model_max_length, DEFAULT_LENGTH)
    )
    if config.max_length is not None:
        check_length(model.config, config.max_length, "--max-length")
    elif model.config.position == "absolute":
        limit = min(limit, model.config.max_position_embeddings)
    return Predictor(model, tokenizer, {**task, "max_length": limit}).in_windows(config)
