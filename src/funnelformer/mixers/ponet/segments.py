"""Where PoNet's segments begin: at separators, sentence ends, or every so many tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...config import FunnelformerConfig

__all__ = ["find_segments", "find_special"]


def find_special(
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


def find_segments(
    input_ids: Int[Tensor, "B T"] | None,
    keep: Bool[Tensor, "B T"] | None,
    length: int,
    config: FunnelformerConfig,
    device: torch.device,
) -> tuple[Int[Tensor, "#B T"], int]:
    """Number the segments of each sequence from 0, by `config.ponet_segments`; return a bound of the numbers too.

    "separators": CLS and SEP are segments of their own, and so is the text between two of them.
    "sentences": besides, a segment ends with each of `sentence_end_token_ids`.
    "chunks": n // ponet_num_segments + 1 tokens each, n being the sequence's real length under
    `padding="exact"`, else the input's (as in PoNet's Long Range Arena runs).
    keep: real tokens, standing first. Raises ValueError when what is needed is missing.
    """
    if config.ponet_segments == "chunks":
        num_slots = config.ponet_num_segments + 1
        places = torch.arange(length, device=device)[None]
        if keep is None or config.padding != "exact":
            return places // (length // config.ponet_num_segments + 1), num_slots
        chunk = keep.sum(1, keepdim=True) // config.ponet_num_segments + 1
        return (places // chunk).clamp(max=num_slots - 1), num_slots  # beyond the last: padding
    special = find_special(input_ids, config)
    if special is None or input_ids is None:
        raise ValueError(
            f'ponet_segments="{config.ponet_segments}" needs input_ids, and cls_token_id and sep_token_id in the '
            'config; or give segment_ids, or set ponet_segments="chunks"'
        )
    ends = special
    if config.ponet_segments == "sentences":
        for token in config.sentence_end_token_ids or []:
            ends = ends | (input_ids == token)
    starts = special.clone()
    starts[:, 1:] |= ends[:, :-1]
    return starts.cumsum(1) - starts[:, :1].long(), length
