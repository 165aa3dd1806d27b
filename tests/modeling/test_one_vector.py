"""Ten blocks, which end in one state: at every length, in every batch, and with everything that reads it."""

from __future__ import annotations

import math

import pytest
import torch

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerModel,
    prepack,
)
from funnelformer.cost.flops import forward_flops, stage_lengths
from funnelformer.serve.funnel_trace import trace_funnel
from models import batch, build, small_config

LAYOUT = "B3-1-1-1-1-1-1-1-1-1H16"
ONE = {"separate_cls": False, "classifier_pooling": "mean_tokens"}
# Each block's pooling alone is odd at one of these lengths or another; 513 is the first that ends in two states.
LENGTHS = (1, 2, 3, 5, 37, 255, 256, 511, 512, 513)
# In float64; 1e-13 measured at entries up to 4.
TOLERANCE = 1e-9


def model_of(model_class=FunnelformerModel, **settings):
    return build(
        model_class, small_config(LAYOUT, **{"decoder_layers": 0, **ONE, **settings}), dtype=torch.float64
    )


def test_the_preset():
    config = FunnelformerConfig.from_name("one-vector-base")
    assert config.name == "B3-1-1-1-1-1-1-1-1-1H768"
    assert (config.num_hidden_layers, config.num_blocks, config.decoder_layers) == (12, 10, 0)
    assert (config.separate_cls, config.classifier_pooling) == (False, "mean_tokens")


@pytest.mark.parametrize("length", LENGTHS)
@torch.no_grad()
def test_what_is_left_of_a_text(length):
    """One state up to 512 tokens, the second for all beyond; alone, and beside a longer text, on either side."""
    model = model_of()
    ids, _, segments = batch(length, [length])
    alone = model(ids, token_type_ids=segments)
    number = math.ceil(length / 512)
    assert alone.encoder_last_hidden_state.shape == (1, number, 16)
    assert alone.encoder_token_counts.tolist() == [[min(512, length - 512 * i) for i in range(number)]]
    vector = model.sequence_vectors(ids, token_type_ids=segments)
    if number == 1:
        torch.testing.assert_close(vector, alone.encoder_last_hidden_state[:, 0])
    for left, right in ((0, 70), (70, 0)):
        padded = [torch.nn.functional.pad(x, (left, right)) for x in (ids, torch.ones_like(ids), segments)]
        other = batch(length + 70, [length + 70], seed=5)
        rows = [torch.cat([o, p]) for o, p in zip(other, padded, strict=True)]
        together = model.sequence_vectors(*rows)
        torch.testing.assert_close(together[1:], vector, rtol=0, atol=TOLERANCE)
        assert (together[0] - together[1]).abs().max() > 0.01


@torch.no_grad()
def test_every_token_counts():
    """A change of any of 200 tokens changes the vector."""
    model = model_of()
    ids, _, _ = batch(200, [200])
    before = model.sequence_vectors(ids)
    changed = ids.repeat(200, 1)
    places = torch.arange(200)
    changed[places, places] = (changed[places, places] + 1) % 60
    assert ((model.sequence_vectors(changed) - before).abs().amax(1) > 1e-6).all()


def test_implementations_and_packing_agree():
    ids, mask, segments = batch(70, [70, 33, 1])
    expected = model_of().sequence_vectors(ids, mask, segments)
    eager = build(
        FunnelformerModel, small_config(LAYOUT, decoder_layers=0, **ONE), "eager", dtype=torch.float64
    )
    torch.testing.assert_close(eager.sequence_vectors(ids, mask, segments), expected, rtol=0, atol=TOLERANCE)
    packed = model_of(unpad=True)
    torch.testing.assert_close(packed.sequence_vectors(ids, mask, segments), expected, rtol=0, atol=TOLERANCE)
    with torch.no_grad():
        single = prepack(build(FunnelformerModel, small_config(LAYOUT, decoder_layers=0, **ONE)))
        found = single.sequence_vectors(ids, mask, segments)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)  # 1e-5 measured


def test_a_step_of_training_reaches_every_layer():
    model = model_of(FunnelformerForSequenceClassification, num_labels=3).train()
    ids, mask, segments = batch(40, [40, 21])
    model(ids, mask, segments, labels=torch.tensor([0, 2])).loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # The single state of the last block has but itself to look at: a softmax of one has no gradient.
    assert all(".blocks.9." in name or ".blocks.8." in name or ".blocks.7." in name for name in unused), (
        unused
    )


@torch.no_grad()
def test_a_decoder_gives_states_of_tokens():
    """It sees the first block's states and the one state that is left, at every token."""
    model = model_of(FunnelformerForMaskedLM, decoder_layers=1)
    for length in (1, 40, 513):
        ids, _, _ = batch(length, [length])
        assert model(ids).logits.shape == (1, length, 60)
    changed = ids.clone()
    changed[0, 5] += 1
    assert (model(changed).logits[0, 500] - model(ids).logits[0, 500]).abs().max() > 1e-6


def test_the_picture_ends_in_one_vector():
    funnel = trace_funnel(model_of(), {"input_ids": batch(37, [37])[0]})
    assert [len(stage.members) for stage in funnel.stages] == [37, 19, 10, 5, 3, 2, 1, 1, 1, 1]
    assert funnel.stages[-1].members == [list(range(37))]
    assert [len(stage.looks[0]) for stage in funnel.stages[1:]] == [37, 19, 10, 5, 3, 2, 1, 1, 1]


def test_what_it_costs():
    """Of the products with weights a layer's query has 10 units, 8 in the feed-forward part, and a key 2."""
    config = FunnelformerConfig.from_name("one-vector-base")
    assert stage_lengths(config, 512) == [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]
    assert stage_lengths(config, 513)[-1] == 2
    full = FunnelformerConfig.from_name("transformer-base")
    ours, theirs = (forward_flops(each, 512, decoder=False).layers.linear for each in (config, full))
    assert ours * 12 * 12 * 512 == theirs * (3 * 12 * 512 + (10 + 2 * 2) * 511)
