"""How many tokens a sequence may have: a given number, or one that fits the lengths of the data."""

from __future__ import annotations

from typing import Any, Literal

import datasets
import numpy as np

from ...base.processes import say
from ...config.model_config import FunnelformerConfig
from ...tasks.kind import Kind

__all__ = ["choose_max_length"]

_SHARE = 0.99
# A multiple of this can be halved three times, as four blocks do, and suits a GPU.
_MULTIPLE = 8
# "auto" never goes beyond this: a few books among the texts would take all the memory.
_MOST = 2048


def choose_max_length(
    asked: int | Literal["auto"],
    kind: Kind,
    examples: datasets.Dataset,
    tokenizer: Any,
    config: FunnelformerConfig,
) -> int:
    """Return `asked`, or for "auto" the number of tokens in which 99% of the examples fit; print the latter.

    "auto" gives a multiple of 8, at most 2,048 and at most `max_position_embeddings`, if the model has absolute
    positions.
    """
    if asked != "auto":
        return asked
    lengths = kind.lengths(examples, tokenizer)
    wanted = int(np.quantile(lengths, _SHARE, method="inverted_cdf"))
    limit = _MOST if config.position != "absolute" else min(_MOST, config.max_position_embeddings)
    chosen = min(-(-wanted // _MULTIPLE) * _MULTIPLE, limit)
    say(
        f"--max-length auto: {chosen} tokens hold {np.mean(lengths <= chosen):.1%} of the {len(lengths):,} training "
        f"texts (median {int(np.median(lengths))}, longest {lengths.max()})"
    )
    return chosen
