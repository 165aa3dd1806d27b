"""Contrastive training of an encoder with few labels: vectors of one class come together, those of others apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Sampler

from .trainer import FinetuneTrainer

__all__ = ["ClassCouples", "ContrastiveTrainer", "pair_loss"]


def pair_loss(vectors: Float[Tensor, "B D"], labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """The mean squared error of the cosine similarities of all pairs in a batch; a scalar.

    The target is 1 for two texts of one class, and 0 for texts of two classes. Either sort of pairs gets half of the
    weight; if a batch has only one sort, that gets all of it.
    Source of the targets: Tunstall et al. 2022, arXiv:2209.11055 (SetFit), which samples pairs and does not use all.
    """
    unit = F.normalize(vectors.float(), dim=-1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    is_same = (labels[first] == labels[second]).float()
    losses = ((unit[first] * unit[second]).sum(-1) - is_same).square()
    sorts = [(losses * part).sum() / part.sum() for part in (is_same, 1 - is_same) if part.any()]
    return torch.stack(sorts).mean()


class ClassCouples(Sampler[int]):
    """Sampler of all rows as shuffled couples of one class, so that in a batch of even size every text has a partner.

    If a class has an odd number of rows, one row comes twice. The couples differ in every epoch; seed and epoch decide
    them. labels: [N], the class of each row.
    """

    def __init__(self, labels: np.ndarray, seed: int) -> None:
        self._rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._seed, self._number = seed, 0

    def __len__(self) -> int:
        return sum(len(rows) + len(rows) % 2 for rows in self._rows)

    def set_epoch(self, epoch: int) -> None:
        self._number = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._number))
        couples = []
        for rows in self._rows:
            order = generator.permutation(rows)
            couples.append(np.append(order, order[: len(order) % 2]).reshape(-1, 2))
        yield from generator.permutation(np.concatenate(couples)).ravel().tolist()


class ContrastiveTrainer(FinetuneTrainer):
    """Trains the encoder of a sequence classifier with `pair_loss`; the model's head takes no part."""

    def __init__(self, *args: Any, couples: ClassCouples, **kwargs: Any) -> None:
        self._couples = couples
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._couples

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        vectors = self.accelerator.unwrap_model(model).base_model.sequence_vectors(**inputs)
        loss = pair_loss(vectors, labels)
        return (loss, vectors) if return_outputs else loss
