"""What runs the model: one protocol, its implementation in PyTorch, and the one place where a backend is chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import torch
from transformers import DataCollatorWithPadding

from ..base.errors import UserError
from ..base.sentence_modules import Pooling
from ..data.tokenizer import check_vocabulary, load_tokenizer
from ..inference.answer import questions_of
from ..inference.finite import refuse_not_finite
from ..inference.load import check_length, load_model, read_architectures, read_settings, ready
from ..inference.onnx_model import OnnxModel, choose_backend
from ..inference.predictor import Predictor, load_predictor
from ..modeling import HEADS, head_of
from ..modeling.model import sequence_vector
from ..tasks.passages import check_room
from ..tasks.releases import find_task
from ..tasks.spans import Questions
from .config import ServeConfig
from .funnel import Funnel, trace_funnel
from .refused import Refused

__all__ = ["Ability", "Backend", "Feature", "TorchBackend", "load_backend"]

Ability = Literal["classify", "embed", "fill", "answer", "inspect", "rank"]
# What the tokenizer makes of a text: input_ids, token_type_ids, attention_mask; of a question answer_mask, too.
Feature = dict[str, list[int]]


class Backend(Protocol):
    """A model with its tokenizer. Its calls come from one thread, a batch at a time; a batch fits in memory.

    predictor: labels, kind of task, `max_length`, and what is said of logits.
    questions: of a model that answers them, how.
    abilities: the calls below that this model can answer; `served` adds what is made of them.
    most_padding: tokens of padding that are worth a shared batch.
    batch_tokens: tokens of a batch beyond which it is not worth to grow.
    vector_length: tokens at which a text is cut for its vector; None: as for all else.
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
        """Of each text [num_labels], of a model of tokens [T, num_labels], T at least the text's own tokens."""

    def vectors(self, features: list[Feature], pooling: Pooling) -> list[np.ndarray]:
        """The encoder's vector [D] of each text."""

    def mask_logits(self, features: list[Feature]) -> list[np.ndarray]:
        """[M, V], for the M mask tokens of each text in their order."""

    def spans(self, features: list[Feature]) -> list[np.ndarray]:
        """The best spans [N, 3] of each pair of question and passage, see `modeling.best_spans`."""

    def funnel(self, feature: Feature) -> Funnel:
        """How one text shortens."""


class TorchBackend:
    """The model as PyTorch runs it."""

    def __init__(self, predictor: Predictor, vector_length: int | None = None) -> None:
        self.predictor = predictor
        self.vector_length = vector_length
        self.model = predictor.model
        self.abilities = self._abilities()
        self.questions = _questions(predictor) if "answer" in self.abilities else None
        self.most_padding = predictor.most_padding
        self.batch_tokens = 1024 if self.model.device.type == "cpu" else 16384
        self.dtype = str(getattr(self.model, "dtype", torch.float32)).removeprefix("torch.")
        self._collator = DataCollatorWithPadding(predictor.tokenizer)

    def logits(self, features: list[Feature]) -> list[np.ndarray]:
        with torch.inference_mode():
            return list(_checked(self.model(**self._batch(features)).logits).float().cpu().numpy())

    def vectors(self, features: list[Feature], pooling: Pooling) -> list[np.ndarray]:
        with torch.inference_mode():
            output = self._encode(self._batch(features))
            config = copy.copy(self.model.config)
            config.classifier_pooling = pooling
            return list(_checked(sequence_vector(output, config)).float().cpu().numpy())

    def mask_logits(self, features: list[Feature]) -> list[np.ndarray]:
        batch = self._batch(features)
        is_mask = batch["input_ids"] == self.predictor.tokenizer.mask_token_id
        # With labels, and `sparse_prediction`, logits of these tokens alone: all others would fill the memory.
        with torch.inference_mode():
            output = self.model(**batch, labels=torch.where(is_mask, 0, -100))
        logits = _checked(output.logits).float().cpu()
        return [part.numpy() for part in logits.split(is_mask.sum(1).tolist())]

    def spans(self, features: list[Feature]) -> list[np.ndarray]:
        assert self.questions is not None
        batch = self._batch(features, self.questions.collator(self.predictor.tokenizer))
        with torch.inference_mode():
            output = self.model(**batch)
            for tensor in output.values():
                _checked(tensor, may_be_lowest=True)
            return list(self.questions.reduce(tuple(output.values()), self.model.config).cpu().numpy())

    def _encode(self, batch: dict[str, torch.Tensor]) -> Any:
        """The encoder's states; a decoder would run to no purpose."""
        return self.model.base_model(**batch, use_decoder=False)

    def funnel(self, feature: Feature) -> Funnel:
        return trace_funnel(self.model.base_model, self._batch([feature]))

    def _abilities(self) -> frozenset[Ability]:
        return frozenset((*_of_head(type(self.model)), "embed", "inspect"))

    def _batch(
        self, features: list[Feature], collator: Callable[[list[Feature]], Any] | None = None
    ) -> dict[str, torch.Tensor]:
        batch = (collator or self._collator)(features)
        if batch["attention_mask"].all():
            del batch["attention_mask"]  # nothing to mask, so nothing to compute it with
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}


def _checked(output: torch.Tensor, *, may_be_lowest: bool = False) -> torch.Tensor:
    """What the model gave. Raises Refused (500) when it is NaN or infinite."""
    try:
        return refuse_not_finite(output, may_be_lowest=may_be_lowest)
    except UserError as error:
        raise Refused(500, str(error)) from error


def _of_head(model_class: type) -> set[Ability]:
    """What a head adds to what every model's body can do."""
    return {
        head.ability for head in HEADS.values() if head.ability and issubclass(model_class, head.model_class)
    }


class OnnxBackend(TorchBackend):
    """An exported graph: it has the outputs it was exported with, and no layers to look into."""

    def mask_logits(self, features: list[Feature]) -> list[np.ndarray]:
        batch = self._batch(features)
        is_mask = batch["input_ids"] == self.predictor.tokenizer.mask_token_id
        logits = _checked(self.model(**batch).logits[is_mask])
        return [part.numpy() for part in logits.split(is_mask.sum(1).tolist())]

    def _encode(self, batch: dict[str, torch.Tensor]) -> Any:
        return self.model(**batch)  # a graph for embeddings has no decoder

    def _abilities(self) -> frozenset[Ability]:
        if self.model.gives_vectors:
            return frozenset({"embed"})
        return frozenset(_of_head(self.model.model_class))


def load_backend(config: ServeConfig) -> Backend:
    """Load the model in the backend that was asked for. Raises UserError when it cannot be served."""
    chosen = choose_backend(config.model, config.backend)
    if chosen != "torch":
        graph = OnnxModel(config.model, engine=chosen)
        return OnnxBackend(_limited(graph, config), _vector_length(graph.config, config))
    predictor = _load_predictor(config)
    # Out of the pages of their file: a change of the file would change them, or end the process.
    for tensor in (*predictor.model.parameters(), *predictor.model.buffers()):
        tensor.data = tensor.data.clone()
    return TorchBackend(predictor, _vector_length(predictor.model.config, config))


def _vector_length(model_config: Any, config: ServeConfig) -> int | None:
    """As asked for, or as the model says of itself, as far as its positions reach."""
    own = None if model_config.vectors is None else model_config.vectors.max_length
    if config.max_length is not None or own is None:
        return config.max_length
    return min(own, model_config.max_position_embeddings) if model_config.position == "absolute" else own


def _load_predictor(config: ServeConfig) -> Predictor:
    """The model with the head that its config names, or its body."""
    names = read_architectures(config.model)
    head = head_of(names[0]) if names else None
    if head is not None and head.task_kind in ("text", "tokens", "choice"):
        return load_predictor(config.model, config.max_length, config.device)
    if head is None or head.ability is None:
        head = HEADS["model"]  # what the service does not offer has its body alone
    settings: dict[str, Any] = {"sparse_prediction": True} if head.ability == "fill" else {}
    model, random = load_model(head.model_class, config.model, **settings)
    if random:
        raise UserError(f"{config.model}: parameter {random[0]} is not among the weights")
    return _limited(ready(model, config.device), config)


def _questions(predictor: Predictor) -> Questions:
    """As the model's folder says; by default the task that its head is for."""
    check_room(predictor.task["max_length"])
    default = "squad2" if predictor.model.config.qa_head == "conditional" else "squad"
    return questions_of(predictor, find_task(predictor.task.get("task", default)), labelled=False)


def _limited(model: Any, config: ServeConfig) -> Predictor:
    """A model with its tokenizer, and the tokens at which it cuts a text."""
    tokenizer = load_tokenizer(config.model)
    check_vocabulary(tokenizer, model.config.vocab_size, config.model)
    task = read_settings(config.model)
    own = None if model.config.vectors is None else model.config.vectors.max_length
    limit = config.max_length or task.get("max_length") or own or min(tokenizer.model_max_length, 512)
    if config.max_length is not None:
        check_length(model.config, config.max_length, "--max-length")
    elif model.config.position == "absolute":
        limit = min(limit, model.config.max_position_embeddings)
    return Predictor(model, tokenizer, {**task, "max_length": limit})
