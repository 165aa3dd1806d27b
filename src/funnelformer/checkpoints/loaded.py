"""What the format files give and take: a model in our names, and one in theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..config.model_config import FunnelformerConfig
from ..modeling import HEADS

__all__ = ["SEQUENCE_HEADS", "Exported", "Loaded", "Part", "Pretraining"]

# Architectures that read one vector a sequence, and so have no decoder.
SEQUENCE_HEADS = tuple(name for name, head in HEADS.items() if head.reads_vector)


@dataclass(frozen=True)
class Part:
    """One model, in our names.

    architecture: a key of `modeling.HEADS`; the body carries the prefix `funnelformer.` but in a "model".
    """

    config: FunnelformerConfig
    state_dict: dict[str, Tensor]
    architecture: str


@dataclass(frozen=True)
class Pretraining:
    """What ELECTRA pretraining needs beside the discriminator to go on.

    generator: its word embedding and embedding LayerNorm are the discriminator's tensors. None where the model is
        trained by itself, as a masked language model is.
    moments: parameter -> its `exp_avg` and `exp_avg_sq`, by the names of `FunnelformerForElectra`
        (`discriminator.funnelformer.embeddings...`); what both models share under the discriminator's name. Empty
        before the first update. step: updates done.
    """

    generator: Part | None
    moments: dict[str, dict[str, Tensor]]
    step: int


@dataclass(frozen=True)
class Loaded(Part):
    """A model read from a folder.

    ignored: the source's tensors that were left out, and why. names: our name -> the source's.
    source: the format, a key of `forms.FORMS`.
    pretraining: of a checkpoint that holds it.
    """

    ignored: dict[str, str]
    source: str
    folder: Path
    names: Mapping[str, str] = field(default_factory=dict)
    pretraining: Pretraining | None = None


class Exported(NamedTuple):
    """A model in another form.

    config, state_dict: in its terms. ignored: our tensors that it leaves out, and why. names: our name -> its.
    architecture: what it keeps, "model" where it leaves out the head.
    """

    config: Any
    state_dict: dict[str, Tensor]
    ignored: dict[str, str]
    names: dict[str, str]
    architecture: str
