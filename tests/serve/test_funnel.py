"""What the page shows of the encoder: merges worked out by hand, and the weights that the model computes with."""

from __future__ import annotations

import pytest
import torch

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.modeling.pooling import shorten
from funnelformer.serve.backend_choice import load_backend
from funnelformer.serve.config import ServeConfig
from funnelformer.serve.funnel_trace import trace_funnel
from serve.running import running, save


def model_of(layout="B1-1-1H16", **settings):
    config = FunnelformerConfig.from_name(
        layout, vocab_size=40, decoder_layers=0, initializer_std=0.4, **settings
    )
    return FunnelformerModel(config).eval()


def trace(model, length):
    torch.manual_seed(1)
    batch = {"input_ids": torch.randint(5, 40, (1, length))}
    return trace_funnel(model, batch), batch


def test_merges_by_hand():
    """Of 8 tokens the last is dropped, then of 4 vectors the last: [CLS] stays alone."""
    funnel, _ = trace(model_of(), 8)
    assert [stage.members for stage in funnel.stages] == [
        [[0], [1], [2], [3], [4], [5], [6], [7]],
        [[0], [1, 2], [3, 4], [5, 6]],
        [[0], [1, 2, 3, 4]],
    ]
    funnel, _ = trace(model_of(separate_cls=False, truncate_seq=False, pooling="max"), 5)
    assert [stage.members for stage in funnel.stages] == [
        [[0], [1], [2], [3], [4]],
        [[0, 1], [2, 3], [4]],
        [[0, 1, 2, 3], [4]],
    ]


def test_looks_are_the_first_layers_weights():
    model = model_of("B2-1-1H16")
    funnel, batch = trace(model, 9)
    with torch.no_grad():
        attentions = model(**batch, output_attentions=True).attentions
    assert [weights.shape[-2:] for weights in attentions] == [(9, 9), (9, 9), (5, 9), (3, 5)]
    assert funnel.stages[0].looks is None
    for stage, weights in zip(funnel.stages[1:], attentions[2:], strict=True):
        # Rounded to 4 digits.
        expected = weights[0].mean(0)
        assert torch.tensor(stage.looks) == pytest.approx(expected.numpy(), abs=6e-5)
        assert torch.tensor(stage.looks).sum(-1) == pytest.approx(
            torch.ones(len(stage.members)).numpy(), abs=1e-3
        )


@pytest.mark.parametrize(
    ("settings", "has_looks"),
    [
        ({"mixer": "ponet", "cls_token_id": 2, "sep_token_id": 3}, [False, False, False]),
        ({"mixer": "fourier"}, [False, False, False]),
        (
            {"mixer": ["ponet", "attention", "attention"], "cls_token_id": 2, "sep_token_id": 3},
            [False, True, True],
        ),
        ({"pool_q_only": False}, [False, False, False]),
    ],
)
def test_only_queries_that_read_the_unpooled_sequence_look(settings, has_looks):
    funnel, _ = trace(model_of(**settings), 8)
    assert [stage.looks is not None for stage in funnel.stages] == has_looks
    assert [len(stage.members) for stage in funnel.stages] == [8, 4, 2]


@pytest.mark.parametrize("layout", ["B1-1-1H16", "B2-2-1H16"])
@pytest.mark.parametrize("pool_q_only", [True, False])
def test_top_pooling_keeps_the_tokens_that_the_model_keeps(layout, pool_q_only):
    model = model_of(layout, pooling="top", pool_q_only=pool_q_only)
    kept = []

    def record(hidden, state, config, received=None):
        result = shorten(hidden, state, config, received)
        kept.append(result[1].source[0].tolist())
        return result

    torch.manual_seed(1)
    batch = {"input_ids": torch.randint(5, 40, (1, 12))}
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("funnelformer.modeling.encoder.shorten", record)
        model(**batch)
    # The second pooling chooses among those that the first one kept.
    kept[1] = [kept[0][place] for place in kept[1]]
    funnel = trace_funnel(model, batch)
    assert [[place for (place,) in stage.members] for stage in funnel.stages[1:]] == kept
    assert len(kept[0]) == 6


def test_a_long_text_is_cut_and_says_so(classifier, texts):
    tokenizer = load_tokenizer(classifier)
    longest = max(texts, key=len)
    with running(classifier, inspect_tokens=10) as client:
        view = client.post("/inspect", {"text": longest}).json
        assert view["cut"] is True
        assert view["tokens"] == tokenizer(longest, truncation=True, max_length=10).tokens()
        assert [len(stage["members"]) for stage in view["stages"]] == [10, 5, 3]
        assert client.post("/inspect", {"text": "the cat"}).json["cut"] is False
        pair = client.post("/inspect", {"text": ["the cat", "the dog"]}).json["tokens"]
        assert pair == ["<cls>", "the", "cat", "<sep>", "the", "dog", "<sep>"]


def test_what_reads_the_encoder_alone_runs_no_decoder(toy, tmp_path, monkeypatch):
    """Vectors and funnels of a masked-LM model, which has a decoder, and its vectors in Python."""
    backend = load_backend(ServeConfig(model=str(save(tmp_path, toy.tokenizer, "masked"))))
    features = [{"input_ids": [2, 5, 6, 7, 8, 9, 3], "attention_mask": [1] * 7}]
    body = backend.model.base_model
    ids = torch.tensor([feature["input_ids"] for feature in features])
    with torch.no_grad():
        expected = body(ids).encoder_last_hidden_state[:, 0]
    assert body.decoder is not None
    monkeypatch.setattr(type(body.decoder), "forward", lambda *args: pytest.fail("the decoder ran"))
    assert torch.tensor(backend.vectors(features, "cls")[0]).tolist() == expected[0].tolist()
    assert backend.funnel(features[0]).num_tokens == 7
    with torch.no_grad():
        assert torch.equal(body.sequence_vectors(ids), expected)
    with pytest.raises(pytest.fail.Exception, match="the decoder ran"):
        body(ids)
