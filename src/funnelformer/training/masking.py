"""Hide tokens for masked language modelling, the same ones whenever a run is resumed."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["MaskedBlocks", "NextEpoch"]


class MaskedBlocks(Dataset[dict[str, Any]]):
    """Blocks of token ids with some tokens hidden, and `labels` that hold these and -100 elsewhere.

    A token that is not special is chosen with `probability`, and one of each block at least, so that no batch
    is without a loss. Of those, 80 % become <mask>, 10 % any token, 10 % stay (Devlin et al. 2019).
    The draw depends on seed, epoch and index alone: on neither the batches before nor the random state,
    which the loader, one batch ahead of the step, would have changed when a checkpoint is written.
    """

    def __init__(self, blocks: datasets.Dataset, tokenizer: Any, probability: float, seed: int) -> None:
        self.blocks, self.probability, self.seed = blocks, probability, seed
        self.epoch = 0
        self.special = np.array(tokenizer.all_special_ids)
        self.mask_id, self.pad_id = tokenizer.mask_token_id, tokenizer.pad_token_id
        self.vocab_size = len(tokenizer)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, np.ndarray]]:
        """A batch at once, which torch's loader asks for: reading row by row takes twice as long."""
        columns = self.blocks[indices]
        rows = zip(indices, columns["input_ids"], columns["token_type_ids"], strict=True)
        return [
            {**self._hide(index, np.array(ids)), "token_type_ids": np.array(types)}
            for index, ids, types in rows
        ]

    def _hide(self, index: int, ids: np.ndarray) -> dict[str, np.ndarray]:
        random = np.random.default_rng((self.seed, self.epoch, index))
        # Special tokens draw 1, which is never chosen.
        draw = np.where(np.isin(ids, self.special), 1.0, random.random(len(ids)))
        chosen = (draw < self.probability) | ((draw == draw.min()) & (draw < 1.0))
        kind = random.random(len(ids))
        hidden = np.where(chosen & (kind < 0.8), self.mask_id, ids)
        hidden = np.where(chosen & (kind >= 0.9), random.integers(self.vocab_size, size=len(ids)), hidden)
        return {"input_ids": hidden, "labels": np.where(chosen, ids, -100)}

    def collate(self, rows: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """Stack rows of [T] to tensors [B, T] with a mask; the corpus's last block may be shorter."""
        length = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self.pad_id, "token_type_ids": 0, "labels": -100}
        batch = {
            name: np.stack(
                [np.pad(row[name], (0, length - len(row[name])), constant_values=value) for row in rows]
            )
            for name, value in fill.items()
        }
        batch["attention_mask"] = np.array(
            [[1] * n + [0] * (length - n) for n in (len(row["labels"]) for row in rows)]
        )
        return {name: torch.from_numpy(values) for name, values in batch.items()}


class NextEpoch(TrainerCallback):
    """Tell the blocks which epoch begins, in a resumed run too."""

    def __init__(self, blocks: MaskedBlocks) -> None:
        self.blocks = blocks

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.blocks.epoch = int(state.epoch or 0)
