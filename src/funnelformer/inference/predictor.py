"""`Predictor`: a fine-tuned model with its tokenizer and task, which labels texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..base.options import Backend
from ..base.progress import progress_bar
from ..config.head_table import HEADS, Head, head_of
from ..data.example_rows import Examples, Rows
from ..data.padding import pad_batch
from ..data.plain_tokenizer import load_plain_tokenizer
from ..data.tokenizer import check_fits, load_tokenizer
from ..data.values import Labels
from ..tasks.judge import say_of
from ..tasks.kind import Kind
from ..tasks.kinds import kind_of
from ..tasks.scores import sigmoid, softmax
from ..tasks.task import KindName, Task, TaskColumns
from ..tasks.window_options import WindowOptions
from ..tasks.windowing import Windowing, windowing_in
from ..tasks.windows import by_owner, check_stride, encode_windows
from .batches import in_batches, most_padding
from .finite import refuse_not_finite
from .onnx_model import OnnxModel, choose_backend
from .settings import DEFAULT_LENGTH, check_asked_length, check_length, read_architectures, read_settings

__all__ = ["Predictor", "load_predictor"]


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model, of PyTorch or exported, with its tokenizer, ready to answer.

    task: what task.json of the run says, if there is one: the task's name, and the columns and `max_length` of
        fine-tuning.
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
        """How long texts are read in windows; None if they are cut."""
        return windowing_in(self.task)

    def in_windows(self, options: WindowOptions) -> Predictor:
        """The one that reads long texts as these options say; what they leave open is as in training.

        Raises UserError where there is no single text to cut, and for a stride that would leave tokens out.
        """
        if not options.asked:
            return self
        task = {**self.task, **options.asked}
        windowing = windowing_in(task)
        assert windowing is not None
        if self._head.task_kind is None:
            raise UserError(
                f"{windowing.option} is for models that label texts or tokens, or answer questions"
            )
        columns = TaskColumns(task.get("text") or "text", task.get("text_pair"))
        kind_of(Task("", self.kind, columns, None, ()), windowing)
        if windowing.stride is not None and self.kind != "span":
            check_stride(self.tokenizer, task["max_length"], windowing.stride)
        return dataclasses.replace(self, task=task)

    @property
    def has_kind(self) -> bool:
        """Whether the model answers a kind of task with its logits, rather than giving states, tokens or spans."""
        return self._head.task_kind in ("text", "tokens", "choice")

    @property
    def _head(self) -> Head:
        if isinstance(self.model, OnnxModel):
            return self.model.head
        names = [base.__name__ for base in type(self.model).__mro__]
        return next((head for head in HEADS.values() if head.class_name in names), HEADS["model"])

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        batch_size: int = 32,
        progress: str | None = None,
    ) -> np.ndarray:
        """Return logits [N, num_labels] in the order of `texts`, also where a text has several windows."""
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
        outputs = self.outputs(Rows(dict(encoded)), batch_size=batch_size, progress=progress)
        return by_owner(np.stack(outputs), owners, windowing, self.kind)

    def outputs(
        self,
        features: Examples,
        kind: Kind | None = None,
        batch_size: int = 32,
        progress: str | None = None,
    ) -> list[np.ndarray]:
        """Return the model's logits for each feature, in their order; see `in_batches`.

        kind: says how they are padded, and of spans what is kept in place of the logits, see `Kind.reduce`.
        progress: title of a progress bar, shown on a terminal.
        """
        inputs = [*self.tokenizer.model_input_names, "answer_mask"]
        names = [name for name in inputs if name in features.column_names]
        columns = {name: features[name][:] for name in names}

        run = self.runner()
        reduces = self.kind == "span"

        def forward(batch: dict[str, np.ndarray]) -> np.ndarray:
            output = run(batch)
            if not reduces:
                return refuse_not_finite(output["logits"])
            given = tuple(refuse_not_finite(array, may_be_lowest=True) for array in output.values())
            assert kind is not None
            return np.asarray(kind.reduce(given, self.model.config))

        def pad(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
            return pad_batch(self.tokenizer, rows) if kind is None else kind.pad(self.tokenizer, rows)

        with progress_bar(progress, len(features)) as advance:
            return in_batches(forward, columns, pad, batch_size, self.most_padding, advance)

    def runner(self) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        """What runs a batch and gives the model's outputs by name."""
        if isinstance(self.model, OnnxModel):
            graph = self.model
            return lambda batch: graph(**batch)
        from .torch_calls import torch_outputs

        return torch_outputs(self.model)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [N, num_labels]: of exclusive classes, or one by one for a multi-label model."""
        return sigmoid(logits) if self.kind == "multi-label" else softmax(logits)

    @property
    def most_padding(self) -> int:
        """Tokens of padding that are worth a shared batch; 0 where padding would change what the model says."""
        return most_padding(self.model)

    def answers(self, logits: np.ndarray) -> Iterator[dict[str, Any]]:
        """The answer of logits [N, num_labels] to each text: `prediction` and, for classes, their probabilities."""
        yield from say_of(self.kind, self.labels, logits)


def _head_in(folder: str) -> Head:
    """The head of the model in a folder, where its config names one that learns a task; by default of texts."""
    heads = (head_of(name) for name in read_architectures(folder))
    return next((head for head in heads if head and head.task_kind), HEADS["sequence_classification"])


def load_predictor(
    folder: str,
    max_length: int | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    windows: WindowOptions | None = None,
) -> Predictor:
    """Load a fine-tuned model from its folder. Raises UserError if the folder holds none.

    backend: "onnx" and "openvino" run the folder's graph; "auto" does so if the folder has a graph and no weights, see
        `choose_backend`.
    windows: how long texts are read; by default as in training.
    """
    check_asked_length(max_length)
    tokenizer: Any
    model: Any
    chosen = choose_backend(folder, backend)
    if chosen != "torch":
        tokenizer = load_plain_tokenizer(folder)
        model = OnnxModel(folder, engine=chosen)
        if model.head.task_kind is None:
            raise UserError(f"{folder}: the graph is of a {model.head.class_name}, which gives no labels")
    else:
        from .load import load_model, ready

        tokenizer = load_tokenizer(folder)
        head = _head_in(folder)
        model, random = load_model(head.model_class, folder, may_miss=("classifier.",))
        if random:
            raise UserError(
                f"{folder}: has no classification head; fine-tune it first (funnelformer finetune)"
            )
        ready(model, device)
    check_fits(tokenizer, model.config, folder)
    task = read_settings(folder)
    if max_length is not None:
        check_length(model.config, max_length, "--max-length")
    elif model.config.position == "absolute":
        task["max_length"] = min(task.get("max_length", DEFAULT_LENGTH), model.config.max_position_embeddings)
    task["max_length"] = max_length or task.get("max_length", DEFAULT_LENGTH)
    predictor = Predictor(model, tokenizer, task)
    return predictor if windows is None else predictor.in_windows(windows)
