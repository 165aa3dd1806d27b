"""`describe` and `render`: every kind of source, and one line for what is none."""

import io
import json

import pytest
from rich.console import Console

from funnelformer import FunnelformerConfig, FunnelformerModel, UserError
from funnelformer.cost.flops import LayerFlops, forward_flops
from funnelformer.cost.info import _PRODUCTS, describe, equal_transformer, render
from models import build, small_config


def text_of(info):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render(info))
    return console.export_text()


def test_a_preset():
    info = describe("funnel-small", (128, 512), memory=False)
    assert (info.source, info.name, info.baseline) == ("funnel-small", "B4-4-4H768", "L12H768")
    assert [entry.flops.length for entry in info.lengths] == [128, 512]
    assert info.lengths[1].encoder_ratio == pytest.approx(0.575, abs=5e-4)
    assert info.lengths[1].ratio == pytest.approx(0.742, abs=5e-4)
    assert info.parameters.total == pytest.approx(130.97e6, rel=1e-4)


def test_a_layout_rendered_with_memory():
    info = describe("B2-1x2-2H64", (31, 64))
    text = text_of(info)
    for expected in (
        "B2-1x2-2H64: 1 heads of 64",
        "decoder of 2 layers",
        "block 3",
        "64 > 32 > 16",
        "FLOPs / L5H64's, with decoder",
        "training: sum",
        "feed-forward",
        f"{info.lengths[1].flops.per_token / 1e6:,.2f}",
        f"{info.lengths[0].memory.training_bytes / 2**20:,.1f}",
    ):
        assert expected in text
    assert json.loads(json.dumps(info.to_dict())) == info.to_dict()


def test_a_transformer_is_its_own_baseline():
    info = describe("L3H64", (16,), memory=False)
    assert info.baseline == "L3H64"
    assert info.lengths[0].ratio == info.lengths[0].encoder_ratio == 1
    text = text_of(info)
    assert "FLOPs / L3H64's" in text
    assert "decoder" not in text
    assert "Memory" not in text
    assert info.to_dict()["lengths"][0]["memory"] is None


def test_the_baseline_keeps_all_else():
    config = small_config("B2-1x2-2H64", embedding_size=16, position="absolute", num_labels=3)
    baseline = equal_transformer(config)
    changed = {"blocks", "repeats", "decoder_layers"}
    own, other = config.to_dict(), baseline.to_dict()
    assert {key for key in own if own[key] != other[key]} == changed
    assert (baseline.blocks, baseline.repeats, baseline.decoder_layers) == ([5], [1], 0)


def test_a_folder(tmp_path):
    config = small_config("B2-1-2H64", embedding_size=16, truncate_seq=False)
    build(FunnelformerModel, config).save_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path)):
        info = describe(source, (16,), memory=False)
        assert info.source == str(tmp_path)
        assert info.shape["embedding_size"] == 16
        assert info.lengths[0].flops == forward_flops(config, 16)


def test_a_folder_needs_no_weights(tmp_path):
    FunnelformerConfig.from_name("B2-1-2H64").save_pretrained(tmp_path)
    assert describe(tmp_path, (16,), memory=False).name == "B2-1-2H64"


def test_a_foreign_folder(tmp_path):
    from transformers import FunnelConfig, FunnelModel

    sizes = {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "vocab_size": 50}
    FunnelModel(FunnelConfig(block_sizes=[1, 1], num_decoder_layers=1, **sizes)).save_pretrained(tmp_path)
    info = describe(tmp_path, (16,), memory=False)
    assert info.name == "B1-1H32"
    assert info.shape["decoder_layers"] == 1


def test_lengths_beyond_absolute_positions_are_left_out(tmp_path):
    small_config("L2H32", position="absolute", max_position_embeddings=32).save_pretrained(tmp_path)
    info = describe(tmp_path, (16, 64), memory=False)
    assert [entry.flops.length for entry in info.lengths] == [16]
    assert info.notes == ("64 tokens left out: max_position_embeddings is 32",)
    assert info.notes[0] in text_of(info)
    assert describe(tmp_path, (64,)).lengths == ()
    assert "Parameters" in text_of(describe(tmp_path, (64,)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("B4-4-4", "a name is B<layers>"),
        ("funnel-smal", "did you mean 'funnel-small'"),
        ("", "cannot be read"),
        ("./nowhere", "./nowhere: no such folder"),
        ("models/funnel", "models/funnel: no such folder"),
        ("~nobody-here/funnel", "~nobody-here/funnel: no such folder"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_an_unknown_source_is_one_line(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        describe(source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_nearest_folder_is_named(tmp_path):
    (tmp_path / "model-7").mkdir()
    with pytest.raises(UserError, match="no such folder; did you mean 'model-7'"):
        describe(tmp_path / "model-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json"),
        ("{", "config.json"),
        ('{"model_type": "brt"}', "'brt'"),
        ('{"model_type": "funnelformer", "blokcs": [1]}', "config.json: model config: unknown key 'blokcs'"),
        ('{"model_type": "funnelformer", "hidden_size": 31}', "hidden_size 31 must be even"),
        ('{"model_type": "funnelformer", "hidden_dropout": "much"}', "config.json"),
    ],
)
def test_an_unreadable_folder_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as error:
        describe(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_lengths_below_one_are_refused():
    with pytest.raises(UserError, match="--lengths is 0; allowed: whole numbers, 1 or more"):
        describe("L1H8", (0,))


def test_a_hybrid_is_compared_with_attention():
    """The claim is against the Transformer, not against a stack of the first block's mixer."""
    baseline = equal_transformer(FunnelformerConfig.from_name("Hybrid-4-4-4H768"))
    assert (baseline.name, baseline.mixer) == ("L12H768", "attention")
    info = describe("Hybrid-4-4-4H768", [512], memory=False)
    assert info.baseline == "L12H768"
    ours, theirs = (
        forward_flops(config, 512, decoder=False).layers.total
        for config in (FunnelformerConfig.from_name("Hybrid-4-4-4H768"), baseline)
    )
    assert info.lengths[0].encoder_ratio == ours / theirs


def test_every_product_has_a_line():
    assert _PRODUCTS.keys() == LayerFlops().to_dict().keys()
