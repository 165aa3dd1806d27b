"""Load a model and check that it fits; label texts with a fine-tuned one, in batches of similar length."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from transformers import DataCollatorWithPadding

from .checkpoints.weights import read_json
from .data.tasks import KindName
from .data.tokenizer import check_vocabulary, load_tokenizer
from .data.values import Labels
from .errors import UserError
from .metrics import sigmoid, softmax
from .modeling import (
    FunnelformerForMultipleChoice,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
)
from .training.processes import gather_lists, num_processes, rank

__all__ = ["Predictor", "check_length", "load_model", "load_predictor"]

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
    try:
        model, report = model_class.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
    except UserError:
        raise
    except Exception as error:  # transformers, torch, safetensors and the Hub have no common base class
        raise UserError(f"{source}: no model could be loaded ({' '.join(str(error).split())})") from error
    other_heads = (
        "lm_head.",
        "classifier.",
        "qa_outputs.",
        "detector.",
        "structure_head.",
        "funnelformer.decoder.",
        "decoder.",
    )
    for name in sorted(report["unexpected_keys"]):
        if not name.startswith(other_heads):
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
    """A fine-tuned model with its tokenizer, ready to answer.

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
        config = self.model.config
        if isinstance(self.model, FunnelformerForTokenClassification):
            return "tokens"
        if isinstance(self.model, FunnelformerForMultipleChoice):
            return "choice"
        if config.problem_type == "multi_label_classification":
            return "multi-label"
        return "regression" if config.num_labels == 1 else "classification"

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        batch_size: int = 32,
        progress: str | None = None,
    ) -> np.ndarray:
        """Return logits [N, num_labels] in the order of `texts`; see `outputs`."""
        encoded = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation=True,
            max_length=self.task["max_length"],
        )
        features = datasets.Dataset.from_dict(dict(encoded))
        return np.stack(self.outputs(features, DataCollatorWithPadding(self.tokenizer), batch_size, progress))

    def outputs(
        self,
        features: datasets.Dataset,
        collator: Callable[[list[dict[str, Any]]], Any],
        batch_size: int = 32,
        progress: str | None = None,
    ) -> list[np.ndarray]:
        """Return the model's logits for each feature, in their order.

        They are sorted by length first and a batch ends where the padding in it grows; with `padding="exact"` the
        result does not depend on it. Of several processes each takes some of the batches, and has all logits in the
        end. batch_size: features of a batch at most.
        progress: title of a progress bar, shown on a terminal.
        """
        names = [name for name in self.tokenizer.model_input_names if name in features.column_names]
        columns = {name: features[name][:] for name in names}
        lengths = np.array([len(ids) for ids in columns["input_ids"]])
        order = np.argsort(-lengths, kind="stable")
        most_padding = _MOST_PADDING.get(self.model.device.type, _MOST_PADDING["other"])
        batches = [order[part] for part in _cut(lengths[order].tolist(), batch_size, most_padding)]
        found: list[tuple[int, np.ndarray]] = []
        for rows in _tracked(batches[rank() :: num_processes()], progress):
            batch = collator([{name: columns[name][row] for name in names} for row in rows])
            if "attention_mask" in batch and batch["attention_mask"].all():
                del batch["attention_mask"]  # nothing to mask, so nothing to compute it with
            with torch.inference_mode():
                logits = self.model(
                    **{name: tensor.to(self.model.device) for name, tensor in batch.items()}
                ).logits
            found += zip(rows.tolist(), logits.float().cpu().numpy(), strict=True)
        return [values for _, values in sorted(gather_lists(found), key=lambda entry: entry[0])]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [N, num_labels]: of exclusive classes, or one by one for a multi-label model."""
        return sigmoid(logits) if self.kind == "multi-label" else softmax(logits)


def _model_class(folder: str) -> Any:
    """The class of the model in a folder, where its config says that it is one for tokens or choices."""
    file = Path(folder) / "config.json"
    architectures = read_json(file).get("architectures") or [] if file.is_file() else []
    for model_class in (FunnelformerForTokenClassification, FunnelformerForMultipleChoice):
        if model_class.__name__ in architectures:
            return model_class
    return FunnelformerForSequenceClassification


def load_predictor(folder: str, max_length: int | None = None, device: str = "auto") -> Predictor:
    """Load the folder of a fine-tuned model. Raises UserError when it is none."""
    if max_length is not None and max_length < 3:
        raise UserError(f"--max-length is {max_length}; allowed: 3 and more")
    tokenizer = load_tokenizer(folder)
    model, random = load_model(_model_class(folder), folder, may_miss=("classifier.",))
    if random:
        raise UserError(f"{folder}: has no classification head; fine-tune it first (funnelformer finetune)")
    check_vocabulary(tokenizer, model.config.vocab_size, folder)
    file = Path(folder) / "task.json"
    task = read_json(file) if file.is_file() else {}
    if max_length is not None:
        check_length(model.config, max_length, "--max-length")
    elif model.config.position == "absolute":
        task["max_length"] = min(task.get("max_length", 512), model.config.max_position_embeddings)
    task["max_length"] = max_length or task.get("max_length", 512)
    model.eval()
    if device == "auto" and torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    return Predictor(model, tokenizer, task)


def _cut(lengths: Sequence[int], batch_size: int, most_padding: int) -> list[slice]:
    """Cut falling lengths into batches: of `batch_size` at most, and of `most_padding` tokens of padding at most."""
    parts, start, padding = [], 0, 0
    for index, length in enumerate(lengths):
        added = lengths[start] - length
        if index - start == batch_size or padding + added > most_padding:
            parts.append(slice(start, index))
            start, padding, added = index, 0, 0
        padding += added
    return [*parts, slice(start, len(lengths))] if lengths else []


def _tracked(batches: list[np.ndarray], progress: str | None) -> Iterable[np.ndarray]:
    if progress is None or not sys.stderr.isatty():
        return batches
    return track(batches, description=progress, console=Console(stderr=True))
