"""The teacher: a model whose vectors and states of texts a student learns."""

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
from ...base.files import hash_file
from ...base.foreign_code import refuse_foreign_code
from ...base.sentence_modules import SentenceEmbedding, read_modules
from ...checkpoints.folders import detect, resolve
from ...checkpoints.model_source import Hub, Layout, find_model
from ...inference.embedder import load_embedder
from ...inference.finite import refuse_not_finite
from ...modeling import FunnelformerModel
from .foreign_teacher import load_foreign_encoder
from .token_rows import Reader

__all__ = ["Teacher", "load_teacher"]

# What decides a model's outputs.
_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")


@dataclass(frozen=True)
class Teacher:
    """A model that gives vectors of texts, ready to run.

    source: the name you gave it. digest: a hash of all that decides its outputs. max_length: tokens that it reads at
        once.
    settings: what else it does to a text. reach: tokens of a text that it reads, in windows if that is more than
        max_length.
    """

    source: str
    digest: str
    model: Any
    tokenizer: Any
    max_length: int
    settings: SentenceEmbedding
    prompt: str
    precision: str
    reach: int
    size: int

    @property
    def encoder(self) -> FunnelformerModel | None:
        """The model where it is one of ours, or became one when it was loaded: others show no states."""
        return self.model if isinstance(self.model, FunnelformerModel) else None

    @property
    def key(self) -> dict[str, Any]:
        """All that decides its outputs, apart from the texts."""
        return {
            "teacher": self.digest,
            "max_length": self.max_length,
            "prompt": self.prompt,
            "normalize": self.settings.normalize,
            "precision": self.precision,
            **({"reach": self.reach} if self.reads_windows else {}),
        }

    @property
    def reads_windows(self) -> bool:
        return self.reach > self.max_length

    @property
    def reader(self) -> Reader:
        return Reader(
            self.tokenizer, self.reach, self.prompt, self.max_length if self.reads_windows else None
        )

    def vectors(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The vectors [B, D] of a batch in float32. Raises UserError if one is not finite."""
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
        known = self.tokenizer.model_input_names
        return {
            name: tensor.to(self.model.device)
            for name, tensor in batch.items()
            if name in known or self.encoder is not None
        }

    def _arithmetic(self) -> AbstractContextManager[Any]:
        kind = self.model.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def load_teacher(source: str, precision: str, device: str, max_length: int | None) -> Teacher:
    """Load the model to learn from. Raises UserError if it gives no vectors of texts.

    max_length: of the student. A teacher that reads more is cut there; one that reads less reads windows.
    """
    if isinstance(find_model(source), Layout):
        raise UserError(
            f"--teacher {source}: is a layout, which has no trained weights; name a trained model"
        )
    model: Any
    if _is_ours(source):
        embedder = load_embedder(source, device=device, backend="torch", only_runs=precision == "fp32")
        model, tokenizer, length = embedder.model, embedder.tokenizer, embedder.max_length
        settings, prompt, digest = embedder.settings, embedder.prompt, _digest_of(resolve(source))
        size = embedder.size
    else:
        model, tokenizer, length, settings, digest = load_foreign_encoder(source, device)
        prompt = settings.prompt(None, source)
        with torch.inference_mode():
            size = int(model.sequence_vectors(input_ids=torch.tensor([[0]], device=model.device)).size(1))
    return Teacher(
        source=source,
        digest=digest,
        model=model,
        tokenizer=tokenizer,
        max_length=min(length, max_length or length),
        settings=settings,
        prompt=prompt,
        precision=precision,
        reach=max_length or length,
        size=size,
    )


def _is_ours(source: str) -> bool:
    """Whether the model can be one of ours, with all that its folder does to a text; else its own library runs it."""
    refuse_foreign_code(source)
    if isinstance(find_model(source), Hub):
        source = str(resolve(source))
    try:
        detect(source)
        read_modules(source)
    except UserError:
        # Only of what is there: what is no model at all is refused by the library, too.
        return not (Path(source) / "config.json").is_file() and not (Path(source) / "modules.json").is_file()
    return True


def _digest_of(folder: Path) -> str:
    """Of the files in a model's folder that decide its outputs, by their names and content."""
    total = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in folder.rglob(pattern) if file.is_file()}):
        total.update(f"{file.relative_to(folder)}\0{hash_file(file)}\n".encode("utf-8", "surrogatepass"))
    return total.hexdigest()
