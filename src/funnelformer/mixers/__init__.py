"""Token mixers. A mixer is a module with two calls, and one line in the table below.

`prepare(queries, keys, config, like, training)` computes what every layer of a stage shares from the two
`SequenceState`s; `forward(queries, keys, inputs, need_weights)` mixes `keys` [B, K, D] into one vector for each
of `queries` [B, Q, D] and returns it with the attention weights [B, H, Q, K], or None where there are none.
Q and K differ in the first layer of a block.
"""

from __future__ import annotations

from torch import nn

from .attention import Attention

__all__ = ["MIXER_CLASSES", "Attention"]

MIXER_CLASSES: dict[str, type[nn.Module]] = {"attention": Attention}
