"""Load a model and check that it fits; label texts with a fine-tuned one, in batches of similar length."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding

from ..base.errors import UserError, joined, short
from ..base.files import check_readable
from ..base.json_toml import read_json
from ..base.options import Backend
from ..base.processes import gather_lists, num_processes, rank
from ..base.progress import progress_bar
from ..data.tokenizer import check_vocabulary, load_tokenizer
from ..data.values import Labels
from ..modeling import DECODER_PREFIX, HEAD_PREFIXES, HEADS, Head, fix_tables, head_of, prepack
from ..tasks.judge import say_of
from ..tasks.scores import sigmoid, softmax
from ..tasks.task import KindName
from ..tasks.windows import encode_windows, mean_by_owner
from .onnx_model import OnnxModel, is_export

__all__ = [
    "TASK_FILE",
    "Predictor",
    "check_length",
    "in_batches",
    "load_model",
    "load_predictor",
    "read_architectures",
    "read_settings",
    "ready",
    "refuse_not_finite",
]

# Of a fine-tuned model's folder.
TASK_FILE = "task.json"

# Tokens of padding in a batch, by device: about what a further batch costs. A CPU reads the weights once more, and
# an accelerator is idle while the kernels of a small batch are launched.
_MOST_PADDING = {"cpu": 32, "other": 2048}


def load_model(
    model_class: Any,
    source: str,
    may_miss: tuple[str, ...] = (),
    may_differ: tuple[str, ...] = (),
    **settings: Any,
) -> tuple[Any, list[str]]:
    """Load a model of `model_class` from a folder or Hub name; return it and its parameters that are random.

    may_miss, may_differ: prefixes of the parameters that the weights may lack, or have in another shape.
    settings: config keys to change.
    Raises UserError naming the first parameter that does not fit, or what cannot be read.
    """
    check_readable(source)
    try:
        model, report = model_class.from_pretrained(
            source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **settings,
        )
    except UserError:
        raise
    except Exception as error:  # transformers, torch, safetensors and the Hub have no common base class
        raise UserError(f"{source}: no model could be loaded ({joined(error)})") from error
    left_out = (*HEAD_PREFIXES, DECODER_PREFIX, f"funnelformer.{DECODER_PREFIX}")
    for name in sorted(report["unexpected_keys"]):
        if not name.startswith(left_out):
            raise UserError(f"{source}: parameter {name} of the weights has no place in the config's model")
    for name, found, wanted in sorted(report["mismatched_keys"]):
        if not name.startswith(may_differ):
            raise UserError(
                f"{source}: parameter {name} has shape {list(found)}, the config wants {list(wanted)}"
            )
    for name in sorted(report["missing_keys"]):
        if not name.startswith(may_miss):
            raise UserError(f"{source}: parameter {name} is not among the weights")
    return model, sorted([*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])])


def check_length(config: Any, max_length: int, flag: str) -> None:
    """Raise UserError when absolute positions do not reach `max_length`, which `flag` asked for."""
    limit = config.max_position_embeddings
    if config.position == "absolute" and max_length > limit:
        raise UserError(f"{flag} {max_length} is beyond the model's max_position_embeddings {limit}")


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
        """Return logits [N, num_labels] in the order of `texts`, of windows their mean; see `outputs`."""
        max_length, stride = self.task["max_length"], self.task.get("doc_stride")
        owners = None
        if stride is None:
            encoded = self.tokenizer(
                list(texts),
                None if pairs is None else list(pairs),
                truncation=True,
                max_length=max_length,
            )
        elif pairs is not None:
            raise UserError("the model reads windows of single texts, not pairs of texts")
        else:
            encoded, owners = encode_windows(self.tokenizer, list(texts), max_length, stride)
        features = datasets.Dataset.from_dict(dict(encoded))
        outputs = self.outputs(features, DataCollatorWithPadding(self.tokenizer), batch_size, progress)
        return mean_by_owner(np.stack(outputs), owners)

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
        return _most_padding(self.model)

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

    backend: "onnx" runs the folder's graph in ONNX Runtime; "auto" does where it has one and no weights.
    """
    if max_length is not None and max_length < 3:
        raise UserError(f"--max-length is {max_length}; allowed: 3 and more")
    tokenizer = load_tokenizer(folder)
    model: Any
    if backend == "onnx" or (backend == "auto" and is_export(folder)):
        model = OnnxModel(folder)
        head = head_of(model.model_class.__name__)
        if head is None or head.task_kind is None:
            raise UserError(f"{folder}: the graph is of a {model.model_class.__name__}, which labels nothing")
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


def read_architectures(folder: str) -> list[str]:
    """The classes that the config in a folder names; none of a Hub name. Raises UserError for what is no list."""
    file = Path(folder) / "config.json"
    names = read_json(file).get("architectures") if file.is_file() else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{file}: architectures is {short(names)}; allowed: a list of names")
    return names or []


_TEXTS = ("task", "text", "text_pair", "label", "label_separator")
# From, and to where no sound value lies beyond: what is given to tokenizers in 64 bits.
_COUNTS = {"max_length": (3, 1 << 24), "doc_stride": (1, 1 << 24), "max_answer_length": (1, 1 << 24)}


def read_settings(folder: str) -> dict[str, Any]:
    """What fine-tuning noted in a model's folder of its task; nothing of another folder or a Hub name.

    Raises UserError naming the first value that cannot be used.
    """
    file = Path(folder) / TASK_FILE
    if not file.is_file():
        return {}
    values = read_json(file)
    for name in _TEXTS:
        if not isinstance(values.get(name), str | None) or values.get(name) == "":
            raise UserError(f"{file}: {name} is {short(values[name])}; allowed: a text, null")
    for name, (least, most) in _COUNTS.items():
        value = values.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UserError(f"{file}: {name} is {short(value)}; allowed: {least} to {most}")
    threshold = values.get("null_threshold", 0.0)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not abs(threshold) < 1e9:
        raise UserError(f"{file}: null_threshold is {short(threshold)}; allowed: a number")
    return values


def ready(model: Any, device: str, *, only_runs: bool = True) -> Any:
    """The model in evaluation mode, on an accelerator where `device` is "auto" and there is one.

    only_runs: nothing will change the weights: on a CPU they are prepacked, elsewhere attention's tables are kept. The
        model cannot be saved any more.
    """
    if device == "auto" and torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator()).eval()
        return fix_tables(model) if only_runs else model
    return prepack(model) if only_runs else model.eval()


def refuse_not_finite(output: Tensor, *, may_be_lowest: bool = False) -> Tensor:
    """Return what a model gave; raise UserError when it has a NaN or is infinite, which no answer can be made of.

    may_be_lowest: of spans, where -inf is the score of one that cannot be.
    """
    is_right = output.isfinite() | output.isneginf() if may_be_lowest else output.isfinite()
    if not bool(is_right.all()):
        raise UserError(
            "the model gives NaN or infinity: its weights are damaged, or its training has diverged"
        )
    return output


def in_batches(
    model: Any,
    forward: Callable[..., Tensor],
    columns: Mapping[str, Sequence[Any]],
    collator: Callable[[list[dict[str, Any]]], Any],
    batch_size: int,
    advance: Callable[[int], None],
) -> list[np.ndarray]:
    """Return what `forward` gives for each row of `columns`, the inputs of `model`, in their order.

    Rows are sorted by length first and a batch ends where the padding in it grows; with `padding="exact"` the result
    does not depend on it. In a model whose windows are changed by padding, rows of one length share a batch.
    Of several processes each takes some of the batches, and has what all found in the end.
    batch_size: rows of a batch at most. advance: told how many rows are done.
    """
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    found: list[tuple[int, np.ndarray]] = []
    parts = _cut(lengths[order].tolist(), batch_size, _most_padding(model))
    for part in parts[rank() :: num_processes()]:
        rows = order[part]
        batch = collator([{name: values[row] for name, values in columns.items()} for row in rows])
        if "attention_mask" in batch and batch["attention_mask"].all():
            del batch["attention_mask"]  # nothing to mask, so nothing to compute it with
        with torch.inference_mode():
            output = forward(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        found += zip(rows.tolist(), output.float().cpu().numpy(), strict=True)
        advance(len(rows))
    return [values for _, values in sorted(gather_lists(found), key=lambda entry: entry[0])]


def _most_padding(model: Any) -> int:
    """See `Predictor.most_padding`."""
    if model.config.padding != "exact":
        return 0
    return _MOST_PADDING.get(model.device.type, _MOST_PADDING["other"])


def _cut(
    lengths: Sequence[int], batch_size: int, most_padding: int, most_tokens: int = sys.maxsize
) -> list[slice]:
    """Cut falling lengths into batches of at most so many rows, tokens of padding, and tokens with the padding.

    A row longer than `most_tokens` is a batch of its own.
    """
    parts, start, padding = [], 0, 0
    for index, length in enumerate(lengths):
        size, added = index - start, lengths[start] - length
        full = size == batch_size or (size > 0 and lengths[start] * (size + 1) > most_tokens)
        if full or padding + added > most_padding:
            parts.append(slice(start, index))
            start, padding, added = index, 0, 0
        padding += added
    return [*parts, slice(start, len(lengths))] if lengths else []
