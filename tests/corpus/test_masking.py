"""Which tokens are hidden: how many, of which kind, how, and always the same."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from scipy.stats import chisquare
from transformers import TrainerState

from funnelformer.corpus.counter_random import row_keys, uniforms
from funnelformer.corpus.masking import STRATEGIES, MaskedBlocks, Masking, NextEpoch
from funnelformer.corpus.rows import NO_LABEL, Rows, table_of_rows
from funnelformer.corpus.targets import SPAN_PROBABILITIES, choose_spans, choose_words, place_spans

LENGTH = 100
# Every chi-square test is at this level, on draws that the seeds below fix: a failure is a change of the law.
LEVEL = 1e-3


class Tokenizer:
    """<pad> <unk> <cls> <sep> <mask> and 95 words."""

    all_special_ids = (0, 1, 2, 3, 4)
    mask_token_id, pad_token_id = 4, 0

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(100)}


def make_rows(num_rows=200, num_tokens=LENGTH):
    """[CLS], words of 1 to 6 tokens, [SEP] in the middle and at the end, padding."""
    generator = np.random.default_rng(0)
    ids = generator.integers(5, 100, (num_rows, LENGTH)).astype(np.int32)
    ids[:, 0], ids[:, num_tokens - 1], ids[:, 50] = 2, 3, 3
    ids[:, num_tokens:] = 0
    starts = generator.random((num_rows, LENGTH)) < 0.6
    starts[:, [0, 1, 50, 51, num_tokens - 1]] = True
    count = np.full(num_rows, num_tokens, dtype=np.int32)
    return Rows(ids, starts, count, np.minimum(count, 51), np.full(num_rows, NO_LABEL, dtype=np.int16))


def blocks(rows=None, seed=1, **masking):
    rows = rows or make_rows()
    table = datasets.Dataset(datasets.table.InMemoryTable(table_of_rows(rows)))
    return MaskedBlocks(table, Tokenizer(), Masking(**masking), seed), rows


def collected(data):
    batch = data.collate(data.__getitems__(list(range(len(data)))))
    return batch["input_ids"].numpy(), batch["labels"].numpy()


# ---- what all strategies share


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_labels_hold_the_hidden_tokens_and_nothing_else_changes(strategy):
    data, rows = blocks(make_rows(num_tokens=90), strategy=strategy)
    hidden, labels = collected(data)
    chosen = labels != -100
    assert (labels[chosen] == rows.input_ids[chosen]).all()
    assert (hidden[~chosen] == rows.input_ids[~chosen]).all()
    assert not chosen[:, [0, 50, 89]].any()
    assert not chosen[:, 90:].any()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("masking", "expected"), [({}, 15), ({"num_predict": 17}, 17), ({"num_predict": 1}, 1)]
)
def test_exactly_so_many_targets_of_every_sequence(strategy, masking, expected):
    """15 % of 97 tokens is 14.55."""
    _, labels = collected(blocks(strategy=strategy, **masking)[0])
    assert ((labels != -100).sum(1) == expected).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_short_sequences(strategy):
    """All of fewer tokens than wanted; one at least; none of a row without an ordinary token."""
    rows = make_rows(3)
    rows.input_ids[0, 4:], rows.input_ids[1, 2:], rows.input_ids[2, 1:] = 0, 0, 0
    rows.num_tokens[:] = 4, 2, 1
    _, labels = collected(blocks(rows, strategy=strategy, num_predict=20)[0])
    assert (labels != -100).sum(1).tolist() == [3, 1, 0]
    _, labels = collected(blocks(rows, strategy=strategy, probability=1e-9)[0])
    assert (labels != -100).sum(1).tolist() == [1, 1, 0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_becomes_of_the_targets(strategy):
    """80 % <mask>, 10 % kept, 10 % any ordinary token (1 in 95 of them the same)."""
    data, rows = blocks(make_rows(2000), strategy=strategy)
    hidden, labels = collected(data)
    chosen = labels != -100
    masked, same = (hidden == 4)[chosen].sum(), (hidden == rows.input_ids)[chosen].sum()
    total = chosen.sum()
    law = np.array([0.8, 0.1 + 0.1 / 95, 0.1 - 0.1 / 95]) * total
    assert chisquare([masked, same, total - masked - same], law).pvalue > LEVEL
    replaced = hidden[chosen & (hidden != 4) & (hidden != rows.input_ids)]
    assert replaced.min() >= 5
    assert chisquare(np.bincount(replaced, minlength=100)[5:]).pvalue > LEVEL


def test_no_target_becomes_an_id_without_a_token(monkeypatch):
    """A vocabulary may have gaps: the ids of 50 to 98 belong to no token."""
    monkeypatch.setattr(Tokenizer, "get_vocab", lambda _: {str(n): n for n in (*range(50), 99)})
    rows = make_rows(500)
    rows.input_ids[rows.input_ids >= 50] = 99
    data, _ = blocks(rows)
    hidden, labels = collected(data)
    replaced = hidden[(labels != -100) & (hidden != 4) & (hidden != rows.input_ids)]
    assert set(replaced) == {*range(5, 50), 99}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_draw_depends_on_seed_epoch_and_index_alone(strategy):
    """In any batch and order, whatever the global state."""
    data, _ = blocks(make_rows(20), strategy=strategy)
    first = collected(data)[0]
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    for indices in ([7], [19, 3, 11]):
        batch = data.collate(data.__getitems__(indices))
        assert (batch["input_ids"].numpy() == first[indices]).all()
    data.epoch = 1
    assert (collected(data)[0] != first).any(1).all()
    data.epoch = 0
    assert (collected(data)[0] == first).all()
    assert (collected(blocks(make_rows(20), seed=2, strategy=strategy)[0])[0] != first).any(1).all()


def test_a_short_row_beside_full_ones_changes_nothing():
    """The number of spans that are drawn depends on the batch, the spans do not."""
    rows = make_rows(5)
    rows.input_ids[2, 9:], rows.num_tokens[2] = 0, 9
    for strategy in STRATEGIES:
        data, _ = blocks(rows, strategy=strategy)
        together = collected(data)[0]
        alone = [data.collate([data[i]])["input_ids"].numpy()[0] for i in range(5)]
        assert (together == np.stack(alone)).all()


def test_an_item_keeps_the_epoch_it_was_read_in():
    """The loader reads one batch ahead of the step."""
    data, _ = blocks(make_rows(4))
    expected = collected(data)[0]
    items = data.__getitems__([0, 1, 2, 3])
    data.epoch = 1
    assert (data.collate(items)["input_ids"].numpy() == expected).all()


def test_a_batch_has_types_mask_and_labels_of_pairs():
    rows = make_rows(2, num_tokens=97)
    rows.structure[:] = 2, 0
    rows.second_start[1] = 97
    table = datasets.Dataset(datasets.table.InMemoryTable(table_of_rows(rows)))
    data = MaskedBlocks(table, Tokenizer(), Masking(), 0, cls_type_id=5, with_structure=True)
    batch = {name: values.tolist() for name, values in data.collate([data[0], data[1]]).items()}
    assert batch["token_type_ids"] == [[5] + [0] * 50 + [1] * 46 + [0] * 3, [5] + [0] * 99]
    assert batch["attention_mask"] == [[1] * 97 + [0] * 3] * 2
    assert batch["structure_labels"] == [2, 0]
    assert "structure_labels" not in blocks(rows)[0].collate([data[0]])


# ---- the laws of the strategies


def test_every_token_is_as_likely():
    """Of 97 tokens 15 in each of 4,000 rows. Draws without repetition vary less than the multinomial ones the
    statistic assumes, by the factor (97 - 15) / (97 - 1), so it is divided by that."""
    _, labels = collected(blocks(make_rows(4000))[0])
    counts = np.delete((labels != -100).sum(0), [0, 50, 99])
    factor = (97 - 15) / (97 - 1)
    corrected = counts.mean() + (counts - counts.mean()) / np.sqrt(factor)
    assert chisquare(corrected).pvalue > LEVEL


def chosen_of(choose, rows, *more, count=15, seed=3):
    keys = row_keys(seed, 0, np.arange(len(rows)))
    free = rows.input_ids > 4
    return choose(keys, free, np.minimum(free.sum(1), count), *more)


def test_words_are_whole_but_for_what_tops_up():
    """A word is cut only by single tokens that fill what no word fitted: fewer than the longest word has."""
    rows = make_rows(500)
    word = rows.word_starts.cumsum(1)
    chosen = chosen_of(choose_words, rows, rows.word_starts)
    longest = max(np.bincount(row).max() for row in word)
    for row in range(500):
        size = np.bincount(word[row], minlength=101)
        hit = np.bincount(word[row][chosen[row]], minlength=101)
        in_part = (hit > 0) & (hit < size)
        assert hit[in_part].sum() < longest


def test_a_written_case_of_whole_words():
    """Words of 2, 2, 2 tokens and 4 targets: two whole words, each pair of them as often."""
    ids = np.tile(np.array([[2, 9, 9, 9, 9, 9, 9, 3]], dtype=np.int32), (3000, 1))
    starts = np.tile(np.array([[1, 1, 0, 1, 0, 1, 0, 1]], dtype=bool), (3000, 1))
    rows = Rows(ids, starts, np.full(3000, 8), np.full(3000, 8), np.full(3000, NO_LABEL))
    chosen = chosen_of(choose_words, rows, starts, count=4).astype(int)
    patterns, counts = np.unique(chosen, axis=0, return_counts=True)
    assert patterns.tolist() == [[0, 0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0, 0]]
    assert chisquare(counts).pvalue > LEVEL


def test_span_lengths_follow_the_law():
    """p ∝ 1 / (length + 1) for 1 to 5, by chi-square over the first 8 spans of 5,000 rows, which no end cuts off."""
    np.testing.assert_allclose(SPAN_PROBABILITIES, np.array([30, 20, 15, 12, 10]) / 87)
    keys = row_keys(1, 0, np.arange(5000))
    groups = place_spans(keys, np.full(5000, 512), np.full(5000, 512 / 77), 512)
    lengths = np.stack([(groups == span).sum(1) for span in range(8)])
    found = np.bincount(lengths.ravel(), minlength=6)[1:]
    assert found.sum() == 40_000
    assert chisquare(found, SPAN_PROBABILITIES * 40_000).pvalue > LEVEL
    # Independent of one another: the pairs of neighbours follow the product.
    pairs = np.zeros((5, 5))
    np.add.at(pairs, (lengths[:-1:2].ravel() - 1, lengths[1::2].ravel() - 1), 1)
    law = np.outer(SPAN_PROBABILITIES, SPAN_PROBABILITIES) * pairs.sum()
    assert chisquare(pairs.ravel(), law.ravel()).pvalue > LEVEL


def test_spans_are_runs_in_order_within_the_text():
    keys = row_keys(1, 0, np.arange(50))
    num_units = np.arange(50) * 4 + 1
    groups = place_spans(keys, num_units, np.full(50, 3.3), 200)
    for row, end in zip(groups, num_units, strict=True):
        assert (row[end:] == -1).all()
        spans = row[row >= 0]
        assert (np.diff(spans) >= 0).all()
        for span in np.unique(spans):
            place = np.flatnonzero(row == span)
            assert place[-1] - place[0] == len(place) - 1 <= 4


def test_chosen_spans_are_whole_and_hold_no_special_token():
    """Of tokens or of words; single tokens are what tops up."""
    rows = make_rows(300)
    for unit in ("token", "word"):
        keys = row_keys(3, 0, np.arange(300))
        spacing = rows.num_tokens / 15
        if unit == "token":
            groups = place_spans(keys, rows.num_tokens, spacing, LENGTH)
            chosen = chosen_of(choose_spans, rows, rows.num_tokens)
        else:
            word = rows.word_starts.cumsum(1) - 1
            groups = np.take_along_axis(place_spans(keys, word[:, -1] + 1, spacing, LENGTH), word, 1)
            chosen = chosen_of(choose_spans, rows, rows.num_tokens, rows.word_starts)
        in_whole = np.zeros_like(chosen)
        for row in range(300):
            for span in np.unique(groups[row][groups[row] >= 0]):
                member = groups[row] == span
                if (rows.input_ids[row][member] > 4).all() and chosen[row][member].all():
                    in_whole[row] |= member
        assert (chosen.sum(1) == 15).all()
        assert in_whole.sum() / chosen.sum() > 0.6, unit


# ---- the random numbers


def test_random_numbers_are_uniform_and_unrelated():
    keys = row_keys(7, 2, np.arange(2000))
    assert len(np.unique(keys)) == 2000
    first, second = uniforms(keys, 0, 50), uniforms(keys, 1, 50)
    assert 0 <= first.min() < first.max() < 1
    assert chisquare(np.histogram(first, 64, (0, 1))[0]).pvalue > LEVEL
    for other in (second, np.roll(first, 1, 0), np.roll(first, 1, 1)):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(first.size)
    assert (uniforms(keys, 0, 60)[:, :50] == first).all()


def test_random_numbers_stay_the_same():
    """Else a run that is resumed under a later release would draw other masks."""
    assert row_keys(0, 0, np.array([0, 1])).tolist() == KEYS
    assert uniforms(row_keys(0, 0, np.array([0])), 0, 2)[0].tolist() == pytest.approx(NUMBERS, abs=0)


KEYS = [2558736989570252433, 4764156602392020899]
NUMBERS = [0.1296456182997474, 0.049920065672091285]


@pytest.mark.parametrize(("epoch", "expected"), [(None, 0), (0, 0), (1.0, 1), (2.75, 2)])
def test_the_epoch_follows_the_trainer(epoch, expected):
    data = SimpleNamespace(epoch=9)
    NextEpoch(data).on_epoch_begin(None, TrainerState(epoch=epoch), None)
    assert data.epoch == expected
