"""The machinery of the format files: a table of names as data, read in both directions.

A row says what a tensor is called and how it is shaped on either side. Shapes are written in the letters of
`sizes`: V vocabulary, De embedding width, D hidden size, H heads, E head size, HE their product, F
feed-forward width, L labels, P positions, R positions that are counted from the padding's id, S segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..base.errors import UserError, did_you_mean
from ..config.model_config import FunnelformerConfig
from .weights import check_numbers

__all__ = ["LAYER", "Row", "encoder_layers", "expand", "from_ours", "layer_row", "names", "sizes", "to_ours"]

# The tensors of one of our layers; a format adds what it calls and how it shapes each.
LAYER = {
    "mixer.query.weight": "HE D",
    "mixer.key.weight": "HE D",
    "mixer.key.bias": "HE",
    "mixer.value.weight": "HE D",
    "mixer.value.bias": "HE",
    "mixer.output.weight": "D HE",
    "mixer.output.bias": "D",
    "mixer.relative.weight": "HE D",
    "mixer.content_bias": "H E",
    "mixer.position_bias": "H E",
    "mixer.segment_bias": "H E",
    "mixer.segment_embedding": "2 H E",
    "mixer_norm.weight": "D",
    "mixer_norm.bias": "D",
    "feed_forward.expand.weight": "F D",
    "feed_forward.expand.bias": "F",
    "feed_forward.contract.weight": "D F",
    "feed_forward.contract.bias": "D",
    "feed_forward_norm.weight": "D",
    "feed_forward_norm.bias": "D",
}


@dataclass(frozen=True)
class Row:
    """One tensor: our name and shape, theirs, and how the numbers differ.

    input_first: theirs is a kernel [in, out...]. skips_first: theirs has rows before ours that nothing reads, zeros
    when written. negated: theirs is minus ours.
    """

    ours: str
    our_shape: str
    theirs: str
    their_shape: str = ""
    input_first: bool = False
    skips_first: bool = False
    negated: bool = False
    size: dict[str, int] = field(default_factory=dict, compare=False)

    def shape(self, side: str) -> tuple[int, ...]:
        """The shape on side "ours" or "theirs"; theirs is ours where the row does not say."""
        spec = self.our_shape if side == "ours" or not self.their_shape else self.their_shape
        return tuple(self.size[dim] for dim in spec.split())

    def import_tensor(self, tensor: Tensor) -> Tensor:
        """Theirs as ours: a view, so that a checkpoint mapped from its file stays there; a copy where negated.

        So is the inverse, which also copies what it puts rows before.
        """
        ours = self.shape("ours")
        if self.skips_first:
            tensor = tensor[len(tensor) - ours[0] :]
        if self.negated:
            tensor = -tensor
        return tensor.reshape(ours[1], ours[0]).T if self.input_first else tensor.reshape(ours)

    def export_tensor(self, tensor: Tensor) -> Tensor:
        theirs = self.shape("theirs")
        if self.skips_first:
            tensor = torch.cat([tensor.new_zeros(theirs[0] - len(tensor), *theirs[1:]), tensor])
        if self.negated:
            tensor = -tensor
        return (tensor.T if self.input_first else tensor).reshape(theirs)


def sizes(config: FunnelformerConfig) -> dict[str, int]:
    """The letters of the tables for one config."""
    return {
        "V": config.vocab_size,
        "De": config.embedding_size or config.hidden_size,
        "D": config.hidden_size,
        "H": config.num_attention_heads,
        "E": config.head_size,
        "HE": config.num_attention_heads * config.head_size,
        "F": config.intermediate_size,
        "P": config.max_position_embeddings,
        "R": config.max_position_embeddings + (config.pad_token_id or 0) + 1,
        "S": config.type_vocab_size or 0,
        "L": config.num_labels or 0,
        "1": 1,
        "2": 2,
    }


def encoder_layers(config: FunnelformerConfig) -> Iterator[tuple[int, int, int]]:
    """Yield (layer counted through the encoder, block, layer within it) for each parameter layer."""
    pairs = [(block, layer) for block, count in enumerate(config.blocks) for layer in range(count)]
    return ((index, block, layer) for index, (block, layer) in enumerate(pairs))


def layer_row(ours: str, theirs: str, their_shape: str = "", input_first: bool = False) -> Row:
    """A row for one tensor of `LAYER`."""
    return Row(ours, LAYER[ours], theirs, their_shape, input_first)


def expand(
    rows: Iterable[Row], config: FunnelformerConfig, ours: str = "", theirs: str = "", **numbers: int
) -> list[Row]:
    """Prefix both names, put `numbers` into theirs, and the config's sizes into the shapes."""
    size = sizes(config)
    return [
        replace(row, ours=ours + row.ours, theirs=theirs + row.theirs.format(**numbers), size=size)
        for row in rows
    ]


def to_ours(
    state: Mapping[str, Tensor], table: list[Row], ignorable: Mapping[str, str], source: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename and reshape a foreign state dict by `table`.

    ignorable: pattern of a whole foreign name -> why such a tensor is left out.
    Returns our state dict, and foreign name -> reason for every tensor left out.
    Raises UserError naming the tensor: missing, misshapen (with both shapes), or known to neither argument.
    """
    for row in table:
        _check(state, row.theirs, row.shape("theirs"), source)
    ignored = _account(state, [row.theirs for row in table], ignorable, source)
    return {row.ours: row.import_tensor(state[row.theirs]) for row in table}, ignored


def from_ours(
    state: Mapping[str, Tensor], table: list[Row], ignorable: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The inverse of `to_ours`, in the table's order; the patterns and what is left out are our names."""
    for row in table:
        _check(state, row.ours, row.shape("ours"), "the model")
    ignored = _account(state, [row.ours for row in table], ignorable, "the model")
    return {row.theirs: row.export_tensor(state[row.ours]) for row in table}, ignored


def names(table: list[Row]) -> dict[str, str]:
    """Our name -> theirs."""
    return {row.ours: row.theirs for row in table}


def _account(
    state: Mapping[str, Tensor], used: list[str], ignorable: Mapping[str, str], source: str
) -> dict[str, str]:
    """Give each unused name the reason of the first pattern that matches it; UserError when none does."""
    reasons = {}
    for name in sorted(state.keys() - set(used)):
        reason = next((why for pattern, why in ignorable.items() if re.fullmatch(pattern, name)), None)
        if reason is None:
            raise UserError(
                f"{source}: tensor {name!r} belongs to no part of this model{did_you_mean(name, used)}"
            )
        reasons[name] = reason
    return reasons


def _check(state: Mapping[str, Tensor], name: str, expected: tuple[int, ...], source: str) -> None:
    if name not in state:
        raise UserError(f"{source}: tensor {name!r} of shape {list(expected)} is missing")
    tensor = state[name]
    if tuple(tensor.shape) != expected:
        raise UserError(
            f"{source}: tensor {name!r} has shape {list(tensor.shape)}, expected {list(expected)}"
        )
    check_numbers({name: tensor}, source)
