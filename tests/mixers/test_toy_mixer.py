"""A new mixer is one file and one line: everything that a model does works with one that no module knows."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from funnelformer import (
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerModel,
    prepack,
)
from funnelformer.config.model_config import MIXERS
from funnelformer.cost.flops import forward_flops
from funnelformer.mixers import Mixer
from models import batch, build, small_config

NAME = "running-mean"


@pytest.fixture(autouse=True)
def the_one_line(monkeypatch):
    monkeypatch.setitem(MIXERS, NAME, "mixers.toy_mixer:RunningMean")


@pytest.mark.parametrize("mixer", [NAME, [NAME, "attention", NAME], ["ponet", NAME, "attention"]])
def test_it_is_trained_saved_and_loaded(mixer, tmp_path):
    config = small_config("B1-1x2-1H32", mixer=mixer, cls_token_id=5, sep_token_id=6, num_labels=2)
    torch.manual_seed(0)
    model = FunnelformerForSequenceClassification(config)
    assert config.num_labels == 2
    ids, mask, segments = batch(16, [16, 9, 12, 16])
    ids[:2, 3] = 7  # the label is whether the marked token is there
    ids[2:][ids[2:] == 7] = 8
    labels = torch.tensor([1, 1, 0, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(ids, mask, segments, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.1
    model.eval().save_pretrained(tmp_path)
    again = FunnelformerForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(ids, mask, segments).logits
        assert torch.equal(again(ids, mask, segments).logits, expected)
        torch.testing.assert_close(prepack(again)(ids, mask, segments).logits, expected, rtol=0, atol=1e-5)


def test_initial_values_are_its_own():
    model = FunnelformerModel(small_config("L1H64", mixer=NAME, initializer="uniform"))
    mixer = model.encoder.blocks[0][0].mixer
    assert isinstance(mixer, Mixer)
    assert 0 < mixer.gain.abs().max() <= 0.1


def test_its_extra_is_pooled_with_the_sequence():
    """By hand: of 8 tokens the fourth is marked; windows of [CLS] | 1 2 | 3 4 | 5 6 (the last is cut)."""
    config = small_config("B1-1H32", mixer=NAME, decoder_layers=0)
    model = build(FunnelformerModel, config)
    seen = []
    mixer = model.encoder.blocks[1][0].mixer
    mixer.register_forward_pre_hook(lambda _, args: seen.append(args[2][0, :, 0].tolist()))
    model(torch.tensor([[5, 8, 8, 7, 8, 8, 8, 8]]))
    assert seen == [[1, 1, 2, 1]]


def test_its_flops_are_counted():
    model = build(FunnelformerForMaskedLM, small_config("B1-1H32", mixer=NAME))
    ids, _, _ = batch(16, [16, 16])
    with FlopCounterMode(display=False) as counter:
        model(ids)
    assert forward_flops(model.config, 16, batch_size=2, head="masked_lm").total == counter.get_total_flops()
