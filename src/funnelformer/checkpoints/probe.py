"""Run two models on the same small batch and measure how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..config import FunnelformerConfig
from ..errors import UserError
from .folders import Loaded
from .native import ARCHITECTURES
from .transformers_funnel import architecture_name

__all__ = ["build_model", "encoder_only", "max_difference", "reference_model"]

_SEED = 0
_NUM_PADDING = 5


def build_model(config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str) -> nn.Module:
    """Build one of our models in evaluation mode and float32.

    Raises UserError naming a tensor that the model lacks, has besides, or has in another shape.
    """
    from .. import modeling

    cls = getattr(modeling, ARCHITECTURES[architecture])
    try:
        model, info = cls.from_pretrained(
            None, config=config, state_dict=dict(state), dtype=torch.float32, output_loading_info=True
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the weights do not fit the config: {' '.join(str(error).split())}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            name = sorted(map(str, info[problem]))[0]
            raise UserError(f"the weights do not fit the config: {problem.split('_')[0]} tensor {name}")
    return model.eval()


def reference_model(loaded: Loaded, folder: Path | None = None) -> nn.Module:
    """The model that a folder's own library makes of it: stock transformers for its format, else ours."""
    if loaded.source != "transformers-funnel":
        return build_model(loaded.config, loaded.state_dict, loaded.architecture)
    cls = getattr(transformers, architecture_name(loaded.config, loaded.architecture))
    return cls.from_pretrained(folder or loaded.folder, dtype=torch.float32).eval()


def encoder_only(loaded: Loaded) -> Loaded:
    """The same model without decoder and head."""
    state = {name.removeprefix("funnelformer."): tensor for name, tensor in loaded.state_dict.items()}
    state = {name: tensor for name, tensor in state.items() if name.startswith(("embeddings.", "encoder."))}
    values = {**loaded.config.to_dict(), "decoder_layers": 0, "decoder_skip_state": None}
    config = FunnelformerConfig.from_dict(values)
    return replace(loaded, config=config, state_dict=state, architecture="model", source="funnelformer")


@torch.no_grad()
def max_difference(first: nn.Module, second: nn.Module, config: FunnelformerConfig) -> float:
    """Largest absolute difference of logits, or last hidden states, over a padded batch with two segments."""
    batch = _batch(config)
    outputs = [_output(model(**batch)).float() for model in (first, second)]
    if outputs[0].shape != outputs[1].shape:
        raise UserError(
            f"the two models' outputs have shapes {list(outputs[0].shape)}, {list(outputs[1].shape)}"
        )
    return float((outputs[0] - outputs[1]).abs().max())


def _output(output: Any) -> Tensor:
    return output.logits if "logits" in output else output.last_hidden_state


def _batch(config: FunnelformerConfig) -> dict[str, Tensor]:
    # a multiple of the decoder's stride, and long enough that every block pools
    length = min(max(16, 2 ** (config.num_blocks + 1)), config.max_position_embeddings)
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(config.vocab_size, (2, length), generator=generator)
    keep = torch.ones_like(ids)
    keep[1, length - _NUM_PADDING :] = 0
    segments = torch.zeros_like(ids)
    segments[:, length // 2 :] = 1
    segments[:, 0] = config.cls_token_type_id
    return {"input_ids": ids, "attention_mask": keep, "token_type_ids": segments * keep}
