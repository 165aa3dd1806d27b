"""A teacher that sentence-transformers loads: any encoder of transformers, with the modules it was published with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UserError, one_line
from ...base.foreign_code import refuse_foreign_code, runs_foreign_code
from ...base.sentence_modules import SentenceEmbedding

__all__ = ["ForeignEncoder", "load_foreign_encoder"]

# Where neither the model nor its tokenizer says how long a text may be.
_NUM_TOKENS = 512


class ForeignEncoder(nn.Module):
    """A model of sentence-transformers behind the method by which a teacher is asked."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    def sequence_vectors(self, **inputs: Tensor) -> Tensor:
        """[B, D], by the model's own modules, the normalising one too."""
        if "attention_mask" not in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        vectors: Tensor = self.model(inputs)["sentence_embedding"]
        return vectors


def load_foreign_encoder(source: str, device: str) -> tuple[ForeignEncoder, Any, int, SentenceEmbedding, str]:
    """The model, its tokenizer, its longest input in tokens, what it does to a text, and a digest of its weights.

    Only the installed libraries run: a model that brings code of its own is refused.
    Raises UserError when it cannot be loaded.
    """
    refuse_foreign_code(source)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            f"--teacher {source}: needs sentence-transformers; pip install 'funnelformer[embeddings]'"
        ) from None
    try:
        model = SentenceTransformer(
            source, device="cpu" if device == "cpu" else None, trust_remote_code=False
        ).eval()
    except Exception as error:  # of the Hub, of transformers, of torch: they have no common base class
        if runs_foreign_code(error):
            raise UserError(
                f"--teacher {source}: is code to run; funnelformer runs no code of a model"
            ) from None
        raise UserError(f"--teacher {source}: cannot be loaded ({one_line(error)})") from None
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False) or tokenizer.pad_token_id is None:
        raise UserError(f"--teacher {source}: its tokenizer must be a fast one with a token for padding")
    names = [type(module).__name__ for module in model]
    for module in model:
        if getattr(module, "include_prompt", True) is not True:
            raise UserError(
                f"--teacher {source}: leaves its prompt out of the mean, which cannot be done here"
            )
    prompts = {name: text for name, text in (model.prompts or {}).items() if text}
    default = model.default_prompt_name if model.default_prompt_name in prompts else None
    settings = SentenceEmbedding(
        pooling="mean_tokens", normalize="Normalize" in names, prompts=prompts, default_prompt=default
    )
    return (
        ForeignEncoder(model),
        tokenizer,
        model.max_seq_length or _NUM_TOKENS,
        settings,
        _digest_of(model, names),
    )


def _digest_of(model: Any, names: list[str]) -> str:
    """Of the weights by name, and of the modules."""
    total = hashlib.sha256(" ".join(names).encode())
    state: Mapping[str, Tensor] = model.state_dict()
    for name in sorted(state):
        total.update(f"{name}\0".encode())
        total.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
