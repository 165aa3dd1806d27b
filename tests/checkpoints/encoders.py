"""Tiny models of transformers' encoders, of every type and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from funnelformer.checkpoints.forms import ENCODERS
from models import spread

PADDING_ID = {"roberta": 1, "xlm-roberta": 1, "camembert": 1, "fnet": 3}
# FNet takes no attention mask: what stands at padding takes part.
UNMASKED = ("fnet",)
WITHOUT_SEGMENTS = ("distilbert",)
CASES = [
    (name, architecture)
    for name, form in ENCODERS.items()
    for architecture in dict.fromkeys(form.architectures.values())
]


def stock_config(name: str, **changes: Any) -> Any:
    """num_positions 40 in every type, three labels, and segments where the type has them."""
    if name == "distilbert":
        sizes = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40}
    else:
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 40}
        if name != "fnet":
            sizes |= {"num_attention_heads": 3}
        sizes |= {"type_vocab_size": 1 if name in ("roberta", "xlm-roberta", "camembert") else 2}
    if name == "electra":
        sizes |= {"embedding_size": 12}
    shift = 2 if ENCODERS[name].positions_after_padding else 0
    values = {"vocab_size": 50, "max_position_embeddings": 40 + shift, "num_labels": 3, **sizes, **changes}
    return ENCODERS[name].config_class(**values)


def stock_model(name: str, architecture: str, **changes: Any) -> nn.Module:
    """A stock model whose weights are far from their initial values, and whose logits are of size 1 to 10."""
    if architecture == "question_answering":
        changes = {"num_labels": 2, **changes}
    config = stock_config(name, **changes)
    model = getattr(transformers, ENCODERS[name].class_name(architecture))(config)
    spread(model)
    model.get_input_embeddings().weight.data *= 0.3
    model.tie_weights()
    return model.eval()


def save_stock(folder: Path, name: str, architecture: str = "model", **changes: Any) -> nn.Module:
    model = stock_model(name, architecture, **changes)
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


def batch(name: str, length: int) -> dict[str, torch.Tensor]:
    """Three right-padded sequences, the second half of each in another segment where the type has one."""
    padding = PADDING_ID.get(name, 0)
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(4, 50, (3, length), generator=generator)
    lengths = torch.tensor([length, max(1, length - 3), 1])[:, None]
    places = torch.arange(length)[None]
    mask = (places < lengths).long()
    segments = (places >= lengths // 2).long() * mask
    if ENCODERS[name].positions_after_padding:
        segments = segments * 0
    inputs = {"input_ids": torch.where(mask == 1, ids, padding), "attention_mask": mask}
    return inputs if name in WITHOUT_SEGMENTS else {**inputs, "token_type_ids": segments}


def left_padded(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: to_left(tensor, inputs["attention_mask"]) for name, tensor in inputs.items()}


def to_left(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Right-padded rows [B, T, ...] as left-padded ones."""
    rows = zip(states, mask.sum(1).tolist(), strict=True)
    return torch.stack([row.roll(mask.size(1) - length, 0) for row, length in rows])
