"""Where PoNet's segments begin: at separators, sentence ends, or every so many tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...config.model_config import FunnelformerConfig
from ..mixer import TokenInputs
from ..sequence import SequenceState

__all__ = ["Regions", "find_regions"]


@dataclass(frozen=True)
class Regions:
    """PoNet's extra: where each token belongs. (`SequenceState.segments` are the token types of the input.)

    segments: of each token, numbered below `num_segments`.
    special: the CLS and SEP tokens; None when they are not told apart.
    """

    segments: Int[Tensor, "#B T"]
    num_segments: int
    special: Bool[Tensor, "B T"] | None

    def pooled(
        self,
        keep: Bool[Tensor, "B T"] | None,
        pairs: Callable[[Tensor], tuple[Tensor, Tensor]],
        with_first: Callable[[Tensor, Tensor], Tensor],
    ) -> Regions:
        """A window is special when all its real tokens are; its segment is that of its first token with text."""
        first, second = pairs(self.segments)
        if self.special is None:
            return Regions(with_first(self.segments, first), self.num_segments, None)
        no_text = self.special if keep is None else self.special | ~keep
        without_first, without_second = pairs(no_text)
        body = torch.where(without_first & ~without_second, second, first)
        special = with_first(self.special, without_first & without_second)
        return Regions(with_first(self.segments, body), self.num_segments, special)

    def chosen(self, take: Callable[[Tensor], Tensor]) -> Regions:
        special = None if self.special is None else take(self.special)
        return Regions(take(self.segments), self.num_segments, special)


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


def find_regions(state: SequenceState, tokens: TokenInputs, config: FunnelformerConfig) -> Regions:
    """Find each token's segment and the special tokens of an unpooled sequence.

    segment_ids: numbers below T (of padding any), in place of those of `config.ponet_segments`:
    "separators": CLS and SEP are segments of their own, and so is the text between two of them.
    "sentences": besides, a segment ends with each of `sentence_end_token_ids`.
    "chunks": ponet_chunk_length tokens each, or else n // ponet_num_segments + 1, n being the sequence's real
    length under `padding="exact"`, and the input's under the others.
    Raises ValueError when what is needed is missing, or for other segment_ids (graphs of torch.compile do not look).
    """
    input_ids, segment_ids = tokens.input_ids, tokens.segment_ids
    special = _special_tokens(input_ids, config)
    num_regions = state.span
    if segment_ids is not None:
        regions = _in_range(segment_ids, state)
    elif config.ponet_segments == "chunks":
        regions, num_regions = _chunks(state, config)
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
    return Regions(regions, num_regions, special)


def _in_range(segment_ids: Int[Tensor, "B T"], state: SequenceState) -> Int[Tensor, "B T"]:
    """A number beyond the last would be a segment of the next sequence's."""
    if not (torch.compiler.is_compiling() or torch.compiler.is_exporting()):
        outside = (segment_ids < 0) | (segment_ids >= state.span)
        if state.keep is not None:
            outside = outside & state.keep
        if outside.any():
            raise ValueError(
                f"segment_ids has {int(segment_ids[outside][0])} at a real token; allowed: 0 to {state.span - 1}"
            )
    return segment_ids.clamp(0, state.span - 1)


def _chunks(state: SequenceState, config: FunnelformerConfig) -> tuple[Int[Tensor, "#B T"], int]:
    """The segments, and a bound of their numbers."""
    if config.ponet_chunk_length is not None:
        return state.positions // config.ponet_chunk_length, state.span // config.ponet_chunk_length + 1
    num_chunks = config.ponet_num_segments
    if state.keep is None or config.padding != "exact":
        return state.positions // ((state.positions[:, -1:] + 1) // num_chunks + 1), num_chunks + 1
    chunk = state.keep.sum(1, keepdim=True) // num_chunks + 1
    return (state.positions // chunk).clamp(max=num_chunks), num_chunks + 1  # beyond the last: padding
