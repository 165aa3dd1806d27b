"""Run a converted model, and its source, on the same small batch and measure how far apart their outputs are."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..base.errors import UserError, joined
from ..config.model_config import FunnelformerConfig
from ..modeling import HEADS
from .forms import ENCODERS
from .loaded import Loaded, Part
from .transformers_funnel import architecture_name
from .weights import find_weights, read_state_dict

__all__ = [
    "build_model",
    "build_stock",
    "difference",
    "encoder_only",
    "has_stock",
    "probe_batch",
    "probe_output",
    "reference_model",
    "run_batch",
    "without_padding",
]

_SEED = 0
_NUM_PADDING = 5
_STOCK_PREFIX = "funnel."


def build_model(config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str) -> nn.Module:
    """Build one of our models in evaluation mode and float32; float32 tensors become its parameters, not copied.

    Raises UserError naming a tensor that the model lacks, has besides, or has in another shape.
    """
    cls = HEADS[architecture].model_class
    try:
        with torch.device("meta"):
            model = cls(copy.deepcopy(config))
    except ValueError as error:
        raise UserError(f"the weights do not fit the config: {joined(error)}") from error
    unexpected = _fill(model, state)
    ignorable = cls._keys_to_ignore_on_load_unexpected or []
    unexpected = [name for name in unexpected if not any(re.search(pattern, name) for pattern in ignorable)]
    if unexpected:
        raise UserError(f"the weights do not fit the config: unexpected tensor {min(unexpected)}")
    return model


def _fill(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Make `state` the parameters of a model without any; returns the names it has no place for."""
    try:
        _, unexpected = model.load_state_dict(
            {name: tensor.float() for name, tensor in state.items()}, strict=False, assign=True
        )
    except RuntimeError as error:
        raise UserError(f"the weights do not fit the config: {joined(error)}") from error
    model.tie_weights()  # type: ignore[operator]
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise UserError(f"the weights do not fit the config: missing tensor {min(missing)}")
    model.eval()
    return list(unexpected)


def has_stock(loaded: Part) -> bool:
    """Whether stock transformers reads the folder of a model by itself."""
    return isinstance(loaded, Loaded) and (
        loaded.source == "transformers-funnel" or loaded.source in ENCODERS
    )


def build_stock(loaded: Loaded) -> nn.Module:
    """Build the model of stock transformers from its own folder, with the tensors as they lie there."""
    if loaded.source in ENCODERS:
        cls = getattr(transformers, ENCODERS[loaded.source].class_name(loaded.architecture))
        stock: nn.Module = cls.from_pretrained(
            loaded.folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        return stock.eval()
    name = architecture_name(loaded.config, loaded.architecture)
    config = transformers.FunnelConfig.from_pretrained(loaded.folder, trust_remote_code=False)
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    state = read_state_dict(find_weights(loaded.folder), mapped=True)
    if loaded.architecture == "model":
        state = {name.removeprefix(_STOCK_PREFIX): tensor for name, tensor in state.items()}
    _fill(model, state)
    return model


def reference_model(loaded: Part) -> nn.Module:
    """The model that a folder's own library makes of it: stock transformers for its formats, else ours."""
    if has_stock(loaded):
        assert isinstance(loaded, Loaded)
        return build_stock(loaded)
    return build_model(loaded.config, loaded.state_dict, loaded.architecture)


def encoder_only(loaded: Loaded) -> Loaded:
    """The same model without decoder and head."""
    state = {name.removeprefix("funnelformer."): tensor for name, tensor in loaded.state_dict.items()}
    state = {name: tensor for name, tensor in state.items() if name.startswith(("embeddings.", "encoder."))}
    values = {**loaded.config.to_dict(), "decoder_layers": 0, "decoder_skip_state": None}
    config = FunnelformerConfig.from_dict(values)
    return replace(loaded, config=config, state_dict=state, architecture="model", source="funnelformer")


@torch.no_grad()
def probe_output(model: nn.Module, config: FunnelformerConfig) -> Tensor:
    """Logits, or last hidden states, of a padded batch with two segments."""
    return run_batch(model, probe_batch(config), config)[0]


@torch.no_grad()
def run_batch(
    model: nn.Module, batch: Mapping[str, Tensor], config: FunnelformerConfig, **options: Any
) -> tuple[Tensor, Any]:
    """The logits of a model, ours or stock transformers' (else its last hidden states), and its whole output.

    An input that a stock model does not take is left out. Outputs at padding are zeros where nothing depends on them.
    """
    taken = inspect.signature(model.forward).parameters
    inputs = {name: tensor for name, tensor in batch.items() if name in taken}
    if type(model).__name__.endswith("ForMultipleChoice"):
        inputs = {name: tensor[:, None] for name, tensor in inputs.items()}
    output: Any = model(**inputs, **options)
    if "start_logits" in output:
        starts, ends = output.start_logits, output.end_logits
        if starts.shape != ends.shape:  # of each start of a beam
            return torch.cat([starts[:, None], ends], dim=1).float(), output
        starts, ends = (without_padding(logits.float(), batch, config) for logits in (starts, ends))
        return torch.stack([starts, ends]), output
    found = (output.logits if "logits" in output else output.last_hidden_state).float()
    if isinstance(model, transformers.ElectraForPreTraining):
        found = -found  # of a replaced token, ours of an original one
    if type(model).__name__.endswith(("ForMultipleChoice", "ForSequenceClassification")):
        return found, output
    return without_padding(found, batch, config), output


def without_padding(states: Tensor, batch: Mapping[str, Tensor], config: FunnelformerConfig) -> Tensor:
    """States [B, T, ...] with zeros at padding, where the config says that real tokens alone count."""
    keep = batch["attention_mask"]
    if config.padding != "exact" or states.shape[:2] != keep.shape:
        return states
    return states * keep.reshape(*keep.shape, *[1] * (states.dim() - 2))


def difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference. Raises UserError when the shapes differ."""
    if first.shape != second.shape:
        raise UserError(f"the two models' outputs have shapes {list(first.shape)}, {list(second.shape)}")
    return float((first - second).abs().max())


def probe_batch(config: FunnelformerConfig, length: int | None = None) -> dict[str, Tensor]:
    """A batch of two random sequences, the second one padded; by default as long as it takes to pool every block."""
    if length is None:
        # a multiple of the decoder's stride
        length = min(max(16, 2 ** (config.num_blocks + 1)), config.max_position_embeddings)
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(config.vocab_size, (2, length), generator=generator)
    keep = torch.ones_like(ids)
    keep[1, max(1, length - _NUM_PADDING) :] = 0
    segments = torch.zeros_like(ids)
    segments[:, length // 2 :] = 1
    segments[:, 0] = config.cls_token_type_id
    if config.position == "absolute":
        segments = segments.clamp(max=(config.type_vocab_size or 1) - 1)
    # To RoBERTa a token of this id is padding. Without one it is 0, as the forms write that must have one.
    padding = config.pad_token_id or 0
    ids = torch.where(ids == padding, (ids + 1) % config.vocab_size, ids)
    ids = torch.where(keep == 0, padding, ids)
    return {"input_ids": ids, "attention_mask": keep, "token_type_ids": segments * keep}
