"""Where PoNet's segments begin: at separators, sentence ends, or every so many tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...config import FunnelformerConfig
from ...sequence import SequenceState

__all__ = ["add_segments"]


def _special_tokens(
    input_ids: Int[Tensor, "B T"] | None, config: FunnelformerConfig
) -> Bool[Tensor, "B T"] | None:
    """The CLS and SEP tokens, by the config's ids; None when it has none, or there are no ids to look at."""
    ids = [token for token in (config.cls_token_id, config.sep_token_id) if token is not None]
    if input_ids is None or not ids:
        return None
    special = input_ids == ids[0]
    for token in ids[1:]:
        special = special | (input_ids == token)
    return special


def add_segments(
    state: SequenceState,
    input_ids: Int[Tensor, "B T"] | None,
    segment_ids: Int[Tensor, "B T"] | None,
    config: FunnelformerConfig,
) -> SequenceState:
    """Put each token's segment and the special tokens into an unpooled state.

    segment_ids: numbers below T, in place of those of `config.ponet_segments`:
    "separators": CLS and SEP are segments of their own, and so is the text between two of them.
    "sentences": besides, a segment ends with each of `sentence_end_token_ids`.
    "chunks": n // ponet_num_segments + 1 tokens each, n being the sequence's real length under
    `padding="exact"`, else the input's (as in PoNet's Long Range Arena runs).
    Raises ValueError when what is needed is missing.
    """
    special = _special_tokens(input_ids, config)
    num_regions = state.span
    if segment_ids is not None:
        regions = segment_ids
    elif config.ponet_segments == "chunks":
        regions, num_regions = _chunks(state, config), config.ponet_num_segments + 1
    elif special is None or input_ids is None:
        raise ValueError(
            f'ponet_segments="{config.ponet_segments}" needs input_ids, and cls_token_id and sep_token_id in the '
            'config; or give segment_ids, or set ponet_segments="chunks"'
        )
    else:
        ends = special
        if config.ponet_segments == "sentences":
            for token in config.sentence_end_token_ids or []:
                ends = ends | (input_ids == token)
        starts = torch.cat([special[:, :1], special[:, 1:] | ends[:, :-1]], dim=1)
        regions = starts.cumsum(1) - starts[:, :1].long()
    return replace(state, regions=regions, num_regions=num_regions, special=special)


def _chunks(state: SequenceState, config: FunnelformerConfig) -> Int[Tensor, "#B T"]:
    if state.keep is None or config.padding != "exact":
        return state.positions // ((state.positions[:, -1:] + 1) // config.ponet_num_segments + 1)
    chunk = state.keep.sum(1, keepdim=True) // config.ponet_num_segments + 1
    return (state.positions // chunk).clamp(max=config.ponet_num_segments)  # beyond the last: padding
