"""Parameters by part, and the memory a model needs: a dry run on the `meta` device.

Tensors there have no data, so that the largest layouts take seconds and no memory. What an estimate includes
is said at `activation_bytes`.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config.model_config import FunnelformerConfig
from ..modeling import (
    HEADS,
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerModel,
)
from .flops import Head

__all__ = [
    "DTYPES",
    "MemoryEstimate",
    "ParameterCounts",
    "activation_bytes",
    "count_parameters",
    "estimate_memory",
    "meta_model",
    "run_once",
]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_MODEL_CLASSES: dict[Head, Any] = {
    head.cost_head: head.model_class for head in HEADS.values() if head.cost_head is not None
}
# Adam's two moments, kept in float32 by torch.optim.AdamW for float32 weights.
_NUM_ADAM_MOMENTS = 2


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model by part; tied ones count once, repeated layers once."""

    embeddings: int
    blocks: tuple[int, ...]
    decoder: int
    head: int

    @property
    def encoder(self) -> int:
        """Embeddings and blocks: what a model for whole sequences keeps."""
        return self.embeddings + sum(self.blocks)

    @property
    def total(self) -> int:
        return self.encoder + self.decoder + self.head

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the weights in `dtype`."""
        return self.total * dtype.itemsize

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: counts by part and bytes by dtype."""
        return {
            **asdict(self),
            "blocks": list(self.blocks),
            "total": self.total,
            "bytes": {name: self.num_bytes(dtype) for name, dtype in DTYPES.items()},
        }


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes for `batch_size` sequences of `length` tokens with weights and activations in `dtype`.

    inference_activation_bytes, training_activation_bytes: peaks of `activation_bytes`.
    training_state_bytes: gradients in `dtype`, and Adam's two moments in float32.
    """

    length: int
    batch_size: int
    dtype: str
    parameter_bytes: int
    inference_activation_bytes: int
    training_activation_bytes: int
    training_state_bytes: int

    @property
    def inference_bytes(self) -> int:
        return self.parameter_bytes + self.inference_activation_bytes

    @property
    def training_bytes(self) -> int:
        """An upper sum: gradients are complete only when most activations are gone."""
        return self.parameter_bytes + self.training_state_bytes + self.training_activation_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, sums included."""
        return {
            **asdict(self),
            "inference_bytes": self.inference_bytes,
            "training_bytes": self.training_bytes,
        }


def meta_model(
    config: FunnelformerConfig,
    head: Head = "none",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> nn.Module:
    """Build the model of `config` without memory for its weights; `config` is not changed."""
    own = copy.deepcopy(config)
    # Which targets there are is data; the dry run has none and takes logits at every token.
    own.sparse_prediction = False
    with torch.device("meta"):
        model = _MODEL_CLASSES[head]._from_config(own, attn_implementation=attention)
    return model.to(dtype)


def count_parameters(config: FunnelformerConfig, head: Head = "none") -> ParameterCounts:
    """Count the parameters of `config`'s model by part.

    Raises ValueError for a masked-LM head without the decoder it needs.
    """
    return _count(meta_model(config, head))


def activation_bytes(model: nn.Module, length: int, batch_size: int = 1, *, training: bool = False) -> int:
    """Peak bytes of all tensors but parameters and their gradients, over one forward (and backward) pass.

    Found by running the `meta` model and following every tensor's storage from birth to death.
    Included: saved activations, dropout masks, distance tables, attention bias and scores, logits,
    temporaries between operations, gradients of activations, and each weight's gradient while it is made.
    Not included: scratch memory inside kernels, the allocator's rounding and fragmentation, autocast's copies
    of weights. `scaled_dot_product_attention` counts as plain products, which hold the scores; fused kernels,
    as PyTorch has for a CPU's inference and for accelerators, hold less.
    model: from `meta_model`. With activation checkpointing enabled on it, that counts.
    training: forward in train mode with a loss (a sum, but for masked LM), and backward.
    Raises ValueError when `length` or `batch_size` is below 1.
    """
    if length < 1 or batch_size < 1:
        raise ValueError(f"length is {length} and batch_size {batch_size}; allowed: >= 1")
    tokens = torch.zeros(batch_size, length, dtype=torch.long, device="meta")
    was_training = model.training
    model.train(training)
    watch = _StorageWatch(model)
    try:
        with _gradients_dropped(model), torch.set_grad_enabled(training), watch:
            run_once(model, tokens)
    finally:
        model.train(was_training)
    return watch.peak_bytes


def run_once(model: nn.Module, tokens: Int[Tensor, "B T"]) -> None:
    """What `activation_bytes` measures: one forward pass, in train mode with labels and backward."""
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "token_type_ids": torch.zeros_like(tokens),
    }
    if not model.training:
        model(**inputs)
    elif isinstance(model, FunnelformerForMaskedLM):
        model(**inputs, labels=tokens).loss.backward()
    else:
        output = model(**inputs)
        (
            output.logits if isinstance(model, FunnelformerForSequenceClassification) else output[0]
        ).sum().backward()


def estimate_memory(model: nn.Module, length: int, batch_size: int = 1) -> MemoryEstimate:
    """Estimate the memory of inference and of training with AdamW; see `activation_bytes` for what is in it.

    model: from `meta_model`; weights and activations have its dtype.
    Raises ValueError when `length` or `batch_size` is below 1.
    """
    counts = _count(model)
    dtype = next(model.parameters()).dtype
    weights = counts.num_bytes(dtype)
    return MemoryEstimate(
        length=length,
        batch_size=batch_size,
        dtype=str(dtype).removeprefix("torch."),
        parameter_bytes=weights,
        inference_activation_bytes=activation_bytes(model, length, batch_size),
        training_activation_bytes=activation_bytes(model, length, batch_size, training=True),
        training_state_bytes=weights + _NUM_ADAM_MOMENTS * counts.num_bytes(torch.float32),
    )


class _StorageWatch(TorchDispatchMode):
    """Adds up the storages alive that operations made under it, and remembers the most."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Views of the weights share their storage, which is not an activation.
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in _weights(model))
        self._live_bytes = 0
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        num_bytes = storage.nbytes()
        self._live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._free, num_bytes)

    def _free(self, num_bytes: int) -> None:
        self._live_bytes -= num_bytes


@contextlib.contextmanager
def _gradients_dropped(model: nn.Module) -> Iterator[None]:
    """Let go of every weight's gradient as soon as it is complete: they are counted with the weights."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(drop) for parameter in model.parameters()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weights(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _count(model: nn.Module) -> ParameterCounts:
    body = model if isinstance(model, FunnelformerModel) else model.get_submodule("funnelformer")
    assert isinstance(body, FunnelformerModel)
    # `parameters()` of the whole gives a tied parameter once; the parts share none with each other.
    total, inside = _size(model), _size(body)
    return ParameterCounts(
        embeddings=_size(body.embeddings),
        blocks=tuple(_size(block) for block in body.encoder.blocks),
        decoder=0 if body.decoder is None else _size(body.decoder),
        head=total - inside,
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
