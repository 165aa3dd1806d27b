"""Which tokens are hidden: how many, how, and always the same."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from transformers import TrainerState

from funnelformer.training.masking import MaskedBlocks, NextEpoch

LENGTH = 100


class Tokenizer:
    """<pad> <unk> <cls> <sep> <mask> and 95 words."""

    all_special_ids = (0, 1, 2, 3, 4)
    mask_token_id, pad_token_id = 4, 0

    def __len__(self) -> int:
        return 100


def blocks(num_blocks=200, probability=0.15, seed=1):
    ids = np.random.default_rng(0).integers(5, 100, (num_blocks, LENGTH))
    ids[:, 0], ids[:, -1], ids[:, 50] = 2, 3, 3
    rows = {"input_ids": ids.tolist(), "token_type_ids": [[2] + [0] * (LENGTH - 1)] * num_blocks}
    return MaskedBlocks(datasets.Dataset.from_dict(rows), Tokenizer(), probability, seed), ids


def collected(data):
    rows = [data[i] for i in range(len(data))]
    return np.stack([row["input_ids"] for row in rows]), np.stack([row["labels"] for row in rows])


def test_labels_hold_the_hidden_tokens_and_nothing_else_changes():
    data, ids = blocks()
    hidden, labels = collected(data)
    chosen = labels != -100
    assert (labels[chosen] == ids[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert not chosen[:, [0, 50, -1]].any()
    assert data[0]["token_type_ids"].tolist() == [2] + [0] * (LENGTH - 1)


def test_fractions():
    """Within four standard deviations of 15 % of 19,400 tokens, and of 80 %, 10 %, 10 % of those."""
    data, ids = blocks()
    hidden, labels = collected(data)
    chosen = labels != -100
    num_free = 97 * 200
    count = chosen.sum()
    assert abs(count - 0.15 * num_free) < 4 * np.sqrt(0.15 * 0.85 * num_free)
    for share, found in ((0.8, (hidden == 4)[chosen]), (0.2, (hidden != 4)[chosen])):
        assert abs(found.sum() - share * count) < 4 * np.sqrt(0.16 * count)
    replaced = ((hidden != 4) & (hidden != ids))[chosen].sum()
    assert abs(replaced - 0.1 * 0.99 * count) < 4 * np.sqrt(0.09 * count)


@pytest.mark.parametrize("probability", [1e-9, 0.01])
def test_one_token_of_each_block_at_least(probability):
    _, labels = collected(blocks(probability=probability)[0])
    counts = (labels != -100).sum(1)
    assert counts.min() == 1
    assert counts.max() == 1 if probability < 1e-6 else counts.max() > 1


def test_a_block_of_special_tokens_hides_none():
    rows = {"input_ids": [[2, 3, 1, 3]], "token_type_ids": [[2, 0, 0, 0]]}
    data = MaskedBlocks(datasets.Dataset.from_dict(rows), Tokenizer(), 0.5, 0)
    assert data[0]["labels"].tolist() == [-100] * 4
    assert data[0]["input_ids"].tolist() == [2, 3, 1, 3]


def test_the_draw_depends_on_seed_epoch_and_index_alone():
    data, _ = blocks(20)
    first = collected(data)[0]
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    assert (np.stack([data[i]["input_ids"] for i in reversed(range(20))])[::-1] == first).all()
    data.epoch = 1
    second = collected(data)[0]
    assert (second != first).any(1).all()
    data.epoch = 0
    assert (collected(data)[0] == first).all()
    assert (collected(blocks(20, seed=2)[0])[0] != first).any(1).all()


def test_a_batch_is_its_rows_padded():
    """The last block of a corpus may be shorter."""
    rows = {"input_ids": [[2, 7, 8, 3], [2, 9, 3]], "token_type_ids": [[2, 0, 0, 0], [2, 0, 0]]}
    data = MaskedBlocks(datasets.Dataset.from_dict(rows), Tokenizer(), 1e-9, 0)
    together = data.__getitems__([1, 0])
    for row, index in zip(together, (1, 0), strict=True):
        assert {k: v.tolist() for k, v in row.items()} == {k: v.tolist() for k, v in data[index].items()}
    batch = {name: values.tolist() for name, values in data.collate(together).items()}
    assert batch["attention_mask"] == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["token_type_ids"] == [[2, 0, 0, 0], [2, 0, 0, 0]]
    assert batch["labels"][0] == [-100, 9, -100, -100]
    assert batch["input_ids"][0][0::2] == [2, 3]
    assert batch["input_ids"][0][3] == 0
    assert sorted(batch["labels"][1])[3] in (7, 8)


@pytest.mark.parametrize(("epoch", "expected"), [(None, 0), (0, 0), (1.0, 1), (2.75, 2)])
def test_the_epoch_follows_the_trainer(epoch, expected):
    data = SimpleNamespace(epoch=9)
    NextEpoch(data).on_epoch_begin(None, TrainerState(epoch=epoch), None)
    assert data.epoch == expected
