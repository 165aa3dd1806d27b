"""Weights laid out for a CPU: the same outputs, no parameter twice, and a clear end where they cannot serve."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from funnelformer import (
    FunnelformerForMaskedLM,
    FunnelformerForQuestionAnswering,
    FunnelformerForSequenceClassification,
    FunnelformerModel,
    prepack,
)
from funnelformer.inference.load import ready
from funnelformer.modeling import PrepackedLinear
from models import batch, build, small_config

CASES = {
    "paper": (FunnelformerModel, {}),
    "gelu": (FunnelformerModel, {"hidden_act": "gelu"}),
    "relu": (FunnelformerModel, {"hidden_act": "relu"}),
    "silu, which is not fused": (FunnelformerModel, {"hidden_act": "silu"}),
    "eager": (FunnelformerModel, {"implementation": "eager"}),
    "ponet": (FunnelformerModel, {"mixer": "ponet", "cls_token_id": 5, "sep_token_id": 6}),
    "fourier": (FunnelformerModel, {"mixer": ["fourier", "fourier", "attention"]}),
    "absolute": (FunnelformerModel, {"position": "absolute", "embedding_size": 16}),
    "tied": (FunnelformerForMaskedLM, {}),
    "classes": (FunnelformerForSequenceClassification, {"num_labels": 3}),
    "spans": (FunnelformerForQuestionAnswering, {"qa_head": "conditional"}),
}


def make(case):
    model_class, settings = CASES[case]
    settings = dict(settings)
    implementation = settings.pop("implementation", "sdpa")
    return build(model_class, small_config("B1-1x2-1H32", **settings), implementation)


def tensors(model):
    ids, mask, segments = batch(13, [13, 1, 6])
    with torch.inference_mode():
        outputs = model(input_ids=ids, attention_mask=mask, token_type_ids=segments).values()
    return [tensor for tensor in outputs if isinstance(tensor, torch.Tensor)]


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_equal(case):
    model = make(case)
    expected = tensors(model)
    assert prepack(model) is model
    for found, wanted in zip(tensors(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_weight_is_there_once(case):
    model = make(case)
    numbers = sum(tensor.numel() for tensor in model.parameters())
    prepack(model)
    packed = [module for module in model.modules() if isinstance(module, PrepackedLinear)]
    assert sum(one.num_parameters for one in packed) > 0.3 * numbers
    assert model.num_parameters() == numbers
    left = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is nn.Linear}
    allowed = {"relative", "key"} if case == "ponet" else {"relative"}
    assert left <= allowed | {"decoder", "end_dense"}
    # The largest products of a layer at the least.
    assert all(
        isinstance(module, PrepackedLinear)
        for name, module in model.named_modules()
        if name.endswith(("feed_forward.expand", "feed_forward.contract", "mixer.output"))
    )


def test_the_activation_is_inside_the_product_where_it_can_be():
    for case, inside in (("paper", True), ("silu, which is not fused", False)):
        feed_forward = prepack(make(case)).encoder.blocks[0][0].feed_forward
        assert isinstance(feed_forward.activation, nn.Identity) == inside


@pytest.mark.parametrize("case", ["paper", "gelu", "relu"])
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_gelu_is_computed_where_it_is_faster(case, capability, monkeypatch):
    """Apart from the product in AVX2, with equal outputs."""
    expected = tensors(make(case))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model = prepack(make(case))
    calls = []
    compute = torch.ops.aten.gelu_
    monkeypatch.setattr(torch.ops.aten, "gelu_", lambda *a, **k: (calls.append(k), compute(*a, **k))[1])
    for found, wanted in zip(tensors(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert bool(calls) == (capability == "AVX2" and case != "relu")


@pytest.mark.parametrize("shape", [(0, 24), (2, 0, 24), (24,), (3, 4, 5, 24)])
def test_any_shape(shape):
    torch.manual_seed(0)
    linear = nn.Linear(24, 7)
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PrepackedLinear(linear)(x), linear(x))


def test_inputs_of_any_layout():
    torch.manual_seed(0)
    linear = nn.Linear(24, 7, bias=False)
    packed = PrepackedLinear(linear)
    with torch.inference_mode():
        for x in (torch.randn(24, 9).T, torch.randn(9, 48)[:, ::2], torch.randn(9, 1, 24).expand(9, 3, 24)):
            torch.testing.assert_close(packed(x), linear(x))


def test_a_model_of_transformers():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = BertModel(config).eval()
    ids, mask, _ = batch(9, [9, 4], vocab_size=50)
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask)
        found = prepack(model)(ids, attention_mask=mask)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output)
    assert not any(type(module) is nn.Linear for module in model.modules())


def test_within_a_compiled_model():
    torch.manual_seed(0)
    model = nn.Sequential(PrepackedLinear(nn.Linear(24, 24)), nn.LayerNorm(24)).eval()
    compiled = torch.compile(model, backend="aot_eager")
    with torch.inference_mode():
        for length in (3, 9):
            x = torch.randn(2, length, 24)
            torch.testing.assert_close(compiled(x), model(x))


def test_what_it_cannot_do_says_so(tmp_path):
    model = prepack(make("paper"))
    with pytest.raises(RuntimeError, match="cannot be saved"):
        model.save_pretrained(tmp_path / "out")
    with pytest.raises(RuntimeError, match="no gradients"):
        model(inputs_embeds=torch.randn(1, 5, 32, requires_grad=True))
    with pytest.raises(RuntimeError, match=r"stays torch\.float32 on the CPU, not torch\.float64"):
        model.double()
    assert ready(prepack(make("paper")).to("cpu").float(), "cpu").training is False
    with pytest.raises(ValueError, match="on the CPU"):
        prepack(make("paper").to("meta"))


HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.skipif(not HAS_BFLOAT16, reason="oneDNN has no bfloat16 here")
@pytest.mark.parametrize("case", ["paper", "ponet", "classes"])
def test_bfloat16(case):
    """As near to float32 as the plain model is: the activation is rounded once less."""
    exact = tensors(make(case))
    model = make(case).bfloat16()
    plain = tensors(model)
    prepack(model)
    assert any(isinstance(module, PrepackedLinear) for module in model.modules())
    assert model.bfloat16() is model
    for found, wanted, true in zip(tensors(model), plain, exact, strict=True):
        assert found.dtype == wanted.dtype
        if found.dtype != torch.bfloat16:  # masks
            continue
        error, usual = ((x.float() - true).pow(2).mean().sqrt() for x in (found, wanted))
        assert error < 1.2 * usual
        assert usual < 0.1 * true.std()


def test_other_dtypes_stay_as_they_are():
    model = make("paper").double()
    expected = tensors(model)
    assert all(
        torch.equal(found, wanted) for found, wanted in zip(tensors(prepack(model)), expected, strict=True)
    )


def test_without_onednn_it_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr("funnelformer.modeling.prepacked.logger.warning_once", said.append)
    model = prepack(make("paper"))
    assert not any(isinstance(module, PrepackedLinear) for module in model.modules())
    assert len(said) == 1
    assert "no oneDNN" in said[0]
