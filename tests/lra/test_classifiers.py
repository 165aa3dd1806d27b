"""The models of the recipes: their configs, padding that does not matter, the pair classifier's equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from funnelformer import FunnelformerForSequenceClassification
from funnelformer.base.errors import UserError
from funnelformer.lra.arena_tasks import TASKS
from funnelformer.lra.classifiers import MODELS, TwoTowerClassifier, build_config, build_model
from funnelformer.lra.sequences import Examples, Sequences, collate
from models import spread


def build(task, name, length=32, **settings):
    config = build_config(TASKS[task], name, length, settings)
    model = build_model(TASKS[task], config)
    spread(model)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "blocks", "mixers", "position"),
    [
        ("transformer", [2], ["attention"], "absolute"),
        ("ponet", [2], ["ponet"], "absolute"),
        ("fnet", [2], ["fourier"], "absolute"),
        ("funnel", [1, 1], ["attention", "attention"], "relative"),
        ("hybrid", [1, 1], ["ponet", "attention"], "relative"),
        ("B1-1-1H64", [1, 1, 1], ["attention"] * 3, "relative"),
        ("L3H64", [3], ["attention"], "absolute"),
    ],
)
def test_configs(name, blocks, mixers, position):
    config = build_config(TASKS["text"], name, 4000, {})
    assert (config.blocks, config.block_mixers, config.position) == (blocks, mixers, position)
    assert (config.hidden_size, config.num_attention_heads, config.head_size) == (64, 2, 32)
    assert (config.intermediate_size, config.hidden_dropout, config.classifier_pooling) == (128, 0.1, "mean")
    assert (config.vocab_size, config.num_labels, config.max_position_embeddings) == (257, 2, 4000)
    assert (config.ponet_segments, config.ponet_num_segments) == ("chunks", 2048)
    assert config.ponet_chunk_length == 2  # 4000 // 2048 + 1
    assert (config.separate_cls, config.decoder_layers) == (False, 0)


def test_settings_win():
    config = build_config(TASKS["listops"], "ponet", 64, {"hidden_dropout": 0.0, "ponet_num_segments": 3})
    assert (config.hidden_dropout, config.ponet_num_segments, config.num_labels) == (0.0, 3, 10)
    assert config.ponet_chunk_length == 22  # 64 // 3 + 1
    assert build_config(TASKS["listops"], "ponet", 64, {"ponet_chunk_length": 7}).ponet_chunk_length == 7


def test_presets_keep_their_sizes():
    for name, sizes in (("PoNet-base", (12, 64, 3072)), ("L12H768", (24, 32, 1536))):
        config = build_config(TASKS["listops"], name, 64, {})
        assert (config.num_attention_heads, config.head_size, config.intermediate_size) == sizes


@pytest.mark.parametrize(
    ("name", "message"),
    [("pnet", "did you mean 'ponet'?"), ("B1-H64", "transformer, ponet, fnet, funnel, hybrid")],
)
def test_unknown_models(name, message):
    with pytest.raises(UserError) as error:
        build_config(TASKS["listops"], name, 64, {})
    assert str(error.value).startswith(f"--model: model name {name!r} cannot be read: a name is ")
    assert message in str(error.value)


def test_parameters_of_a_transformer():
    """Counted by hand for ListOps: embeddings, two layers of four 64 x 64 projections and a feed-forward, head."""
    d, ffn = 64, 128
    embeddings = (16 + 32 + 3) * d + 2 * d
    layer = 4 * (d * d + d) + 2 * d * ffn + ffn + d + 2 * 2 * d
    head = d * d + d + 10 * d + 10
    found = build("listops", "transformer").num_parameters()
    # The key's projection has no bias but the score's has one vector: as many numbers.
    assert found == embeddings + 2 * layer + head


@pytest.mark.parametrize("name", [*MODELS, "B1-1-1H64"])
def test_padding_does_not_matter(name):
    """A batch of sequences of 1 to 30 tokens against each of them alone."""
    model = build("listops", name, ponet_num_segments=4)
    generator = np.random.default_rng(0)
    lengths = (1, 2, 7, 16, 29, 30)
    sequences = [generator.integers(1, 16, length) for length in lengths]
    examples = Examples([Sequences.pack(sequences)], [0] * len(lengths))
    batch = collate([examples[i] for i in range(len(lengths))])
    assert batch["attention_mask"].sum(1).tolist() == list(lengths)
    with torch.no_grad():
        together = model(**batch).logits
        alone = torch.cat([model(**collate([examples[i]])).logits for i in range(len(lengths))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)  # measured: 4e-6


def test_collate():
    examples = Examples(
        [
            Sequences.pack([np.array([5, 6, 7]), np.array([8])]),
            Sequences.pack([np.array([1]), np.array([2])]),
        ],
        [1, 0],
    )
    batch = {name: tensor.tolist() for name, tensor in collate([examples[0], examples[1]]).items()}
    assert batch == {
        "labels": [1, 0],
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "other_ids": [[1], [2]],
    }


def test_pairs_are_classified_by_their_vectors():
    """The equation written out: a and b are the mean states, [a, b, a * b, a - b] meet two dense layers."""
    model = build("retrieval", "ponet", ponet_num_segments=4)
    ids, other = torch.randint(1, 257, (3, 20)), torch.randint(1, 257, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    labels = torch.tensor([1, 0, 1])
    with torch.no_grad():
        states = model.funnelformer(ids, mask).last_hidden_state
        a = torch.stack([states[0].mean(0), states[1, :12].mean(0), states[2].mean(0)])
        b = model.funnelformer(other).last_hidden_state.mean(1)
        hidden = (torch.cat([a, b, a * b, a - b], 1) @ model.dense.weight.T + model.dense.bias).clamp(min=0)
        logits = hidden @ model.output.weight.T + model.output.bias
        output = model(ids, mask, other, labels=labels)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-4)
    expected = -logits.log_softmax(1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="other_ids is missing"):
        model(ids, mask)


@pytest.mark.parametrize(
    ("task", "model_class"),
    [("retrieval", TwoTowerClassifier), ("image", FunnelformerForSequenceClassification)],
)
def test_saved_models_load(tmp_path, task, model_class):
    model = build(task, "hybrid")
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path).eval()
    ids = torch.randint(1, 200, (2, 16))
    inputs = {"input_ids": ids, "other_ids": ids.flip(1)} if task == "retrieval" else {"input_ids": ids}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
