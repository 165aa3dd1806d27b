"""The cases of test_fused_attention.py, which runs them in a process of their own: on a GPU, or in the interpreter.

TRITON_INTERPRET=1 FUNNELFORMER_NO_SHAPE_CHECKS=1 python -m pytest tests/mixers/fused_cases.py
"""

import dataclasses
import os

import pytest
import torch

from funnelformer import FunnelformerModel
from funnelformer.base.errors import UserError
from funnelformer.mixers.attention import Attention, fused, reference
from funnelformer.mixers.sequence import start_state
from funnelformer.modeling.pooling import shorten
from models import batch, build, enable_checkpointing, small_config, spread

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
# Largest difference over the largest value (0.1 where that is less), of outputs and of each gradient. Measured in the
# interpreter, which cuts bfloat16 off in place of rounding: 7e-6, 0.022, 0.002.
ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 0.04, torch.float16: 0.004}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that a few tokens are several tiles."""
    monkeypatch.setattr(fused, "_tiles", lambda dtype, stride: (16, 16 * stride))


def case(
    lengths=(21, 12),
    stride=1,
    segments=True,
    padding=True,
    heads=1,
    head_size=16,
    dtype=torch.float32,
    **options,
):
    """A layer, queries, keys and values as leaves, and the inputs of a stage."""
    torch.manual_seed(0)
    length, shortest = lengths
    config = small_config("L1H32", padding="exact", num_attention_heads=heads, head_size=head_size, **options)
    config._attn_implementation = "triton"
    layer = Attention(config)
    spread(layer)
    layer.to(DEVICE, dtype).eval()
    _, mask, ids = (x.to(DEVICE) for x in batch(length, [length, shortest]))
    keys = start_state(length, mask.bool() if padding else None, ids if segments else None, mask.device)
    hidden = torch.randn(2, length, 32, device=DEVICE, dtype=dtype)
    queries = keys if stride == 1 else shorten(hidden, keys, config)[1]
    sizes = (queries.positions.size(1), length, length)
    given = [torch.randn(2, n, heads, head_size, device=DEVICE).to(dtype).transpose(1, 2) for n in sizes]
    inputs = layer.prepare(queries, keys, config, hidden, False)
    assert inputs.same_segment is None
    return layer, [x.requires_grad_() for x in given], inputs


def results(attend, layer, given, inputs, dropout=0.0):
    """The mixed values, and the gradients of queries, keys, values and parameters."""
    leaves = [*given, *layer.parameters()]
    mixed, _ = attend(layer, *given, inputs, dropout)
    weight = torch.linspace(-9, 9, mixed.numel(), device=DEVICE).view(mixed.shape).cos()
    gradients = torch.autograd.grad((mixed * weight.to(mixed.dtype)).sum(), leaves, allow_unused=True)
    return [mixed.detach(), *gradients]


def reference_results(layer, given, inputs, attend=reference.attend):
    """The same of the reference in float64, from the same numbers."""
    twin = Attention(layer.config).to(DEVICE, torch.float64)
    twin.load_state_dict(layer.state_dict())
    inputs = fused.with_pairs(inputs)
    changes = {"sinusoids": inputs.sinusoids.double()}
    if inputs.mask_bias is not None:
        changes["mask_bias"] = inputs.mask_bias.double()
    doubles = [x.detach().double().requires_grad_() for x in given]
    return results(attend, twin, doubles, dataclasses.replace(inputs, **changes))


def assert_near(found, expected, allowed):
    assert len(found) == len(expected)
    num_compared = 0
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert (a is None) == (b is None), index
        if a is not None:
            assert a.isfinite().all(), index
            num_compared += 1
            difference = (a - b).abs().max() / b.abs().max().clamp(min=0.1)
            assert difference <= allowed, (index, difference)
    # The values; queries, keys, values; content and position bias, W_r.
    assert num_compared >= 7


CASES = {
    "two segments, padding, three tiles a side": {"lengths": (33, 20), "heads": 2},
    "one segment": {"segments": False},
    "no padding, no cls apart": {"padding": False, "separate_cls": False},
    "pooled": {"stride": 2, "lengths": (41, 30)},
    "pooled, no cls apart": {"stride": 2, "separate_cls": False, "truncate_seq": False},
    "one token": {"lengths": (1, 1), "padding": False},
    "two tokens, pooled": {"lengths": (2, 1), "stride": 2},
    "exact tiles, head of 64": {"lengths": (16, 7), "head_size": 64},
    "head of 24": {"lengths": (14, 3), "head_size": 24},
    "bfloat16": {"dtype": torch.bfloat16, "head_size": 32, "lengths": (14, 9)},
    "float16": {"dtype": torch.float16, "head_size": 32, "lengths": (14, 9)},
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_all_gradients_equal_the_reference_in_float64(name):
    layer, given, inputs = case(**CASES[name])
    found = results(fused.attend, layer, given, inputs)
    dtype = given[0].dtype
    assert found[0].dtype == dtype
    assert_near(found, reference_results(layer, given, inputs), ALLOWED[dtype])


def test_two_backward_passes_are_equal_bit_for_bit():
    layer, given, inputs = case(stride=2)
    for a, b in zip(*(results(fused.attend, layer, given, inputs) for _ in range(2)), strict=True):
        assert a is b is None or torch.equal(a, b)


def test_tiles_and_groups_of_sequences_change_nothing_but_rounding(monkeypatch):
    layer, given, inputs = case(stride=2)
    few = results(fused.attend, layer, given, inputs)
    monkeypatch.setattr(fused, "_PROGRAMS", 1)
    monkeypatch.setattr(fused, "_tiles", lambda dtype, stride: (32, 32 * stride))
    assert_near(results(fused.attend, layer, given, inputs), few, ALLOWED[torch.float32])


def test_a_sequence_without_a_key_is_as_in_the_reference():
    """All its weights are equal: the mask absorbs the scores."""
    layer, given, inputs = case()
    bias = inputs.mask_bias.clone()
    bias[1] = torch.finfo(bias.dtype).min
    inputs = dataclasses.replace(inputs, mask_bias=bias)
    found = results(fused.attend, layer, given, inputs)
    torch.testing.assert_close(found[0][1], given[2][1].mean(1, keepdim=True).expand_as(found[0][1]))
    assert all(gradient is None or gradient.isfinite().all() for gradient in found)


def test_dropout_has_its_rate_and_one_mask_forward_and_backward():
    """Of one-hot values the mixed ones are the weights; given the mask they show, the reference finds the same."""
    layer, given, inputs = case(lengths=(20, 13), head_size=32)
    given[2] = torch.eye(32, device=DEVICE)[:20].expand(2, 1, -1, -1).contiguous().requires_grad_()
    with torch.no_grad():
        plain = fused.attend(layer, *given, inputs, 0.3)[0][..., :20]
    layer.train()
    torch.manual_seed(5)
    found = results(fused.attend, layer, given, inputs, dropout=0.3)
    seen = plain > 1e-12
    ratio = found[0][..., :20] / plain
    kept = (ratio > 0.5).double()
    torch.testing.assert_close(ratio[seen], kept[seen].float() / 0.7, rtol=1e-4, atol=1e-6)
    # 660 pairs without padding: three standard deviations are 0.054.
    assert seen.sum() > 500
    assert abs(kept[seen].mean() - 0.7) < 0.054
    assert not torch.equal(kept[0, :, :, :13], kept[1, :, :, :13])

    def masked(layer, query, key, value, inputs, dropout):
        _, weights = reference.attend(layer, query, key, value, inputs, 0.0)
        return (weights * kept / 0.7) @ value, None

    assert_near(found, reference_results(layer, given, inputs, masked), ALLOWED[torch.float32])
    torch.manual_seed(5)
    with torch.no_grad():
        again, following = (fused.attend(layer, *given, inputs, 0.3)[0] for _ in range(2))
    assert torch.equal(again, found[0])
    assert not torch.equal(following, found[0])


def test_a_model_its_unpadded_batch_and_its_packed_row_equal_eager(monkeypatch):
    calls = []
    mix = fused._mix
    monkeypatch.setattr(fused, "_mix", lambda *given: (calls.append(given[0]), mix(*given))[1])
    config = small_config("B1-1H32")
    ids, mask, segments = (x.to(DEVICE) for x in batch(9, [9, 4]))
    real = mask.bool()
    found = []
    for implementation in ("eager", "triton"):
        model = build(FunnelformerModel, config, implementation).to(DEVICE)
        hidden = model(ids, mask, segments).last_hidden_state
        hidden.square().sum().backward()
        found.append([hidden.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    num_layers = sum(isinstance(module, Attention) for module in model.modules())
    assert len(calls) == num_layers
    assert_near(found[1], found[0], 1e-4)
    model.config.padding, row = (
        "exact",
        {"input_ids": ids[real][None], "token_type_ids": segments[real][None]},
    )
    positions = torch.arange(9, device=DEVICE).expand_as(ids)[real][None]
    with torch.no_grad():
        packed = [
            build(FunnelformerModel, small_config("B1-1H32", padding="exact"), name)
            .to(DEVICE)(**row, position_ids=positions)
            .last_hidden_state
            for name in ("eager", "triton")
        ]
    assert len(calls) == 2 * num_layers
    torch.testing.assert_close(packed[1], packed[0], rtol=0, atol=1e-4)


def test_autocast_and_gradient_checkpointing_with_dropout():
    config = small_config("L1H32", hidden_dropout=0.1, attention_dropout=0.2)
    inputs = [x.to(DEVICE) for x in batch(9, [9, 5])]
    gradients = []
    for checkpointing in (False, True):
        model = build(FunnelformerModel, config, "triton").to(DEVICE).train()
        if checkpointing:
            enable_checkpointing(model)
        torch.manual_seed(3)
        with torch.autocast(DEVICE, torch.bfloat16):
            model(*inputs).last_hidden_state.float().square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


def test_weights_that_are_asked_for_are_the_references():
    inputs = [x.to(DEVICE) for x in batch(12, [12, 7])]
    eager, found = (
        build(FunnelformerModel, small_config("B1-1H32"), name).to(DEVICE)(*inputs, output_attentions=True)
        for name in ("eager", "triton")
    )
    torch.testing.assert_close(found.last_hidden_state, eager.last_hidden_state, rtol=0, atol=1e-4)
    for a, b in zip(found.attentions, eager.attentions, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_torch_compile_takes_the_operators_as_they_are():
    layer, given, inputs = case(lengths=(5, 3))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def attend(query, key, value):
        return fused.attend(layer, query, key, value, inputs, 0.0)[0]

    found = results(lambda layer, *given: (attend(*given[:3]), None), layer, given, inputs)
    for a, b in zip(found, results(fused.attend, layer, given, inputs), strict=True):
        assert a is b is None or torch.equal(a, b)


def test_float64_is_refused():
    layer, given, inputs = case(dtype=torch.float64, lengths=(1, 1))
    with pytest.raises(UserError, match="float16, bfloat16 or float32, and this is float64"):
        fused.attend(layer, *given, inputs, 0.0)
