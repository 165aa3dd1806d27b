"""Hide tokens for masked language modelling, a batch at a time; a resumed run hides the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..base.options import Strategy
from ..data.tokenizer import num_ids
from .counter_random import row_keys, uniforms
from .rows import Rows, rows_of_table
from .targets import choose_single, choose_spans, choose_words

__all__ = ["STRATEGIES", "MaskedBlocks", "Masking", "NextEpoch"]

STRATEGIES = get_args(Strategy)
_KIND, _REPLACEMENT = 10, 11  # streams of random numbers, beside those of `targets`


@dataclass(frozen=True)
class Masking:
    """Which tokens become targets, and what takes their place.

    strategy: targets are single tokens, whole words, or spans of 1 to 5 tokens or words.
    probability: share of the tokens of a sequence, without special ones, that become targets; rounded, at least one.
    num_predict: number of targets in each sequence, in place of `probability`. If a sequence has fewer tokens, all of
        them are targets.
    leak: share of the targets that keep their token. random: share that becomes a random ordinary token. The others
        become the mask token.
    Source: Devlin et al. 2019, arXiv:1810.04805.
    """

    strategy: Strategy = "single_token"
    probability: float = 0.15
    num_predict: int | None = None
    leak: float = 0.1
    random: float = 0.1

    def counts(self, num_free: np.ndarray) -> np.ndarray:
        """The number of targets [B] in sequences that have `num_free` [B] tokens to choose from."""
        if self.num_predict is not None:
            wanted = np.full_like(num_free, self.num_predict)
        else:
            wanted = np.maximum(np.floor(num_free * self.probability + 0.5).astype(num_free.dtype), 1)
        return np.minimum(wanted, num_free)


class MaskedBlocks(Dataset[dict[str, Any]]):
    """Rows of a corpus; `collate` makes a batch of them in which some tokens are hidden, with their ids in `labels`.

    Seed, epoch and index alone decide which tokens are hidden. A random state would not do: the loader is a batch
    ahead of the step, so it would already have changed when a checkpoint is written.

    blocks: a data set with the columns of `rows.Rows`. cls_type_id: the token type of [CLS]; A has 0, and B has 1.
    with_structure: also put `structure_labels` into the batch.
    """

    def __init__(
        self,
        blocks: datasets.Dataset,
        tokenizer: Any,
        masking: Masking,
        seed: int,
        cls_type_id: int = 2,
        with_structure: bool = False,
    ) -> None:
        self.blocks = blocks.with_format("arrow")
        self.masking, self.seed, self.epoch = masking, seed, 0
        self.cls_type_id, self.with_structure = cls_type_id, with_structure
        self.mask_id = tokenizer.mask_token_id
        self.is_special = np.ones(num_ids(tokenizer), dtype=bool)  # so are ids that no token has
        self.is_special[list(tokenizer.get_vocab().values())] = False
        self.is_special[list(tokenizer.all_special_ids)] = True
        self.ordinary = np.flatnonzero(~self.is_special)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def length(self) -> int:
        """Ids of a row, padding included."""
        return int(self.blocks.features["input_ids"].length)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Read a whole batch. torch's loader calls this, if it is there; reading row by row takes twice as long."""
        rows = rows_of_table(self.blocks[indices])
        return [
            {"index": index, "epoch": self.epoch, **{name: values[i] for name, values in vars(rows).items()}}
            for i, index in enumerate(indices)
        ]

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Stack rows into int64 tensors and hide some of their tokens.

        Returns input_ids, token_type_ids, attention_mask and labels, all [B, L]; labels are -100 except at targets.
        With `with_structure` also structure_labels [B].
        """
        rows = Rows(**{name: np.stack([item[name] for item in items]) for name in Rows.__dataclass_fields__})
        keys = row_keys(self.seed, items[0]["epoch"], np.array([item["index"] for item in items]))
        hidden, labels = self.hide(rows, keys)
        place = np.arange(rows.block_size)
        keep = place < rows.num_tokens[:, None]
        types = ((place >= rows.second_start[:, None]) & keep).astype(np.int64)
        types[:, 0] = self.cls_type_id
        batch = {
            "input_ids": hidden,
            "token_type_ids": types,
            "labels": labels,
            "attention_mask": keep.astype(np.int64),
        }
        if self.with_structure:
            batch["structure_labels"] = rows.structure.astype(np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def hide(self, rows: Rows, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids with tokens hidden, and labels: the hidden ids, and -100 elsewhere. Both are [B, L] int64.

        keys: [B], one random key for each row, see `counter_random.row_keys`.
        """
        masking, ids = self.masking, rows.input_ids.astype(np.int64)
        free = ~self.is_special[ids] & (np.arange(rows.block_size) < rows.num_tokens[:, None])
        counts = masking.counts(free.sum(1))
        if masking.strategy == "single_token":
            chosen = choose_single(keys, free, counts)
        elif masking.strategy == "whole_word":
            chosen = choose_words(keys, free, counts, rows.word_starts)
        elif masking.strategy == "token_span":
            chosen = choose_spans(keys, free, counts, rows.num_tokens)
        else:
            chosen = choose_spans(keys, free, counts, rows.num_tokens, rows.word_starts)
        kind = uniforms(keys, _KIND, rows.block_size)
        other = self.ordinary[
            (uniforms(keys, _REPLACEMENT, rows.block_size) * len(self.ordinary)).astype(np.int64)
        ]
        replaced = np.where(kind < masking.random, other, self.mask_id)
        changed = chosen & (kind < 1 - masking.leak)
        return np.where(changed, replaced, ids), np.where(chosen, ids, -100)


class NextEpoch(TrainerCallback):
    """Tell the blocks which epoch begins, in a resumed run too."""

    def __init__(self, blocks: MaskedBlocks) -> None:
        self.blocks = blocks

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.blocks.epoch = int(state.epoch or 0)
