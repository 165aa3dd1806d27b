"""PoNet against the published code and a plain rendering of the paper, Fourier against transformers' FNet and the
definition, and what must hold for any mixer in any block."""

import importlib.util
import warnings

import numpy as np
import pytest
import torch

from checkpoints.encoders import save_stock
from funnelformer import (
    FunnelformerConfig,
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerModel,
)
from funnelformer.base.errors import UserError
from funnelformer.checkpoints.weights import read_state_dict
from funnelformer.mixers import TokenInputs
from funnelformer.mixers.ponet import Regions, find_regions
from funnelformer.mixers.sequence import SequenceState, start_state
from funnelformer.modeling.pooling import shorten
from golden_cases import golden_folders
from models import batch, build, small_config

CLS, SEP = 5, 6
SPECIAL = {"cls_token_id": CLS, "sep_token_id": SEP}
LAYOUTS = {
    "ponet": ("L2H32", {"mixer": "ponet", "position": "absolute", **SPECIAL}),
    "fourier": ("L2H32", {"mixer": "fourier", "position": "absolute", "project_embeddings": True}),
    "ponet funnel": ("B2-1x2H32", {"mixer": "ponet", **SPECIAL}),
    "chunks": ("B1-1H32", {"mixer": "ponet", "ponet_segments": "chunks", "ponet_num_segments": 3}),
    "fourier funnel": ("B2-1x2H32", {"mixer": "fourier", "pooling": "max"}),
    "hybrid": ("B1-1-1H32", {"mixer": ["ponet", "attention", "attention"], **SPECIAL}),
    "all": ("B1-2-1H32", {"mixer": ["fourier", "ponet", "attention"], "separate_cls": False, **SPECIAL}),
    "attention first": ("B1-1H32", {"mixer": ["attention", "ponet"], "pooling": "top", **SPECIAL}),
}
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def config_of(layout, **overrides):
    name, options = LAYOUTS[layout]
    return small_config(name, **{**options, **overrides})


def text(length, lengths):
    """A batch that begins with CLS, ends with SEP and has a SEP in its middle where it is long enough."""
    ids, mask, segments = batch(length, lengths)
    ids[(ids == CLS) | (ids == SEP)] = 9
    ids[:, 0] = CLS
    for row, n in enumerate(lengths):
        if n > 1:
            ids[row, n - 1] = SEP
        if n > 5:
            ids[row, n // 2] = SEP
    return ids, mask, segments


def find_segments(ids, keep, length, config):
    """The segments that a config finds, and a bound of their numbers."""
    state = start_state(length, keep, None, torch.device("cpu"))
    found = find_regions(state, TokenInputs(ids, None), config)
    return found.segments, found.num_segments


# ---- PoNet as published


@pytest.mark.parametrize("case", ["derived_masked", "explicit_masked", "derived_nomask"])
@pytest.mark.parametrize("path", golden_folders("ponet_"), ids=lambda path: path.name)
def test_ponet_equals_the_published_code(path, case):
    """Hidden states to 5e-5 (1.3e-5 measured), logits to 1e-4 (5.5e-5); they reach 60."""
    with np.load(path / "cases.npz") as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    arrays = {name.removeprefix(f"{case}/"): x for name, x in found.items() if name.startswith(f"{case}/")}
    model = FunnelformerForMaskedLM.from_pretrained(path).eval()
    assert model.config.ponet_special_apart == (path.name == "ponet_clsgsepg")
    with torch.no_grad():
        output = model(
            arrays["input_ids"],
            arrays.get("attention_mask"),
            arrays.get("token_type_ids"),
            labels=arrays["labels"],
            segment_ids=arrays["segment_ids"] if case == "explicit_masked" else None,
            output_hidden_states=True,
            output_attentions=True,
        )
    differences = {f"hidden_{i:02d}": (states, 5e-5) for i, states in enumerate(output.hidden_states)} | {
        "mlm_logits": (output.logits, 1e-4),
        "mlm_loss": (output.loss, 1e-4),
    }
    for i, weights in enumerate(output.attentions):
        differences[f"global_attention_{i:02d}"] = (weights[:, :, 0], 5e-6)
    stored = read_state_dict(path / "pytorch_model.bin")
    first = output.hidden_states[-1][:, 0]
    pooled = torch.tanh(first @ stored["ponet.pooler.dense.weight"].T + stored["ponet.pooler.dense.bias"])
    head = read_state_dict(path / "document_segmentation_head.pt")
    tokens = output.hidden_states[-1] @ head["classifier.weight"].T + head["classifier.bias"]
    differences |= {"pooled_output": (pooled, 5e-5), "docseg_logits": (tokens, 1e-4)}
    assert differences.keys() == {
        name
        for name in arrays
        if name.startswith(("hidden", "mlm", "global", "pooled")) or name == "docseg_logits"
    }
    for name, (ours, tolerance) in differences.items():
        torch.testing.assert_close(
            ours, arrays[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    if case != "explicit_masked":
        keep = arrays.get("attention_mask")
        segments, _ = find_segments(
            arrays["input_ids"], None if keep is None else keep.bool(), 24, model.config
        )
        theirs = arrays["segment_ids"]
        together, expected = (x[:, :, None] == x[:, None] for x in (segments, theirs))
        if keep is not None:
            real = keep.bool()[:, :, None] & keep.bool()[:, None]
            together, expected = together & real, expected & real
        assert torch.equal(together, expected)


def plain_ponet(mixer, hidden, keep, segments, special):
    """Equations 1 to 6 of the paper, token by token."""
    heads, size = mixer.per_head
    batch_size, length, _ = hidden.shape
    q, k, o, s, x = (getattr(mixer, name)(hidden) for name in ("query", "key", "gate", "segment", "local"))
    mixed = torch.zeros_like(o)
    for b in range(batch_size):
        real = [t for t in range(length) if keep[b, t]]
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            mean = torch.stack([q[b, t, part] for t in real]).mean(0)
            weights = torch.stack([mean @ k[b, t, part] for t in real]).div(size**0.5).softmax(0)
            value = sum(w * k[b, t, part] for w, t in zip(weights, real, strict=True))
            for t in real:
                own = [u for u in real if segments[b, u] == segments[b, t]]
                segment = torch.stack([s[b, u, part] for u in own]).amax(0)
                near = [u for u in real if abs(u - t) <= 1 and not special[b, u]]
                if special[b, t]:
                    mixed[b, t, part] = value * o[b, t, part]
                else:
                    local = torch.stack([x[b, u, part] for u in near]).amax(0)
                    mixed[b, t, part] = (value + segment) * o[b, t, part] + local
    return mixer.output(mixed)


@pytest.mark.parametrize("apart", [True, False])
def test_ponet_equals_the_equations_in_values_and_gradients(apart):
    """The projections that are never computed for every token change nothing (float64)."""
    config = small_config("L1H128", mixer="ponet", ponet_special_apart=apart, **SPECIAL)
    mixer = build(FunnelformerModel, config, dtype=torch.float64).encoder.blocks[0][0].mixer
    ids, mask, _ = text(12, [12, 8, 1])
    generator = torch.Generator().manual_seed(3)
    segments = torch.randint(4, ids.shape, generator=generator)
    special = (ids == CLS) | (ids == SEP)
    state = SequenceState(
        keep=mask.bool(),
        segments=None,
        positions=torch.arange(12)[None],
        span=12,
        counts=mask,
        extras={"ponet": Regions(segments, 12, special)},
    )
    results = []
    for run in (
        lambda x: mixer(x, x, mixer.prepare(state, state, config, x, False))[0],
        lambda x: plain_ponet(mixer, x, mask.bool(), segments, special & apart),
    ):
        mixer.zero_grad()
        hidden = torch.randn(3, 12, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        hidden.requires_grad_()
        output = run(hidden)
        output.sin().sum().backward()
        gradients = {name: p.grad.clone() for name, p in mixer.named_parameters()}
        results.append({"output": output.detach(), "input": hidden.grad, **gradients})
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, rtol=0, atol=1e-10, msg=name)


def test_segments_by_separators_sentences_and_chunks():
    config = small_config("L1H32", mixer="ponet", **SPECIAL)
    ids = torch.tensor([[CLS, 9, 9, 7, 8, SEP, 9, SEP, 0, 0]])
    found, slots = find_segments(ids, None, 10, config)
    assert found.tolist() == [[0, 1, 1, 1, 1, 2, 3, 4, 5, 5]]
    assert slots == 10
    sentences = small_config(
        "L1H32", mixer="ponet", ponet_segments="sentences", sentence_end_token_ids=[7, 8], **SPECIAL
    )
    found, _ = find_segments(ids, None, 10, sentences)
    assert found.tolist() == [[0, 1, 1, 1, 2, 3, 4, 5, 6, 6]]
    chunks = small_config("L1H32", mixer="ponet", ponet_segments="chunks", ponet_num_segments=3)
    found, slots = find_segments(None, None, 10, chunks)  # 10 // 3 + 1 = 4 tokens each
    assert (found.tolist(), slots) == ([[0, 0, 0, 0, 1, 1, 1, 1, 2, 2]], 4)
    keep = torch.arange(10)[None] < torch.tensor([[10], [4]])
    found, _ = find_segments(None, keep, 10, chunks)  # 4 // 3 + 1 = 2 tokens each
    assert found.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]]
    fixed = small_config("L1H32", mixer="ponet", ponet_segments="chunks", ponet_chunk_length=5)
    found, slots = find_segments(None, keep, 10, fixed)
    assert (found.tolist(), slots) == ([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]], 3)
    with pytest.raises(UserError, match=r"ponet_chunk_length is 0; allowed: a whole number, 1 or more"):
        small_config("L1H32", mixer="ponet", ponet_chunk_length=0)


def test_segments_across_a_pooling_step():
    """CLS | a b | c SEP | d e | SEP pad: a window of text and SEP is text, of its segment; SEP and padding is SEP."""
    config = small_config("B1-1H32", mixer="ponet", truncate_seq=False, **SPECIAL)
    state = SequenceState(
        keep=torch.tensor([[True] * 8 + [False]]),
        segments=None,
        positions=torch.arange(9)[None],
        span=9,
        counts=torch.tensor([[1] * 8 + [0]]),
        extras={
            "ponet": Regions(
                torch.tensor([[0, 1, 1, 2, 1, 3, 3, 4, 5]]),
                9,
                torch.tensor([[True, False, False, True, False, False, False, True, False]]),
            )
        },
    )
    pooled = shorten(torch.zeros(1, 9, 4), state, config)[1]
    assert pooled.keep.tolist() == [[True] * 5]
    regions = pooled.extras["ponet"]
    assert regions.special.tolist() == [[True, False, False, False, True]]
    assert regions.segments.tolist() == [[0, 1, 1, 3, 4]]


def test_what_ponet_needs_is_asked_for():
    model = build(FunnelformerModel, small_config("L1H32", mixer="ponet"))
    ids = torch.randint(5, 60, (1, 8))
    with pytest.raises(ValueError, match="needs input_ids, and cls_token_id and sep_token_id"):
        model(ids)
    assert model(ids, segment_ids=torch.zeros_like(ids)).last_hidden_state.isfinite().all()
    plain = build(FunnelformerModel, small_config("L1H32"))
    with pytest.raises(ValueError, match="segment_ids are PoNet's"):
        plain(ids, segment_ids=torch.zeros_like(ids))
    with pytest.raises(UserError, match='pooling="top" needs mixer "attention"'):
        small_config("B1-1H32", mixer=["ponet", "attention"], pooling="top")
    with pytest.raises(UserError, match="needs sentence_end_token_ids"):
        small_config("L1H32", mixer="ponet", ponet_segments="sentences")


def test_segment_ids_that_would_be_of_another_sequence():
    model = build(FunnelformerModel, small_config("L1H32", mixer="ponet"))
    ids, mask, _ = text(6, [6, 4])
    for wrong in (6, -1):
        segments = torch.zeros_like(ids)
        segments[0, 3] = wrong
        with pytest.raises(ValueError, match=f"segment_ids has {wrong} at a real token; allowed: 0 to 5"):
            model(ids, mask, segment_ids=segments)
    expected = model(ids, mask, segment_ids=torch.zeros_like(ids)).last_hidden_state[mask.bool()]
    segments = torch.where(mask.bool(), 0, 99)
    assert torch.equal(model(ids, mask, segment_ids=segments).last_hidden_state[mask.bool()], expected)


# ---- Fourier


def test_fourier_equals_transformers_fnet(tmp_path):
    """All hidden states and the masked-LM logits of a random model (2e-6 measured on states up to 4)."""
    theirs = save_stock(tmp_path, "fnet", "masked_lm")
    ours = FunnelformerForMaskedLM.from_pretrained(tmp_path).eval()
    for length in (1, 2, 17, 40):
        ids, _, segments = batch(length, [length] * 3, vocab_size=50)
        segments = segments.clamp(max=1)
        with torch.no_grad():
            expected = theirs(ids, token_type_ids=segments, output_hidden_states=True)
            found = ours(ids, token_type_ids=segments, output_hidden_states=True)
        for a, b in zip(found.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("length", "lengths"), [(1, [1]), (2, [2, 1]), (24, [24, 17, 16, 5, 1])])
def test_fourier_of_padded_sequences_equals_the_definition(length, lengths):
    """cos(2 pi (jk/n + ce/d)) summed, n each sequence's own length; 0 at padding (float64)."""
    config = small_config("L1H32", mixer="fourier")
    mixer = build(FunnelformerModel, config, dtype=torch.float64).encoder.blocks[0][0].mixer
    hidden = torch.randn(len(lengths), length, 32, dtype=torch.float64)
    keep = torch.arange(length)[None] < torch.tensor(lengths)[:, None]
    state = start_state(length, keep, None, keep.device)
    hidden = hidden.masked_fill(~keep[..., None], 3.0)
    found = mixer(hidden, hidden, mixer.prepare(state, state, config, hidden, False))[0]
    for row, n in enumerate(lengths):
        j, c = torch.arange(n, dtype=torch.float64), torch.arange(32, dtype=torch.float64)
        time = j[:, None, None, None] * j[:, None] / n
        angle = time + c[:, None, None] * c / 32
        expected = torch.einsum("kejc,jc->ke", torch.cos(2 * torch.pi * angle), hidden[row, :n])
        torch.testing.assert_close(found[row, :n], expected, rtol=0, atol=1e-9)
        assert not found[row, n:].any()


# ---- any mixer in any block


@EVERY_LAYOUT
def test_exact_padding_makes_a_sequence_independent_of_its_batch(layout):
    """Alone, padded to any length, on either side: the same states (float64, 1e-6 allowed)."""
    model = build(FunnelformerModel, config_of(layout), dtype=torch.float64)
    for length in (1, 2, 3, 4, 7, 12):
        inputs = text(length, [length])
        alone = model(*inputs)
        num_pooled = alone.encoder_last_hidden_state.size(1)
        unmasked = model(inputs[0], token_type_ids=inputs[2])
        torch.testing.assert_close(alone.last_hidden_state, unmasked.last_hidden_state, rtol=0, atol=1e-6)
        for left, right in ((0, 1), (1, 0), (0, 5), (3, 6)):
            padded = [torch.nn.functional.pad(x, (left, right)) for x in inputs]
            padded[0][padded[1] == 0] = SEP
            longest = left + length + right
            other = text(longest, [longest])
            together = model(*(torch.cat([o, p]) for o, p in zip(other, padded, strict=True)))
            row = together.last_hidden_state[1, left : left + length]
            torch.testing.assert_close(row, alone.last_hidden_state[0], rtol=0, atol=1e-6)
            row = together.encoder_last_hidden_state[1, :num_pooled]
            if model.config.num_blocks == 1:
                row = together.encoder_last_hidden_state[1, left : left + length]
            torch.testing.assert_close(row, alone.encoder_last_hidden_state[0], rtol=0, atol=1e-6)


@EVERY_LAYOUT
def test_gradients_reach_every_parameter(layout):
    config = config_of(layout)
    model = build(FunnelformerForMaskedLM, config).train()
    inputs = text(16, [16, 9])
    labels = inputs[0].masked_fill(inputs[1] == 0, -100)
    model(*inputs, labels=labels).loss.backward()
    # The key's bias adds the same to every score of PoNet's softmax, but also to its value; so nothing is left out.
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@EVERY_LAYOUT
def test_bfloat16_is_near(layout):
    """Each hidden state, as a whole: 8 bits of mantissa through a few layers."""
    inputs = text(16, [16, 9])
    low, high = (
        build(FunnelformerModel, config_of(layout), dtype=dtype)(*inputs).last_hidden_state
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert low.dtype == torch.bfloat16
    assert (low.float() - high).norm() / high.norm() < 0.06


@EVERY_LAYOUT
def test_save_and_load_are_bit_exact(layout, tmp_path):
    model = build(FunnelformerForSequenceClassification, config_of(layout, num_labels=3))
    model.save_pretrained(tmp_path)
    loaded = FunnelformerForSequenceClassification.from_pretrained(tmp_path).eval()
    inputs = text(13, [13, 4])
    assert torch.equal(loaded(*inputs).logits, model(*inputs).logits)
    assert loaded.config.name == model.config.name


def test_attention_weights_of_a_hybrid():
    """PoNet's are one row a head, of the global aggregation; Fourier has none."""
    config = config_of("all", decoder_layers=0)
    output = build(FunnelformerModel, config, "eager")(*text(16, [16, 9]), output_attentions=True)
    assert [tuple(weights.shape[1:]) for weights in output.attentions] == [(1, 1, 8), (1, 1, 8), (1, 4, 8)]
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize(
    ("preset", "name", "millions"),
    [
        ("PoNet-base", "L12H768 (ponet)", 123.1),
        ("FNet-base", "L12H768 (fourier)", 81.1),
        ("Hybrid-4-4-4H768", "B4-4-4H768 (ponet-attention-attention)", 134.5),
    ],
)
def test_presets(preset, name, millions):
    """Per layer 14 D^2 for PoNet (of it 6 for mixing), 8 for Fourier, 13 for attention; the decoder is PoNet's."""
    config = FunnelformerConfig.from_name(preset)
    assert config.name == name
    with torch.device("meta"):
        model = FunnelformerModel(config)
    assert round(model.num_parameters() / 1e6, 1) == millions


def test_importing_ponet_changes_no_warning_filter():
    """And its call that torch calls beta warns of nothing: here every warning is an error."""
    spec = importlib.util.find_spec("funnelformer.mixers.ponet")
    before = list(warnings.filters)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert warnings.filters == before
