"""The student: an encoder that gives vectors, and what is learned beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UserError
from ...base.options import model_options
from ...base.sentence_modules import SentenceEmbedding, write_modules
from ...checkpoints.model_source import is_layout
from ...data.tokenizer import check_vocabulary, load_tokenizer, model_ids
from ...inference.load import load_model
from ...inference.settings import check_length
from ...modeling import FunnelformerModel
from ...modeling.model import sequence_vector
from ..run.folder import config_from_name
from .config import DistillConfig
from .factorised import check_size
from .teacher import Teacher

__all__ = ["Student", "make_student"]

_NO_DECODER: dict[str, Any] = {"decoder_layers": 0, "decoder_skip_state": None}
_DROPOUTS = ("hidden_dropout", "attention_dropout")


class Student(nn.Module):
    """An encoder in training, with how its states become a vector.

    settings: of its vectors, as its folder will say them. kept: config keys that its folder says otherwise than the
    training has them.
    """

    def __init__(
        self, encoder: FunnelformerModel, settings: SentenceEmbedding, kept: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, settings
        self._kept = dict(kept)

    @property
    def config(self) -> Any:
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def forward(self, wants_states: bool = False, **inputs: Any) -> dict[str, Any]:
        """vectors: [B, D]. states: where they are wanted, as of `FunnelformerModel`."""
        output = self.encoder(**inputs, output_hidden_states=wants_states, return_dict=True)
        return {"vectors": sequence_vector(output, self.config), "states": output.hidden_states}

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        return self.encoder.num_parameters(only_trainable, exclude_embeddings)

    def save_pretrained(
        self, folder: str | os.PathLike[str], state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write the encoder as a folder that `embed` and sentence_transformers load.

        state_dict: of the student, where that of this process is not whole.
        """
        own = None
        if state_dict is not None:
            prefix = "encoder."
            own = {
                name.removeprefix(prefix): tensor
                for name, tensor in state_dict.items()
                if name.startswith(prefix)
            }
        before = {name: getattr(self.config, name) for name in self._kept}
        for name, value in self._kept.items():
            setattr(self.config, name, value)
        self.encoder.save_pretrained(folder, state_dict=own)
        for name, value in before.items():
            setattr(self.config, name, value)
        write_modules(Path(folder), self.settings)


def make_student(config: DistillConfig, teacher: Teacher) -> tuple[Student, Any]:
    """The student before its first step, and its tokenizer. Raises UserError for what does not fit."""
    options = model_options(config.model_options)
    dropouts = dict.fromkeys(_DROPOUTS, config.dropout)
    if is_layout(config.model):
        if config.layout is not None or config.layers is not None:
            raise UserError("--layout and --layers shorten a model that is there; --model is a layout itself")
        tokenizer = teacher.tokenizer if config.tokenizer is None else load_tokenizer(config.tokenizer)
        settings = replace(teacher.settings, pooling="mean_tokens")
        if config.embedding_size is not None:
            options["embedding_size"] = config.embedding_size
        values = {**model_ids(tokenizer), "classifier_pooling": settings.pooling, **options, **_NO_DECODER}
        encoder = FunnelformerModel(config_from_name(config.model, values))
    else:
        if config.tokenizer is not None:
            raise UserError("--tokenizer is for a student that begins from nothing; --model has its own")
        wishes: dict[str, Any] = {"layout": config.layout, "layers": config.layers}
        settings_given: dict[str, Any] = {
            **{name: value for name, value in wishes.items() if value is not None},
            **options,
            **_NO_DECODER,
            "dtype": torch.float32,
        }
        encoder, _ = load_model(FunnelformerModel, config.model, **settings_given)
        tokenizer = load_tokenizer(config.model)
        settings = encoder.config.vectors or replace(teacher.settings, pooling="mean_tokens")
    check_vocabulary(tokenizer, encoder.config.vocab_size, config.model)
    if config.embedding_size is not None and not is_layout(config.model):
        check_size(encoder, config.embedding_size)
    kept = {name: getattr(encoder.config, name) for name in _DROPOUTS}
    _set_dropout(encoder, dropouts)
    length = config.max_length or teacher.max_length
    if encoder.config.position == "absolute" and config.max_length is None:
        length = min(length, encoder.config.max_position_embeddings)
    check_length(encoder.config, length, "--max-length")
    if encoder.config.position != "absolute":
        encoder.config.max_position_embeddings = max(encoder.config.max_position_embeddings, length)
    tokenizer.model_max_length = length
    settings = replace(settings, max_length=length)
    encoder.config.classifier_pooling = settings.pooling
    encoder.config.sentence_embedding = settings.to_dict()
    return Student(encoder, settings, kept), tokenizer


def _set_dropout(encoder: FunnelformerModel, rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        setattr(encoder.config, name, rate)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = encoder.config.hidden_dropout
