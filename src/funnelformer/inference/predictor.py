"""`Predictor`: a fine-tuned model with its tokenizer and task, which labels texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding

from ..base.errors import UserError
from ..base.options import Backend
from ..base.progress import progress_bar
from ..data.tokenizer import check_vocabulary, load_tokenizer
from ..data.values import Labels
from ..modeling import HEADS, Head, head_of
from ..tasks.judge import say_of
from ..tasks.scores import sigmoid, softmax
from ..tasks.task import KindName
from ..tasks.windowing import Windowing, windowing_in
from ..tasks.windows import by_owner, encode_windows
from .batches import in_batches, most_padding
from .finite import refuse_not_finite
from .load import check_length, load_model, read_architectures, read_settings, ready
from .onnx_model import OnnxModel, choose_backend

__all__ = ["Predictor", "load_predictor"]


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model, of PyTorch or exported, with its tokenizer, ready to answer.

    task: the name of its task, the columns and `max_length` it was fine-tuned with (task.json of the run), where known.
    """

    model: Any
    tokenizer: Any
    task: dict[str, Any]

    @property
    def labels(self) -> list[str]:
        return list(Labels.from_id2label(self.model.config.id2label or {}).names)

    @property
    def kind(self) -> KindName:
        config, kind = self.model.config, self._head.task_kind
        if kind in ("tokens", "choice", "span"):
            return kind
        if config.problem_type == "multi_label_classification":
            return "multi-label"
        return "regression" if config.num_labels == 1 else "classification"

    @property
    def windowing(self) -> Windowing | None:
        """How long texts are read; None where they are cut."""
        return windowing_in(self.task)

    @property
    def has_kind(self) -> bool:
        """Whether the model answers a kind of task with its logits, rather than giving states, tokens or spans."""
        return self._head.task_kind in ("text", "tokens", "choice")

    @property
    def _head(self) -> Head:
        model_class = self.model.model_class if isinstance(self.model, OnnxModel) else type(self.model)
        return next(
            (head for head in HEADS.values() if issubclass(model_class, head.model_class)), HEADS["model"]
        )

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        batch_size: int = 32,
        progress: str | None = None,
    ) -> np.ndarray:
        """Return logits [N, num_labels] in the order of `texts`, of windows what they combine to; see `outputs`."""
        max_length, windowing = self.task["max_length"], self.windowing
        owners = None
        if windowing is None:
            encoded = self.tokenizer(
                list(texts),
                None if pairs is None else list(pairs),
                truncation=True,
                max_length=max_length,
            )
        elif pairs is not None:
            raise UserError("the model reads windows of single texts, not pairs of texts")
        else:
            encoded, owners = encode_windows(
                self.tokenizer, list(texts), max_length, windowing.stride, windowing.most
            )
        features = datasets.Dataset.from_dict(dict(encoded))
        outputs = self.outputs(features, DataCollatorWithPadding(self.tokenizer), batch_size, progress)
        return by_owner(np.stack(outputs), owners, windowing, self.kind)

    def outputs(
        self,
        features: datasets.Dataset,
        collator: Callable[[list[dict[str, Any]]], Any],
        batch_size: int = 32,
        progress: str | None = None,
        reduce: Callable[[Any, Any], torch.Tensor] | None = None,
    ) -> list[np.ndarray]:
        """Return the model's logits for each feature, in their order; see `in_batches`.

        progress: title of a progress bar, shown on a terminal.
        reduce: what is kept in place of the logits, from the model's outputs and config, see `Kind.reduce`.
        """
        inputs = [*self.tokenizer.model_input_names, "answer_mask"]
        names = [name for name in inputs if name in features.column_names]
        columns = {name: features[name][:] for name in names}

        def forward(**batch: Tensor) -> Tensor:
            output = self.model(**batch)
            if reduce is None:
                return refuse_not_finite(output.logits)
            ignored = ("loss", *self.model.config.keys_to_ignore_at_inference)
            given = tuple(tensor for name, tensor in output.items() if name not in ignored)
            for tensor in given:
                refuse_not_finite(tensor, may_be_lowest=True)
            return reduce(given, self.model.config)

        with progress_bar(progress, len(features)) as advance:
            return in_batches(self.model, forward, columns, collator, batch_size, advance)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [N, num_labels]: of exclusive classes, or one by one for a multi-label model."""
        return sigmoid(logits) if self.kind == "multi-label" else softmax(logits)

    @property
    def most_padding(self) -> int:
        """Tokens of padding that are worth a shared batch; 0 where padding would change what the model says."""
        return most_padding(self.model)

    def answers(self, logits: np.ndarray) -> Iterator[dict[str, Any]]:
        """What is said of each text with logits [N, num_labels]: `prediction`, and of classes their probabilities."""
        yield from say_of(self.kind, self.labels, logits)


def _head_in(folder: str) -> Head:
    """The head of the model in a folder, where its config names one that learns a task; by default of texts."""
    heads = (head_of(name) for name in read_architectures(folder))
    return next((head for head in heads if head and head.task_kind), HEADS["sequence_classification"])


def load_predictor(
    folder: str, max_length: int | None = None, device: str = "auto", backend: Backend = "auto"
) -> Predictor:
    """Load the folder of a fine-tuned model. Raises UserError when it is none.

    backend: "onnx" and "openvino" run the folder's graph; "auto" does where it has one and no weights, see
        `choose_backend`.
    """
    if max_length is not None and max_length < 3:
        raise UserError(f"--max-length is {max_length}; allowed: 3 and more")
    tokenizer = load_tokenizer(folder)
    model: Any
    chosen = choose_backend(folder, backend)
    if chosen != "torch":
        model = OnnxModel(folder, engine=chosen)
        head = head_of(model.model_class.__name__)
        if head is None or head.task_kind is None:
            raise UserError(
                f"{folder}: the graph is of a {model.model_class.__name__}, which gives no labels"
            )
    else:
        head = _head_in(folder)
        model, random = load_model(head.model_class, folder, may_miss=("classifier.",))
        if random:
            raise UserError(
                f"{folder}: has no classification head; fine-tune it first (funnelformer finetune)"
            )
        ready(model, device)
    check_vocabulary(tokenizer, model.config.vocab_size, folder)
    task = read_settings(folder)
    if max_length is not None:
        check_length(model.config, max_length, "--max-length")
    elif model.config.position == "absolute":
        task["max_length"] = min(task.get("max_length", 512), model.config.max_position_embeddings)
    task["max_length"] = max_length or task.get("max_length", 512)
    return Predictor(model, tokenizer, task)
