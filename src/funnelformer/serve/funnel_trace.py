"""Follow one text through a PyTorch encoder, and see how the encoder shortens it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..mixers import mixer_class
from ..mixers.sequence import start_state
from ..modeling.encoder import received_attention
from ..modeling.pooling import shorten
from .funnel import Funnel, Stage

__all__ = ["trace_funnel"]


def trace_funnel(body: Any, batch: dict[str, Tensor]) -> Funnel:
    """Follow one text without padding, [1, T], through the encoder of a `FunnelformerModel`.

    The model's own pooling, applied to one-hot rows in place of hidden states, shows which tokens are merged.
    """
    config = body.config
    with torch.inference_mode():
        weights = iter(body(**batch, output_attentions=True, use_decoder=False).attentions or ())
        length = batch["input_ids"].size(1)
        rows = torch.eye(length)[None]
        state = start_state(length, None, None, rows.device)
        received: Tensor | None = None
        stages = []
        for index, mixer in enumerate(config.block_mixers):
            key_state = state
            if index > 0:
                rows, state = shorten(rows, state, config, received)
            mixes = mixer_class(mixer)
            of_block = [
                next(weights).float().cpu() if mixes.gives_weights else None
                for _ in range(config.block_applications[index])
            ]
            looks = None
            if index > 0 and config.pool_q_only and mixes.reads_unpooled:
                assert of_block[0] is not None
                looks = [[round(value, 4) for value in row] for row in of_block[0][0].mean(0).tolist()]
            if config.pooling == "top" and index + 1 < config.num_blocks:
                reads_unpooled = looks is not None and len(of_block) == 1
                received = received_attention(of_block[-1], state, key_state if reads_unpooled else state)
            members = [row.nonzero().flatten().tolist() for row in rows[0]]
            stages.append(Stage(mixer, members, looks))
    return Funnel(length, stages)
