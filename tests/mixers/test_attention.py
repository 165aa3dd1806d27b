"""Attention in pieces equals attention at once, in values and gradients; what is kept is never stale."""

import pytest
import torch

from funnelformer import FunnelformerForSequenceClassification, FunnelformerModel
from funnelformer.base.errors import UserError
from funnelformer.mixers import attention, products
from funnelformer.mixers.attention import onednn, operator, pieces, sdpa
from funnelformer.mixers.attention.dropout import drop
from funnelformer.modeling import encoder, fix_tables
from models import batch, build, small_config

OPTIONS = [{}, {"separate_cls": False, "truncate_seq": False}, {"pool_q_only": False, "pooling": "max"}]
PIECES = [(1, 1), (1, 5), (4000, 7), (1 << 30, 4)]


def outputs_and_gradients(model, inputs):
    model.zero_grad()
    hidden = model(*inputs).last_hidden_state
    hidden.square().sum().backward()
    return hidden.detach(), [
        parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("piece_bytes", "rows"), PIECES)
def test_pieces_equal_the_reference(options, recompute, piece_bytes, rows, monkeypatch):
    """In float64, with padding and segments, and pieces of one row to all rows."""
    config = small_config("B2-1-1H32", **options)
    inputs = batch(23, [23, 14, 9])
    eager = build(FunnelformerModel, config, "eager").double().train()
    expected, expected_gradients = outputs_and_gradients(eager, inputs)
    monkeypatch.setattr(pieces, "_CPU_PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(pieces, "_CPU_ROWS", rows)
    monkeypatch.setattr(sdpa, "LAYER_BYTES", 1 if recompute else 1 << 40)
    seen = []
    attend_piece = sdpa._attend_piece
    monkeypatch.setattr(sdpa, "_attend_piece", lambda *a: (seen.append(a[-1]), attend_piece(*a))[1])
    model = build(FunnelformerModel, config, "sdpa").double().train()
    hidden, gradients = outputs_and_gradients(model, inputs)
    assert max(piece.stop - piece.start for piece in seen) == min(rows, 23)
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-11)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("piece_bytes", "rows"), PIECES)
def test_the_operator_of_graphs_equals_the_reference(options, piece_bytes, rows, monkeypatch):
    """In float64, called as no graph is made."""
    config = small_config("B2-1-1H32", **options)
    inputs = batch(23, [23, 14, 9])
    eager = build(FunnelformerModel, config, "eager", torch.float64)
    model = build(FunnelformerModel, config, "sdpa", torch.float64)
    monkeypatch.setattr(pieces, "_CPU_PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(pieces, "_CPU_ROWS", rows)
    calls = []
    monkeypatch.setattr(operator, "is_wanted", lambda *a: calls.append(a) or True)
    with torch.no_grad():
        hidden, expected = (each(*inputs).last_hidden_state for each in (model, eager))
    assert calls
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-11)


@pytest.mark.skipif(
    not products._has_kernels(), reason="this PyTorch has no oneDNN, or this is no x86 processor"
)
@pytest.mark.parametrize("options", [*OPTIONS, {"unpad": True}], ids=str)
@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("is_fixed", [False, True])
def test_products_by_onednn_equal_the_reference(options, rows, is_fixed, monkeypatch):
    """With padding and segments, against float64; differences measured up to 1.0e-6."""
    config = small_config("B2-1-1H32", **options)
    inputs = batch(23, [23, 14, 9])
    expected = states(build(FunnelformerModel, config, "eager", torch.float64), inputs)
    monkeypatch.setattr(onednn, "_LEAST_SCORES", 1)
    monkeypatch.setattr(onednn, "_ROWS", rows)
    model = build(FunnelformerModel, config, "sdpa")
    if is_fixed:
        fix_tables(model)
    calls, multiply = [], onednn.multiply
    monkeypatch.setattr(onednn, "multiply", lambda *a: (calls.append(a), multiply(*a))[1])
    monkeypatch.setattr(sdpa, "_attend_piece", None)
    for _ in range(2):
        torch.testing.assert_close(states(model, inputs).double(), expected, rtol=0, atol=1e-5)
    assert max(len(x) for x, *_ in calls) == min(rows, 23)
    calls.clear()
    monkeypatch.undo()
    states(model, inputs)
    assert not calls


def test_where_onednn_multiplies():
    x = torch.zeros(2, 3)
    assert not products.can_multiply(x)  # gradients
    with torch.no_grad():
        assert products.can_multiply(x) == products._has_kernels()
        assert not products.can_multiply(x.double())
        assert not products.can_multiply(x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not products.can_multiply(x)


@pytest.mark.skipif(
    not products._has_kernels(), reason="this PyTorch has no oneDNN, or this is no x86 processor"
)
def test_rows_of_any_layout_are_multiplied():
    x, whole = torch.randn(5, 8), torch.randn(7, 16)
    with torch.inference_mode():
        for rows in (whole[:, :8], whole[:, ::2], torch.randn(8, 7).T, torch.randn(8, 14).T[::2]):
            torch.testing.assert_close(products.multiply(x, rows), x @ rows.T)
            bias = torch.randn(len(rows))
            torch.testing.assert_close(products.multiply(x, rows, bias), x @ rows.T + bias)


def test_recomputing_holds_less_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(pieces, "_CPU_ROWS", 64)
    config = small_config("L2H32")
    model = build(FunnelformerModel, config, "sdpa").train()
    held = []
    for limit in (1 << 40, 1):
        monkeypatch.setattr(sdpa, "LAYER_BYTES", limit)
        sizes = {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.randint(7, 50, (1, 256))).last_hidden_state.sum().backward()
        held.append(sum(sizes.values()))
    weights_of_all_layers = 2 * config.num_attention_heads * 256 * 256 * 4
    assert held[0] - held[1] >= weights_of_all_layers


def states(model, inputs):
    with torch.no_grad():
        return model(*inputs).last_hidden_state


def test_a_fixed_table_serves_shorter_inputs():
    model = build(FunnelformerModel, small_config("B1-1H32"), "sdpa", torch.float64)
    layer = model.encoder.blocks[0][0].mixer
    long, short = batch(31, [31, 20]), batch(12, [12, 7])
    expected = states(model, short)
    assert layer._kept is None
    fix_tables(model)
    states(model, long)
    table = layer._kept[2]
    torch.testing.assert_close(states(model, short), expected, rtol=0, atol=1e-11)
    assert layer._kept[2] is table
    with pytest.raises(RuntimeError, match="cannot be saved"):
        model.state_dict()
    with pytest.raises(RuntimeError, match=r"stays torch.float64 on cpu, not torch.float32"):
        model.float()
    assert model.num_parameters() == build(FunnelformerModel, small_config("B1-1H32")).num_parameters()


DISTANCES = [{}, {"separate_cls": False}, {"pool_q_only": False, "truncate_seq": False}, {"pooling": "top"}]


@pytest.mark.parametrize("options", DISTANCES, ids=str)
def test_half_of_the_distances_give_the_others(options, monkeypatch):
    """The table from the distances 0 and below is that of the module on every distance, of any of the heads."""
    model = build(FunnelformerModel, small_config("B1-1-1H32", **options), "sdpa", torch.float64)
    seen = []
    compute = attention.Attention.distance_table

    def table(layer, inputs, heads=slice(None)):
        found = compute(layer, inputs, heads)
        distances = inputs.farthest - inputs.unit * torch.arange(inputs.num_rows, dtype=torch.float64)
        angles = distances[:, None] * 10000 ** (-torch.arange(16, dtype=torch.float64) / 16)
        all_of_them = torch.cat([angles.sin(), angles.cos()], dim=-1)
        torch.testing.assert_close(inputs.all_sinusoids(), all_of_them, rtol=0, atol=1e-12)
        whole = (all_of_them @ layer.relative.weight.T).unflatten(-1, layer.per_head).permute(1, 2, 0)
        torch.testing.assert_close(found, whole[heads], rtol=0, atol=1e-12)
        torch.testing.assert_close(compute(layer, inputs, slice(1, 2)), whole[1:2], rtol=0, atol=1e-12)
        seen.append(inputs.num_rows)
        return found

    monkeypatch.setattr(attention.Attention, "distance_table", table)
    states(model, batch(13, [13, 9]))
    assert len(set(seen)) >= 2


def test_at_inference_only_the_distances_of_a_piece_are_there(monkeypatch):
    """Of two heads, where a piece has two; with a call of the module's own to be made, of all."""
    config = small_config("L1H32", num_attention_heads=8, head_size=4)
    model = build(FunnelformerModel, config, "sdpa", torch.float64)
    inputs = batch(23, [23, 14])
    expected = states(model, inputs)
    monkeypatch.setattr(pieces, "_CPU_PIECE_BYTES", 1)
    layer = model.encoder.blocks[0][0].mixer
    compute, seen = layer.distance_table, []
    monkeypatch.setattr(
        layer, "distance_table", lambda *args: (seen.append(compute(*args)), seen[-1])[1], raising=False
    )
    torch.testing.assert_close(states(model, inputs), expected, rtol=0, atol=1e-11)
    assert [len(table) for table in seen] == [2, 2, 2, 2]
    seen.clear()
    layer.relative.register_forward_pre_hook(lambda *args: None)
    torch.testing.assert_close(states(model, inputs), expected, rtol=0, atol=1e-11)
    assert [len(table) for table in seen] == [8]


def test_a_table_too_long_to_keep_is_not_kept(monkeypatch):
    model = fix_tables(build(FunnelformerModel, small_config("L1H32"), "sdpa", torch.float64))
    layer = model.encoder.blocks[0][0].mixer
    inputs = batch(23, [23, 14])
    rows = 23 + 23 + 1 - 1  # as many distances, and one row more
    width = layer.query.out_features * 8
    monkeypatch.setattr(attention, "_KEPT_BYTES", rows * width - 1)
    expected = states(model, inputs)
    assert layer._kept is None
    monkeypatch.setattr(attention, "_KEPT_BYTES", rows * width)
    torch.testing.assert_close(states(model, inputs), expected, rtol=0, atol=1e-11)
    assert layer._kept[2].size(-1) == rows


@pytest.mark.parametrize("is_packed", [False, True])
def test_many_tokens_go_through_the_feed_forward_in_pieces(is_packed, monkeypatch):
    model = build(FunnelformerModel, small_config("B1-1H32", unpad=is_packed), "sdpa", torch.float64)
    inputs = batch(23, [23, 14])
    expected = states(model, inputs)
    rows = []
    expand = model.encoder.blocks[0][0].feed_forward.expand
    expand.register_forward_pre_hook(lambda module, args: rows.append(args[0].numel() // 32))
    monkeypatch.setattr(encoder, "_PIECE_ROWS", 10)
    torch.testing.assert_close(states(model, inputs), expected, rtol=0, atol=1e-12)
    assert rows == ([10, 10, 10, 7] if is_packed else [10, 10, 10, 10, 6])
    rows.clear()
    model.train()(*inputs)
    assert rows == [37 if is_packed else 46]


def test_weights_that_are_written_without_a_trace_count_at_once():
    """Neither a pointer nor a version tells of a write through `.data`, as an average of weights is copied in."""
    model = build(FunnelformerModel, small_config("B1-1H32"), "sdpa", torch.float64)
    inputs = batch(12, [12, 7])
    before = states(model, inputs)
    weight = model.encoder.blocks[0][0].mixer.relative.weight
    weight.data.mul_(2)
    found = states(model, inputs)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(found, states(model, inputs), rtol=0, atol=1e-11)
    assert (found - before).abs().max() > 1e-3


class Adapter(torch.nn.Module):
    """A low-rank change of a linear layer that can be switched off, as LoRA's."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.is_on = linear, True
        self.weight = linear.weight
        self.change = torch.nn.Parameter(torch.randn_like(linear.weight))

    def forward(self, x):
        return self.linear(x) + (x @ self.change.T if self.is_on else 0)


@pytest.mark.parametrize("is_exported", [False, True])
def test_an_adapter_in_place_of_the_relative_projection_is_called(is_exported, monkeypatch):
    """Also where a graph is made, which reads the weight of the plain projection."""
    model = build(FunnelformerModel, small_config("B1-1H32"), "sdpa", torch.float64)
    for block in model.encoder.blocks:
        block[0].mixer.relative = Adapter(block[0].mixer.relative)
    fix_tables(model)
    inputs = batch(12, [12, 7])
    if is_exported:
        monkeypatch.setattr(operator, "is_wanted", lambda *args: True)
    found = []
    for is_on in (True, False):
        for block in model.encoder.blocks:
            block[0].mixer.relative.is_on = is_on
        model.set_attn_implementation("sdpa")
        found.append(states(model, inputs))
        model.set_attn_implementation("eager")
        torch.testing.assert_close(found[-1], states(model, inputs), rtol=0, atol=1e-10)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"position": "absolute"}, "relative positions, and the model's are absolute"),
        ({"pooling": "top"}, "tokens at equal distances, and pooling is 'top'"),
    ],
)
def test_an_implementation_that_cannot_serve_is_refused(options, problem):
    """When the model is made, when it is switched, and when only the config was changed."""
    message = f"^attn_implementation='triton' needs {problem}; 'sdpa' does not$"
    config = small_config("B1-1H32", **options)
    with pytest.raises(UserError, match=message):
        build(FunnelformerModel, config, "triton")
    model = build(FunnelformerModel, config)
    with pytest.raises(UserError, match=message):
        model.set_attn_implementation("triton")
    model.config._attn_implementation = "triton"
    with pytest.raises(UserError, match=message):
        model(*batch(5, [5]))


def test_the_implementation_is_chosen_by_name(tmp_path):
    build(FunnelformerForSequenceClassification, small_config()).save_pretrained(tmp_path)
    load = FunnelformerForSequenceClassification.from_pretrained
    assert load(tmp_path, attn_implementation="eager").config._attn_implementation == "eager"
    model = load(tmp_path)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    with pytest.raises(
        UserError, match=r"attn_implementation is 'egaer'; allowed: eager, sdpa, triton.*did you mean 'eager'"
    ):
        load(tmp_path, attn_implementation="egaer")


def test_what_computes_is_logged_once(monkeypatch):
    said = []
    monkeypatch.setattr(attention.logger, "info", lambda text, *args: said.append(text % args))
    monkeypatch.setattr(attention.logger, "warning", said.append)
    attention._log_choice.cache_clear()
    model = build(FunnelformerModel, small_config("B1-1H32"))
    for _ in range(2):
        model(*batch(5, [5]))
    assert said == ["attention is computed by 'sdpa' on cpu"]
    attention._log_choice("triton", "cuda")
    assert "'triton' is experimental: no GPU has run it yet" in said[-1]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.003])
def test_dropout_of_weights(probability):
    """Rate of zeros and of neighbours that are both zero within five standard deviations; the rest is scaled up."""
    torch.manual_seed(0)
    weights = torch.rand(1000, 1001, requires_grad=True)
    dropped = drop(weights, probability)
    is_zero = (dropped == 0).double()
    number = weights.numel()
    for zeros, rate in ((is_zero, probability), (is_zero[:, 1:] * is_zero[:, :-1], probability**2)):
        assert abs(zeros.mean() - rate) < 5 * (rate * (1 - rate) / number) ** 0.5 + 2**-16
    scale = (dropped / weights)[dropped != 0]
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / (1 - probability)), rtol=2e-5, atol=0)
    dropped.sum().backward()
    torch.testing.assert_close(weights.grad, (dropped / weights).detach(), rtol=1e-5, atol=0)
    torch.manual_seed(0)
    torch.rand(1000, 1001)
    assert torch.equal(drop(weights, probability), dropped)
    assert drop(weights, 1.0).abs().sum() == 0
    assert drop(weights, 0.0) is weights


def test_implementations_drop_the_same_weights(monkeypatch):
    """With one seed, where all rows are one piece, in values and gradients."""
    monkeypatch.setattr(pieces, "_CPU_PIECE_BYTES", 1 << 30)
    config = small_config("B2-1-1H32", attention_dropout=0.3, hidden_dropout=0.1)
    inputs = batch(23, [23, 14, 9])
    found = []
    for name in ("eager", "sdpa"):
        model = build(FunnelformerModel, config, name).double().train()
        torch.manual_seed(5)
        found.append(outputs_and_gradients(model, inputs))
    (expected, expected_gradients), (hidden, gradients) = found
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-11)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
