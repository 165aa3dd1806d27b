"""Attention in a wider head equals the reference; few frequencies stand for all."""

import numpy as np
import pytest
import torch

from funnelformer import FunnelformerForSequenceClassification, FunnelformerModel
from funnelformer.errors import UserError
from funnelformer.mixers.attention import frequencies
from funnelformer.sequence import start_state
from models import batch, build, enable_checkpointing, small_config

OPTIONS = {
    "paper": {},
    "all pooled": {"pool_q_only": False, "pooling": "max"},
    "no truncation": {"truncate_seq": False},
    "no cls apart": {"separate_cls": False, "truncate_seq": False},
    "original padding": {"padding": "original"},
    "top": {"pooling": "top"},
    "top, no cls apart": {"pooling": "top", "separate_cls": False},
}


def states_and_gradients(implementation, config, inputs, dtype=torch.float64):
    model = build(FunnelformerModel, config, implementation, dtype)
    output = model(**inputs, output_hidden_states=True)
    output.last_hidden_state.square().mean().backward()
    return output.hidden_states, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", OPTIONS)
def test_wide_equals_the_reference_in_values_and_gradients(case):
    """Float64, 1e-10 allowed for both: padding, segments, odd and short lengths, without mask, without segments."""
    config = small_config("B1-1x2-1H64", decoder_layers=1, **OPTIONS[case])
    for length, lengths, names in (
        (21, [21, 10, 3], ("input_ids", "attention_mask", "token_type_ids")),
        (12, [12], ("input_ids", "attention_mask")),
        (3, [3, 3], ("input_ids", "token_type_ids")),
        (1, [1], ("input_ids",)),
    ):
        given = dict(
            zip(("input_ids", "attention_mask", "token_type_ids"), batch(length, lengths), strict=True)
        )
        inputs = {name: given[name] for name in names}
        states, gradients = states_and_gradients("eager", config, inputs)
        found, found_gradients = states_and_gradients("wide", config, inputs)
        for wide, eager in zip(found, states, strict=True):
            torch.testing.assert_close(wide, eager, rtol=0, atol=1e-10)
        assert gradients.keys() == found_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                found_gradients[name], gradient, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("length", [64, 128])
def test_one_layer_in_float32_at_the_papers_width(length):
    """12 heads of 64, initial values five times the paper's; states reach 4, and 2e-5 is allowed."""
    torch.manual_seed(0)
    models = [
        FunnelformerModel._from_config(small_config("L1H768", initializer_std=0.1), attn_implementation=name)
        for name in ("eager", "wide")
    ]
    models[1].load_state_dict(models[0].state_dict())
    inputs = batch(length, [length, length // 2 + 1])
    with torch.no_grad():
        expected, found = (model.eval()(*inputs).last_hidden_state for model in models)
    difference = (found - expected)[inputs[1].bool()].abs()
    assert 0 < difference.max() < 2e-5, difference.max()
    print(f"\n{length}: {difference.max():.1e}, states to {expected.abs().max():.1f}")


def test_few_frequencies_give_all_sinusoids():
    """Error and number of dimensions at D = 768, over every distance, as the tolerances say."""
    for num_steps, unit, most in ((4, 1, 18), (128, 1, 112), (128, 4, 226), (512, 1, 230)):
        chosen, coefficients = frequencies.choose_frequencies(num_steps, unit, 768, 1e-8)
        assert 2 * len(chosen) <= most
        assert np.abs(coefficients).max() < 2
        distances = unit * np.arange(-num_steps, num_steps + 1)[:, None]
        every = 10000.0 ** (-np.arange(384) / 384)
        assert set(chosen) <= set(every)
        for wave in (np.sin, np.cos):
            error = np.abs(wave(distances * chosen) @ coefficients - wave(distances * every)).max()
            assert error < 1e-7, (num_steps, unit, error)


def test_lengths_share_their_frequencies():
    rounded = [frequencies._round_up(steps) for steps in range(1, 2049)]
    assert all(reach >= steps for steps, reach in enumerate(rounded, start=1))
    assert all(reach <= 1.25 * steps for steps, reach in enumerate(rounded, start=1) if steps > 8)
    assert len(set(rounded)) < 45
    assert rounded == sorted(rounded)


def test_weights_that_are_asked_for_come_from_the_same_scores():
    config = small_config("B1-1H32")
    inputs = batch(15, [15, 6])
    eager, wide = (
        build(FunnelformerModel, config, name, torch.float64)(*inputs, output_attentions=True)
        for name in ("eager", "wide")
    )
    for expected, found in zip(eager.attentions, wide.attentions, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_absolute_positions_have_nothing_to_add():
    config = small_config("L1H32", position="absolute")
    inputs = batch(15, [15, 6])
    eager, wide = (
        build(FunnelformerModel, config, name)(*inputs).last_hidden_state for name in ("eager", "wide")
    )
    torch.testing.assert_close(wide, eager, rtol=0, atol=1e-5)


def test_what_is_kept_at_inference_follows_length_and_weights():
    model = build(FunnelformerModel, small_config("B1-1H32"), "wide", torch.float64)
    layer = model.encoder.blocks[0][0].mixer
    long, short = batch(31, [31, 20]), batch(7, [7, 5])
    expected = [model(*inputs).last_hidden_state.detach() for inputs in (long, short)]
    assert layer._kept is None
    with torch.no_grad():
        for _ in range(2):
            for inputs, states in zip((long, short), expected, strict=True):
                torch.testing.assert_close(model(*inputs).last_hidden_state, states, rtol=0, atol=1e-12)
        kept = layer._kept
        model(*short)
        assert layer._kept is kept
        layer.relative.weight.mul_(2)
        changed = model(*short).last_hidden_state
        assert layer._kept is not kept
    torch.testing.assert_close(changed, model(*short).last_hidden_state.detach(), rtol=0, atol=1e-12)
    assert (changed - expected[1]).abs().max() > 1e-3


def test_dropout_takes_sinusoids_away_as_the_reference_does(monkeypatch):
    """A position score is q W_r (m R(t)), m the mask of the dimensions: of one score the reference's distribution."""
    config = small_config("L1H32", hidden_dropout=0.3)
    mixer = build(FunnelformerModel, config, "wide", torch.float64).encoder.blocks[0][0].mixer
    mask = torch.randint(2, (32,), dtype=torch.float64) / 0.7
    monkeypatch.setattr(frequencies.F, "dropout", lambda ones, rate: mask.view_as(ones) * (rate == 0.3))
    state = start_state(6, None, None, torch.device("cpu"))
    query = torch.randn(1, 1, 1, 32, dtype=torch.float64)
    wide = mixer.prepare(state, state, mixer.config, query[0], True).wide
    a, b = (query @ mixer.frequency_table(wide)).chunk(2, dim=-1)
    cosines, sines = wide.key_features[0, 0, 1, : 2 * a.size(-1)].chunk(2)
    for t in range(5):  # from the key at position 1, the query is t further on
        sine, cosine = wide.query_sines[0, 0, 1 + t], wide.query_cosines[0, 0, 1 + t]
        score = (a * sine + b * cosine) @ cosines + (b * sine - a * cosine) @ sines
        angle = t * 10000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
        sinusoid = torch.cat([angle.sin(), angle.cos()])
        expected = query @ mixer.relative(mask * sinusoid)
        torch.testing.assert_close(score, expected, rtol=0, atol=1e-10)


def test_bfloat16_is_near():
    inputs = batch(16, [16, 9])
    low, high = (
        build(FunnelformerModel, small_config("B1-1H32"), "wide", dtype)(*inputs).last_hidden_state
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert low.dtype == torch.bfloat16
    assert (low.float() - high).norm() / high.norm() < 0.05


def test_autocast_and_gradient_checkpointing():
    config = small_config("B1-1H32", hidden_dropout=0.1)
    inputs = batch(16, [16, 9])
    gradients = []
    for checkpointing in (False, True):
        model = build(FunnelformerModel, config, "wide").train()
        if checkpointing:
            enable_checkpointing(model)
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            model(*inputs).last_hidden_state.float().square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


def test_the_implementation_is_chosen_by_name(tmp_path):
    build(FunnelformerForSequenceClassification, small_config()).save_pretrained(tmp_path)
    model = FunnelformerForSequenceClassification.from_pretrained(tmp_path, attn_implementation="wide")
    assert model.config._attn_implementation == "wide"
    assert (
        FunnelformerForSequenceClassification.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    )
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    with pytest.raises(
        UserError, match=r"attn_implementation is 'wied'; allowed: eager, sdpa, wide.*did you mean 'wide'"
    ):
        FunnelformerForSequenceClassification.from_pretrained(tmp_path, attn_implementation="wied")


def test_a_segment_that_the_config_does_not_know_is_refused():
    model = build(FunnelformerModel, small_config("L1H32"), "wide")
    ids, mask, segments = batch(9, [9])
    with pytest.raises(RuntimeError, match="num_classes"):
        model(ids, mask, segments + 2)
