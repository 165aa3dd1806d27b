"""The vector of a sequence that weighs each state by the tokens it holds: the counts by hand, and in every batch."""

from __future__ import annotations

import pytest
import torch

from funnelformer import FunnelformerForSequenceClassification, FunnelformerModel
from funnelformer.modeling.model import sequence_vector
from models import batch, build, small_config

# A sequence alone and in a batch; measured 4e-6 at entries up to 4.
TOLERANCE = 2e-5
LENGTHS = [13, 8, 7, 2, 1]


def counts_by_hand(length: int, num_blocks: int, truncate: bool = True, separate: bool = True) -> list[int]:
    """The tokens in each state, by lists of Python: [CLS] apart, the last one dropped, the others in pairs."""
    groups = [1] * length
    for _ in range(num_blocks - 1):
        apart, body = (groups[:1], groups[1:]) if separate else ([], groups)
        if separate and truncate and len(groups) > 2:
            body = body[:-1]
        groups = apart + [sum(body[i : i + 2]) for i in range(0, len(body), 2)]
    return groups


def test_counts_of_small_cases() -> None:
    assert counts_by_hand(8, 3) == [1, 4]  # 1 | 23 45 67 (8 dropped) -> 1 | 2345 (67 dropped)
    assert counts_by_hand(8, 3, truncate=False) == [1, 4, 3]
    assert counts_by_hand(5, 2, separate=False) == [2, 2, 1]


@pytest.mark.parametrize("name", ["L2H32", "B1-1H32", "B1-1-1x2H32"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"truncate_seq": False},
        {"separate_cls": False},
        {"pooling": "max", "truncate_seq": False},
        {"mixer": "fourier", "position": "absolute"},
        {"unpad": True, "truncate_seq": False},
    ],
    ids=str,
)
def test_the_weighted_mean_in_every_batch(name: str, settings: dict[str, object]) -> None:
    config = small_config(name, decoder_layers=0, classifier_pooling="mean_tokens", **settings)
    model = build(FunnelformerModel, config)
    ids, mask, _ = batch(max(LENGTHS), LENGTHS)
    expected = []
    with torch.no_grad():
        for row, length in zip(ids, LENGTHS, strict=True):
            output = model(row[None, :length])
            counts = counts_by_hand(length, config.num_blocks, config.truncate_seq, config.separate_cls)
            assert output.encoder_token_counts.tolist() == [counts]
            weights = torch.tensor(counts, dtype=torch.float)[:, None]
            states = output.encoder_last_hidden_state[0]
            expected.append((states * weights).sum(0) / weights.sum())
            if config.num_blocks == 1:
                assert torch.allclose(expected[-1], states.mean(0), atol=1e-6)
        wanted = torch.stack(expected)
        found = model.sequence_vectors(ids, mask)
        assert torch.allclose(found, wanted, atol=TOLERANCE)
        # Padding on the other side: the same tokens, at the end of each row.
        left = torch.stack([row.roll(max(LENGTHS) - n) for row, n in zip(ids, LENGTHS, strict=True)])
        left_mask = torch.stack([row.roll(max(LENGTHS) - n) for row, n in zip(mask, LENGTHS, strict=True)])
        assert torch.allclose(model.sequence_vectors(left, left_mask), wanted, atol=TOLERANCE)
        if "mixer" not in settings:
            rows = torch.cat([row[:n] for row, n in zip(ids, LENGTHS, strict=True)])[None]
            places = torch.cat([torch.arange(n) for n in LENGTHS])[None]
            packed = sequence_vector(model(rows, position_ids=places), config)
            assert torch.allclose(packed, wanted, atol=TOLERANCE)
            # The plain mean of packed rows goes the same way.
            config.classifier_pooling = "mean"
            plain = sequence_vector(model(rows, position_ids=places), config)
            assert torch.allclose(plain, sequence_vector(model(ids, mask), config), atol=TOLERANCE)


@pytest.mark.parametrize("padding", ["original", "transformers"])
def test_padding_is_never_counted(padding: str) -> None:
    """Where a window is half padding it counts one token, or (transformers) is none."""
    config = small_config("B1-1H32", decoder_layers=0, padding=padding, truncate_seq=False)
    model = build(FunnelformerModel, config)
    ids, mask, _ = batch(7, [7, 4])
    with torch.no_grad():
        counts = model(ids, mask).encoder_token_counts.tolist()
    assert counts == [[1, 2, 2, 2], [1, 2, 1 if padding == "original" else 0, 0]]


def test_of_chosen_tokens_each_counts_once() -> None:
    config = small_config("B1-1H32", decoder_layers=0, pooling="top", truncate_seq=False)
    model = build(FunnelformerModel, config)
    ids, mask, _ = batch(9, [9, 4])
    with torch.no_grad():
        output = model(ids, mask)
    assert output.encoder_token_counts.tolist() == output.encoder_attention_mask.tolist()


def test_a_head_learns_from_the_weighted_mean() -> None:
    config = small_config("B1-1H32", classifier_pooling="mean_tokens", num_labels=3)
    model = build(FunnelformerForSequenceClassification, config)
    ids, mask, _ = batch(9, [9, 4])
    logits = model(ids, mask).logits
    vectors = model.funnelformer.sequence_vectors(ids, mask)
    assert torch.allclose(logits, model.classifier(vectors), atol=1e-6)
    logits.sum().backward()
    assert model.funnelformer.embeddings.word_embeddings.weight.grad.abs().sum() > 0
