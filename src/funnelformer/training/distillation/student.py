"""The student: an encoder that gives vectors, and what is learned beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...base.errors import UserError
from ...base.options import model_options
from ...base.processes import say
from ...base.sentence_modules import SentenceEmbedding, write_modules
from ...checkpoints.foreign_options import make_config
from ...checkpoints.model_source import is_layout
from ...data.tokenizer import check_fits, load_tokenizer, model_ids
from ...inference.embedder import Embedder
from ...inference.load import load_model
from ...inference.settings import allow_length
from ...modeling import FunnelformerModel
from ...modeling.model import sequence_vector
from ..run.folder import config_from_name
from .config import DistillConfig
from .factorised import check_size
from .teacher import Teacher

__all__ = ["DROPOUTS", "Student", "make_student", "set_dropout", "shortening", "student_tokenizer"]

# Of a run's folder: [E, D], what takes a vector to one of the teacher's.
PROJECTION_FILE = "projection.safetensors"
_NO_DECODER: dict[str, Any] = {"decoder_layers": 0, "decoder_skip_state": None}
DROPOUTS = ("hidden_dropout", "attention_dropout")


class Student(nn.Module):
    """An encoder in training, with how its states become a vector.

    settings: of its vectors, as its folder will say them. kept: config keys that its folder says otherwise than the
    training has them. teacher_size: of the teacher's vectors; where it is another, they are compared with the student's
    behind a projection that is learned, and saved in a file of its own.
    """

    def __init__(
        self,
        encoder: FunnelformerModel,
        settings: SentenceEmbedding,
        kept: Mapping[str, Any],
        teacher_size: int,
    ) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, settings
        self._kept = dict(kept)
        width = encoder.config.hidden_size
        self.projection = None if teacher_size == width else nn.Linear(width, teacher_size, bias=False)

    @property
    def config(self) -> Any:
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def forward(self, wants_states: bool = False, **inputs: Any) -> dict[str, Any]:
        """vectors: [B, D]. projected: [B, E] of the teacher's size. states: where they are wanted."""
        output = self.encoder(**inputs, output_hidden_states=wants_states, return_dict=True)
        vectors = sequence_vector(output, self.config)
        projected = vectors if self.projection is None else self.projection(vectors)
        return {"vectors": vectors, "projected": projected, "states": output.hidden_states}

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        return self.encoder.num_parameters(only_trainable, exclude_embeddings)

    def embedder(self, tokenizer: Any, name: str) -> Embedder:
        """The encoder as it is now, to give texts their vectors. name: of the model, for messages."""
        return Embedder(
            self.encoder,
            tokenizer,
            tokenizer.model_max_length,
            self.settings.normalize,
            self.settings.prompt(None, name),
            self.settings,
            name,
        )

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
        if self.projection is not None:
            weight = self.projection.weight if state_dict is None else state_dict["projection.weight"]
            save_file({"weight": weight.detach().cpu().contiguous()}, Path(folder) / PROJECTION_FILE)


def make_student(config: DistillConfig, teacher: Teacher) -> tuple[Student, Any]:
    """The student before its first step, and its tokenizer. Raises UserError for what does not fit."""
    options = model_options(config.model_options)
    dropouts = dict.fromkeys(DROPOUTS, config.dropout)
    wishes = shortening(config)
    tokenizer = student_tokenizer(config, teacher.tokenizer)
    if is_layout(config.model):
        settings = replace(teacher.settings, pooling="mean_tokens")
        if config.embedding_size is not None:
            options["embedding_size"] = config.embedding_size
        values = {**model_ids(tokenizer), "classifier_pooling": settings.pooling, **options, **_NO_DECODER}
        encoder = FunnelformerModel(config_from_name(config.model, values))
    else:
        settings_given = {**wishes, **options, **_NO_DECODER, "dtype": torch.float32}
        mixer = settings_given.pop("mixer", None)
        encoder, _ = load_model(FunnelformerModel, config.model, **settings_given)
        if mixer is not None:
            encoder = _with_mixers(encoder, mixer, tokenizer)
        settings = encoder.config.vectors or replace(teacher.settings, pooling="mean_tokens")
    check_fits(tokenizer, encoder.config, config.model)
    if config.embedding_size is not None and not is_layout(config.model):
        check_size(encoder, config.embedding_size)
    kept = {name: getattr(encoder.config, name) for name in DROPOUTS}
    set_dropout(encoder, dropouts)
    length = config.max_length or teacher.max_length
    if encoder.config.position == "absolute" and config.max_length is None:
        length = min(length, encoder.config.max_position_embeddings)
    if encoder.config.position == "absolute" and length > encoder.config.max_position_embeddings:
        encoder = _with_positions(encoder, length)
    allow_length(encoder.config, tokenizer, length)
    settings = replace(settings, max_length=length)
    encoder.config.classifier_pooling = settings.pooling
    encoder.config.sentence_embedding = settings.to_dict()
    return Student(encoder, settings, kept, teacher.size), tokenizer


def shortening(config: DistillConfig) -> dict[str, Any]:
    """`layout` and `layers` as they were asked for. Raises UserError where no trained model is to be shortened."""
    wishes = {"layout": config.layout, "layers": config.layers}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    if wishes and is_layout(config.model):
        raise UserError("--layout and --layers shorten a model that is there; --model is a layout itself")
    return wishes


def student_tokenizer(config: DistillConfig, of_teacher: Any) -> Any:
    """The model's own tokenizer; of a student that begins from nothing the one asked for, else the teacher's."""
    if is_layout(config.model):
        return of_teacher if config.tokenizer is None else load_tokenizer(config.tokenizer)
    if config.tokenizer is not None:
        raise UserError("--tokenizer is for a student that begins from nothing; --model has its own")
    return load_tokenizer(config.model)


def _with_mixers(encoder: FunnelformerModel, mixer: Any, tokenizer: Any) -> FunnelformerModel:
    """The same weights with other mixers in some blocks; weights that only the new mixers have are drawn anew.

    Raises UserError for mixers that the config does not take.
    """
    before = encoder.config.block_mixers
    ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}  # PoNet's segments
    config = make_config({**encoder.config.to_dict(), "mixer": mixer, **ids}, "--set.mixer")
    changed = [block for block, name in enumerate(config.block_mixers) if name != before[block]]
    return _moved(encoder, config, tuple(f"encoder.blocks.{block}." for block in changed))


def _with_positions(encoder: FunnelformerModel, length: int) -> FunnelformerModel:
    """The same model for longer texts: the table of positions is repeated, as Beltagy et al. 2020 initialise theirs."""
    before = encoder.config.max_position_embeddings
    say(f"--max-length {length}: the model has {before} positions, which are repeated")
    config = make_config({**encoder.config.to_dict(), "max_position_embeddings": length}, "--max-length")
    table = encoder.embeddings.position_embeddings.weight
    found = _moved(encoder, config, ("embeddings.position_embeddings.",))
    with torch.no_grad():
        found.embeddings.position_embeddings.weight.copy_(table[torch.arange(length) % before])
    return found


def _moved(encoder: FunnelformerModel, config: Any, may_differ: tuple[str, ...]) -> FunnelformerModel:
    """A model of another config with the weights that both have, which are all but those with these prefixes."""
    found = FunnelformerModel(config)
    wanted = found.state_dict()
    state = {
        name: tensor
        for name, tensor in encoder.state_dict().items()
        if name in wanted and wanted[name].shape == tensor.shape
    }
    missing, _ = found.load_state_dict(state, strict=False)
    assert all(name.startswith(may_differ) for name in missing)
    return found


def set_dropout(encoder: Any, rates: Mapping[str, float]) -> None:
    """Of a model in training. rates: by the keys of its config."""
    for name, rate in rates.items():
        setattr(encoder.config, name, rate)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = encoder.config.hidden_dropout
