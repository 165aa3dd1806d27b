"""Packed rows and batches without their padding have the states, weights and gradients of padded batches."""

import pytest
import torch

from funnelformer import (
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
    FunnelformerModel,
)
from funnelformer.base.errors import UserError
from funnelformer.mixers.sequence import pack, packed, padded
from models import batch, build, enable_checkpointing, small_config

LENGTHS = [11, 1, 4, 2, 3, 6]
CLS, SEP = 5, 6
SPECIAL = {"cls_token_id": CLS, "sep_token_id": SEP}
OPTIONS = {
    "paper": {},
    "all pooled": {"pooling": "max", "pool_q_only": False},
    "no cls apart": {"separate_cls": False, "truncate_seq": False},
    "top": {"pooling": "top"},
    "eager": {"implementation": "eager", "truncate_seq": False},
    "absolute": {"position": "absolute"},
    "ponet": {"mixer": "ponet", **SPECIAL},
    "chunks": {
        "mixer": ["ponet", "attention", "attention"],
        "ponet_segments": "chunks",
        "ponet_num_segments": 3,
    },
    "fourier": {"mixer": ["fourier", "fourier", "attention"]},
    "flat": {"name": "L2H32"},
}
EVERY = pytest.mark.parametrize("case", OPTIONS)


def make(model_class, case, **overrides):
    options = {"name": "B1-1x2-1H32", "implementation": "sdpa", **OPTIONS[case], **overrides}
    name, implementation = options.pop("name"), options.pop("implementation")
    return build(model_class, small_config(name, num_labels=3, **options), implementation, torch.float64)


def sentences():
    """A padded batch, and the same in one row: ids, segments, positions."""
    ids, mask, segments = batch(max(LENGTHS), LENGTHS)
    ids[:, 0] = CLS
    ids[[0, 5], [4, 5]] = SEP
    real = mask.bool()
    positions = torch.arange(ids.size(1)).expand_as(ids)
    row = {
        "input_ids": ids[real][None],
        "token_type_ids": segments[real][None],
        "position_ids": positions[real][None],
    }
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}, row


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@EVERY
def test_packed_rows_and_unpadded_batches_equal_the_padded_batch(case):
    """Every hidden state, the pooled tokens and all gradients, in float64 to 1e-10."""
    model = make(FunnelformerModel, case)
    given, row = sentences()
    real = given["attention_mask"].bool()
    weight = torch.randn(real.sum(), 32, dtype=torch.float64)
    expected = model(**given, output_hidden_states=True)
    (expected.last_hidden_state[real] * weight).sum().backward()
    expected_gradients = gradients(model)

    in_row = model(**row, output_hidden_states=True)
    assert in_row.last_hidden_state.shape == (1, sum(LENGTHS), 32)
    torch.testing.assert_close(
        in_row.last_hidden_state[0], expected.last_hidden_state[real], rtol=0, atol=1e-10
    )
    (in_row.last_hidden_state[0] * weight).sum().backward()
    assert_same_gradients(gradients(model), expected_gradients)
    kept = real if expected.encoder_attention_mask is None else expected.encoder_attention_mask.bool()
    pooled = expected.encoder_last_hidden_state[kept]
    torch.testing.assert_close(in_row.encoder_last_hidden_state[0], pooled, rtol=0, atol=1e-10)
    starts = (in_row.encoder_position_ids[0] == 0).nonzero()[:, 0]
    assert starts.tolist() == [0, *kept.sum(1).cumsum(0)[:-1].tolist()]

    model.config.unpad = True
    alone = model(**given, output_hidden_states=True)
    torch.testing.assert_close(alone.last_hidden_state[real], in_row.last_hidden_state[0], rtol=0, atol=0)
    assert not alone.last_hidden_state[~real].any()
    (alone.last_hidden_state[real] * weight).sum().backward()
    assert_same_gradients(gradients(model), expected_gradients)
    for states, plain, rows in zip(
        alone.hidden_states, expected.hidden_states, in_row.hidden_states, strict=True
    ):
        mask = states.abs().sum(-1) > 0  # of the real tokens; the rest are zeros
        assert states.size(1) < 11 or mask.sum() == sum(LENGTHS)
        torch.testing.assert_close(states[mask], plain[mask], rtol=0, atol=1e-10)
        torch.testing.assert_close(rows, states, rtol=0, atol=0)


@EVERY
@pytest.mark.parametrize("reads", ["cls", "mean"])
def test_the_classifier_reads_each_packed_sequence(case, reads):
    model = make(FunnelformerForSequenceClassification, case, classifier_pooling=reads)
    given, row = sentences()
    labels = torch.arange(len(LENGTHS)) % 3
    results = []
    for inputs, unpad in ((given, False), (row, False), (given, True)):
        model.config.unpad = unpad
        output = model(**inputs, labels=labels)
        output.loss.backward()
        results.append((output, gradients(model)))
    (expected, expected_gradients), *others = results
    for output, found in others:
        torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-10)
        assert_same_gradients(found, expected_gradients)


@pytest.mark.parametrize("model_class", [FunnelformerForMaskedLM, FunnelformerForTokenClassification])
def test_heads_of_tokens_in_several_packed_rows(model_class):
    """Two rows of 12 and 12 tokens, no sequence across their border; padding on the left in the padded batch."""
    model = make(model_class, "paper").train()
    lengths = [7, 5, 12]
    ids, mask, segments = batch(12, lengths)
    real = mask.bool()
    positions = torch.arange(12).expand_as(ids)
    row = {
        "input_ids": ids[real].view(2, 12),
        "token_type_ids": segments[real].view(2, 12),
        "position_ids": positions[real].view(2, 12),
        "labels": (ids[real] % 3).view(2, 12),
    }
    turn = (torch.arange(12)[None] + torch.tensor(lengths)[:, None]) % 12
    columns = (ids, mask, segments, (ids % 3).masked_fill(~real, -100))
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    left = {name: x.gather(1, turn) for name, x in zip(names, columns, strict=True)}
    results = []
    for inputs, unpad in ((left, False), (row, False), (left, True)):
        model.config.unpad = unpad
        output = model(**inputs)
        logits = output.logits[left["attention_mask"].bool() if inputs is left else slice(None)].flatten(
            0, -2
        )
        (logits * torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)).sum().backward()
        results.append((logits, output.loss, gradients(model)))
    (logits, loss, expected), *others = results
    for other_logits, other_loss, found in others:
        torch.testing.assert_close(other_logits, logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(other_loss, loss, rtol=0, atol=1e-6)  # transformers takes it in float32
        assert_same_gradients(found, expected)


def test_weights_of_packed_sequences_are_apart():
    model = make(FunnelformerModel, "paper")
    given, row = sentences()
    expected, found = (model(**inputs, output_attentions=True).attentions for inputs in (given, row))
    for plain, weights in zip(expected, found, strict=True):
        torch.testing.assert_close(weights[0], plain[0], rtol=0, atol=1e-10)
        assert weights.shape == plain.shape


def test_gradient_checkpointing_of_packed_rows():
    _, row = sentences()
    results = []
    for checkpointing in (False, True):
        model = make(FunnelformerModel, "paper").train()
        if checkpointing:
            enable_checkpointing(model)
        model(**row).last_hidden_state.square().sum().backward()
        results.append(gradients(model))
    assert_same_gradients(results[1], results[0])


def test_linear_layers_see_no_padding():
    """Of 66 places 27 hold a token; after one pooling step 16 of 36, after two 12 of 18."""
    model = make(FunnelformerModel, "paper", decoder_layers=0)
    given, _ = sentences()
    seen = []
    for block in model.encoder.blocks:
        block[0].feed_forward.expand.register_forward_hook(
            lambda _, args, __: seen.append(args[0][..., 0].numel())
        )
    model(**given)
    model.config.unpad = True
    model(**given)
    assert seen == [66, 36, 36, 18, 27, 16, 16, 12]  # the layer of the second block is applied twice


def test_packing_and_back_by_hand():
    keep = torch.tensor([[True, True, False], [True, False, False]])
    packing = pack(keep)
    assert packing.places.tolist() == [0, 1, 3]
    x = torch.arange(6).view(2, 3)
    row = packed(x, packing)
    assert row.tolist() == [[0, 1, 3]]
    assert padded(row + 1, packing).tolist() == [[1, 2, 0], [4, 0, 0]]
    assert packed(x, None) is x


def test_positions_that_pack_nothing_are_refused():
    model = make(FunnelformerModel, "paper")
    ids = torch.randint(7, 60, (1, 5))
    for wrong in ([[1, 2, 3, 4, 5]], [[1, 2, 0, 1, 2]], [[0, 1, 0, 2, 3]], [[0, 2, 3, 4, 5]]):
        with pytest.raises(ValueError, match="must count 0, 1, 2"):
            model(ids, position_ids=torch.tensor(wrong))
    with pytest.raises(ValueError, match="packed rows have no attention_mask"):
        model(ids, torch.ones_like(ids), position_ids=torch.arange(5)[None])
    with pytest.raises(UserError, match='unpad needs padding "exact"'):
        small_config(unpad=True, padding="original")
    with pytest.raises(UserError, match="unpad and hide_mask_tokens exclude each other"):
        small_config(unpad=True, hide_mask_tokens=True, mask_token_id=4)
