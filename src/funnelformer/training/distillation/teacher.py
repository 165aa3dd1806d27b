"""What teaches: the vectors and states that a model gives texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...base.errors import UserError
from ...base.sentence_modules import SentenceEmbedding
from ...checkpoints.folders import resolve
from ...checkpoints.model_source import Layout, find_model
from ...corpus.manifest import hash_file
from ...inference.embedder import load_embedder
from ...inference.finite import refuse_not_finite

__all__ = ["Teacher", "load_teacher"]

# What decides a model's outputs.
_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")


@dataclass(frozen=True)
class Teacher:
    """A model that gives vectors of texts, ready to run.

    source: as it was named. digest: of its files. size: numbers of a vector. num_layers: of its encoder.
    max_length: tokens at which it cuts a text. settings: what it does to a text beside that.
    """

    source: str
    digest: str
    model: Any
    tokenizer: Any
    max_length: int
    settings: SentenceEmbedding
    prompt: str
    precision: str

    @property
    def size(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def num_layers(self) -> int:
        return int(self.model.config.num_hidden_layers)

    @property
    def key(self) -> dict[str, Any]:
        """What decides its outputs, beside the texts."""
        return {
            "teacher": self.digest,
            "max_length": self.max_length,
            "prompt": self.prompt,
            "normalize": self.settings.normalize,
            "precision": self.precision,
        }

    def vectors(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[B, D] in float32. Raises UserError for what is not finite."""
        with torch.inference_mode(), self._arithmetic():
            found = refuse_not_finite(self.model.sequence_vectors(**self._on_device(batch)).float())
        return F.normalize(found, dim=-1) if self.settings.normalize else found

    def states(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The states [B, T, D] before the first layer and after each one."""
        with torch.inference_mode(), self._arithmetic():
            output = self.model(**self._on_device(batch), output_hidden_states=True, use_decoder=False)
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    def _on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def _arithmetic(self) -> AbstractContextManager[Any]:
        kind = self.model.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def load_teacher(source: str, precision: str, device: str, max_length: int | None) -> Teacher:
    """Load the model to learn from. Raises UserError for what gives no vectors of texts.

    max_length: of the student, which the teacher reads no further than.
    """
    if isinstance(find_model(source), Layout):
        raise UserError(
            f"--teacher {source}: is a layout, which has no trained weights; name a trained model"
        )
    embedder = load_embedder(source, device=device, backend="torch", only_runs=precision == "fp32")
    return Teacher(
        source=source,
        digest=_digest_of(resolve(source)),
        model=embedder.model,
        tokenizer=embedder.tokenizer,
        max_length=min(embedder.max_length, max_length or embedder.max_length),
        settings=embedder.settings,
        prompt=embedder.prompt,
        precision=precision,
    )


def _digest_of(folder: Path) -> str:
    """Of the files in a model's folder that decide its outputs, by their names and content."""
    total = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in folder.rglob(pattern) if file.is_file()}):
        total.update(f"{file.relative_to(folder)}\0{hash_file(file)}\n".encode("utf-8", "surrogatepass"))
    return total.hexdigest()
