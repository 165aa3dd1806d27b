"""Compare a graph with the model it was traced from, over many batches, lengths and paddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..base.errors import UserError, joined
from .signatures import Target, Traced

__all__ = ["TOLERANCE", "Difference", "check_graph", "compare", "grid", "make_inputs", "summary", "table"]

# Of the outputs of a float32 graph: relative to the largest of them, absolute where that is below 1.
TOLERANCE = 1e-4
_LEAST_CASES = 30
_NUM_CHOICES = 3
# Powers of two and their neighbours, odd ones, and all that are too short for every block to pool.
_LENGTHS = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 23, 31, 32, 33, 47, 63, 64, 65, 95, 100, 127, 128, 129),
    *(191, 255, 256, 257, 300, 384, 511, 512, 513, 767, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096),
)
_BATCHES = (1, 2, 3, 5)
_MOST_TOKENS = 1024  # of a batch of several sequences
# Logits of what cannot be, see `modeling.spans.hide`.
_HIDDEN = torch.finfo(torch.float32).min / 2

Padding = Literal["none", "right", "left"]


@dataclass(frozen=True)
class Difference:
    """How far apart the outputs of one batch are: the largest absolute difference at a real token, and that over the
    largest output (at least 1)."""

    batch_size: int
    length: int
    padding: Padding
    absolute: float
    relative: float

    @property
    def name(self) -> str:
        return f"{self.batch_size} x {self.length:,}, padding: {self.padding}"


def grid(config: Any, longest: int) -> list[tuple[int, int, Padding]]:
    """At least 30 cases of batch size, length and padding, up to `longest` tokens and the model's own limit.

    Left padding where the model computes it as right padding (`padding="exact"`).
    """
    if config.position == "absolute":
        longest = min(longest, config.max_position_embeddings)
    lengths = [length for length in _LENGTHS if length < longest] + [longest]
    paddings: tuple[Padding, ...] = (
        ("none", "right", "left") if config.padding == "exact" else ("none", "right")
    )
    cases: list[tuple[int, int, Padding]] = []
    while len(cases) < _LEAST_CASES:
        for length in lengths:
            index = len(cases)
            batch_size = _BATCHES[index % len(_BATCHES)]
            if batch_size * length > _MOST_TOKENS:
                batch_size = 1
            cases.append((batch_size, length, paddings[index % len(paddings)]))
    return cases


def make_inputs(
    config: Any, target: Target, names: Sequence[str], batch_size: int, length: int, padding: Padding
) -> dict[str, Tensor]:
    """Random tokens with the special ones where texts have them, of random lengths where there is padding."""
    generator = torch.Generator().manual_seed(length * 31 + batch_size)
    rows = batch_size * _NUM_CHOICES if target.has_choices else batch_size
    ids = torch.randint(config.vocab_size, (rows, length), generator=generator)
    ends = torch.full((rows,), length)
    if padding != "none":
        ends = torch.randint(1, length + 1, (rows,), generator=generator)
    place = torch.arange(length)[None]
    if config.sep_token_id is not None:
        is_sep = (place == ends[:, None] // 2) | (place == ends[:, None] - 1)
        ids = ids.masked_fill(is_sep, config.sep_token_id)
    if config.cls_token_id is not None:
        ids[:, 0] = config.cls_token_id
    last_type = 1 if config.position == "relative" else min(1, config.type_vocab_size - 1)
    types = (place >= ends[:, None] // 2).long() * last_type
    if config.position == "relative":
        types[:, 0] = config.cls_token_type_id
    mask = (place < ends[:, None]).long()
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types * mask}
    values["answer_mask"] = mask * ((place == 0) | (place >= ends[:, None] // 2))
    if padding == "left":
        order = (place + ends[:, None]) % length
        values = {name: tensor.gather(1, order) for name, tensor in values.items()}
    if target.has_choices:
        values = {name: tensor.unflatten(0, (batch_size, _NUM_CHOICES)) for name, tensor in values.items()}
    return {name: values[name] for name in names}


def check_graph(
    model: torch.nn.Module, session: Any, target: Target, longest: int, tolerance: float | None = TOLERANCE
) -> list[Difference]:
    """Run model and graph on the whole `grid`.

    tolerance: the largest relative difference to accept; None accepts any finite one.
    Raises UserError naming the worst case if a difference is above the tolerance, if an output of the graph has another
    size than PyTorch's, or if the runtime fails.
    """
    config: Any = model.config
    traced = Traced(model, target).eval()
    found = []
    for batch_size, length, padding in grid(config, longest):
        names = session.input_names
        inputs = make_inputs(config, target, names, batch_size, length, padding)
        found.append(compare(traced, session, inputs, padding))
    worst = max(found, key=lambda difference: difference.relative)
    if not worst.relative <= (float("inf") if tolerance is None else tolerance):
        raise UserError(
            f"the exported graph differs from the model by {worst.absolute:.1e} ({worst.relative:.1e} of its largest "
            f"output, allowed: {tolerance:.0e}) at {worst.name}"
        )
    return found


def compare(traced: Traced, session: Any, inputs: dict[str, Tensor], padding: Padding) -> Difference:
    """The outputs of both for one batch, at its real tokens. Raises UserError as `check_graph`."""
    batch_size, length = inputs["input_ids"].size(0), inputs["input_ids"].size(-1)
    case = f"{batch_size} x {length:,}, padding: {padding}"
    with torch.inference_mode():
        expected = dict(zip(traced.outputs, traced(**inputs), strict=True))
    try:
        values = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception as error:  # its exceptions have no base class of their own
        raise UserError(f"the exported graph fails in ONNX Runtime at {case}: {joined(error)}") from error
    found = {name: torch.from_numpy(values[name]) for name in traced.outputs}
    if "start_index" in found and found["start_index"].shape == expected["start_index"].shape:
        _follow_starts(expected, found)
    absolute = relative = 0.0
    for name, ours in expected.items():
        theirs = found[name]
        if theirs.shape != ours.shape:
            raise UserError(
                f"the exported graph gives {name} the shape {list(theirs.shape)}, not {list(ours.shape)}, at {case}"
            )
        keep = _real(ours, inputs.get("attention_mask"), expected.get("encoder_attention_mask"))
        if keep is not None:
            ours, theirs = ours[keep], theirs[keep]
        is_hidden = (ours < _HIDDEN) & (theirs < _HIDDEN)
        ours, theirs = (values.masked_fill(is_hidden, 0).double() for values in (ours, theirs))
        difference = float((ours - theirs).abs().max())
        if not difference < float("inf"):
            raise UserError(f"the exported graph gives {name} NaN or infinity at {case}")
        absolute = max(absolute, difference)
        relative = max(relative, difference / max(1.0, float(ours.abs().max())))
    return Difference(batch_size, length, padding, absolute, relative)


def _follow_starts(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """In place of the best starts their logits: of two alike either may be the better one, whose ends are others."""
    is_same = expected["start_index"] == found["start_index"]
    for outputs in (expected, found):
        outputs["start_index"] = expected["start_logits"].gather(1, outputs["start_index"])
        outputs["end_logits"] = outputs["end_logits"].masked_fill(~is_same[..., None], 0)


def _real(output: Tensor, mask: Tensor | None, encoder_mask: Tensor | None) -> Tensor | None:
    """Which entries of an output belong to real tokens; None where they belong to whole sequences."""
    for keep in (mask, encoder_mask):
        if keep is not None and output.shape[: keep.ndim] == keep.shape and output.is_floating_point():
            return keep.bool()
    return None


def table(differences: Sequence[Difference]) -> str:
    """The differences in columns, the largest one named below them."""
    rows = [
        f"{d.batch_size:>5} {d.length:>6,} {d.padding:>7} {d.absolute:>10.1e} {d.relative:>10.1e}"
        for d in differences
    ]
    header = f"{'batch':>5} {'length':>6} {'padding':>7} {'largest':>10} {'relative':>10}"
    return "\n".join([header, *rows, summary(differences)])


def summary(differences: Sequence[Difference]) -> str:
    """How many shapes were compared, the smallest and the largest of them, and the largest difference."""
    worst = max(differences, key=lambda difference: difference.relative)
    batches, lengths = ({getattr(d, name) for d in differences} for name in ("batch_size", "length"))
    return (
        f"compared with PyTorch: {len(differences)} shapes, {min(batches)} to {max(batches)} sequences of "
        f"{min(lengths):,} to {max(lengths):,} tokens\n"
        f"largest difference: {worst.absolute:.1e} ({worst.relative:.1e} relative) at {worst.name}"
    )
