"""Token mixers. A mixer is a module with two calls, and one line in the table below.

`prepare(queries, keys, config, like, training)` computes what every layer of a stage shares from the two
`SequenceState`s; `forward(queries, keys, inputs, need_weights)` mixes `keys` [B, K, D] into one vector for each
of `queries` [B, Q, D] and returns it with the attention weights [B, H, N, K], or None where there are none; N is Q,
or 1 where all queries have the same.
Q and K differ in the first layer of a block, if the mixer's `reads_unpooled` says that it can read the sequence
before the pooling (`pool_q_only`); else that layer mixes the pooled sequence.
`weights_read` names projections whose weight the mixer reads, rather than call them.
"""

from __future__ import annotations

from torch import nn

from .attention import Attention
from .fourier import Fourier
from .ponet import PoNet

__all__ = ["MIXER_CLASSES", "Attention", "Fourier", "PoNet"]

MIXER_CLASSES: dict[str, type[nn.Module]] = {"attention": Attention, "ponet": PoNet, "fourier": Fourier}
