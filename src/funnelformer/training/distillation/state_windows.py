"""Which of the teacher's states a student learns, and how they are averaged over the student's windows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UserError
from ...config.model_config import FunnelformerConfig
from ...mixers.sequence import start_state
from ...modeling.pooling import shorten
from .teacher import Teacher

__all__ = ["StateTarget", "pooled_states", "state_targets"]


@dataclass(frozen=True)
class StateTarget:
    """One state of the student, and the teacher's it learns: both as numbers among the hidden states, 0 being the
    embedding. level: how often the sequence was halved there."""

    student: int
    teacher: int
    level: int


def state_targets(config: FunnelformerConfig, teacher: Teacher) -> list[StateTarget]:
    """The student's state after each block, with the teacher's after the layer that the block ends with.

    A student of one block learns the state after each layer.
    Raises UserError for a student that was not made of such a teacher.
    """
    if teacher.encoder is None or teacher.reads_windows:
        raise UserError(
            f"--learn states: the states of {teacher.source} cannot be had, "
            + (
                "because it is run by another library"
                if teacher.encoder is None
                else "because it reads windows"
            )
            + "; learn vectors alone"
        )
    made, theirs = config.made_from, teacher.encoder.config
    if made is None:
        raise UserError(
            "--learn states is for students made of the teacher, by --layout or --layers or by funnelformer convert, "
            "and this one is not"
        )
    layers = made["layers"]
    if theirs.num_blocks > 1 or len(layers) != sum(config.blocks) or max(layers) >= sum(theirs.blocks):
        raise UserError(
            f"--learn states: the student was made of {made['source']} ({made['source_layout']}), and the teacher "
            f"{teacher.source} ({theirs.name}) does not have those layers, each of its own and at full length"
        )
    if theirs.hidden_size != config.hidden_size:
        raise UserError(
            f"--learn states: the student is {config.hidden_size} wide, and the teacher {theirs.hidden_size}"
        )
    if config.padding != "exact" or config.pooling == "top":
        raise UserError(
            f"--learn states needs a student with padding exact and pooling mean or max; this one has "
            f"{config.padding} and {config.pooling}"
        )
    repeats = [
        number
        for block, number in zip(config.blocks, config.block_repeats, strict=True)
        for _ in range(block)
    ]
    applied = list(accumulate(repeats))
    ends = list(accumulate(config.blocks))
    if config.num_blocks == 1:
        return [StateTarget(applied[place], layers[place] + 1, 0) for place in range(ends[0])]
    return [StateTarget(applied[end - 1], layers[end - 1] + 1, level) for level, end in enumerate(ends)]


def pooled_states(
    states: tuple[Tensor, ...], keep: Tensor | None, targets: list[StateTarget], config: FunnelformerConfig
) -> list[tuple[Tensor, Tensor]]:
    """For each target the teacher's states [B, S, D] in the student's windows, and the real ones of them [B, S].

    states: those of the teacher, [B, T, D]. keep: [B, T], True for real tokens; None when all are.
    config: of the student, whose windows are its own; they are averaged, whatever it pools by.
    """
    averaging: Any = copy.deepcopy(config)
    averaging.pooling = "mean"
    found = []
    for target in targets:
        hidden = states[target.teacher].float()
        state = start_state(hidden.size(1), keep, None, hidden.device)
        for _ in range(target.level):
            hidden, state = shorten(hidden, state, averaging)
        kept = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        found.append((hidden, kept if state.keep is None else state.keep))
    return found
