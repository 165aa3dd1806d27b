"""The layers of a model in other blocks: which ones, what they compute, what is said of it, and what does not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerModel,
    UserError,
)
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.shortening import spread_layers
from models import batch, build, small_config
from training.toy import fails, run

# One implementation with the same numbers; measured 0.
SAME = 1e-6


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers of one length as BERT has them, with a masked-LM head and a card."""
    folder = tmp_path_factory.mktemp("shortening") / "standard"
    config = small_config("L6H32", position="absolute", default_token_type_id=0, layer_norm_eps=1e-12)
    build(FunnelformerForMaskedLM, config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: someone/small\n---\n# A model\n")
    return folder


def layers_of(model: FunnelformerModel) -> list[torch.nn.Module]:
    return [layer for block in model.encoder.blocks for layer in block]  # type: ignore[union-attr]


def sources_of(model: FunnelformerModel, source: FunnelformerModel) -> list[int]:
    """Which layer of the source each layer is, by its weights."""
    found = []
    for layer in layers_of(model):
        same = [
            index
            for index, other in enumerate(layers_of(source))
            if all(
                torch.equal(first, second)
                for first, second in zip(layer.parameters(), other.parameters(), strict=True)
            )
        ]
        assert len(same) == 1
        found += same
    return found


@pytest.mark.parametrize(
    ("num_layers", "places", "expected"),
    [
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (6, 4, [0, 2, 3, 5]),
        (6, 3, [0, 2, 5]),
        (6, 2, [0, 5]),
        (6, 1, [0]),
        (12, 6, [0, 2, 4, 7, 9, 11]),
        (6, 12, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (6, 8, [0, 0, 1, 2, 3, 3, 4, 5]),
        (2, 5, [0, 0, 0, 1, 1]),
    ],
)
def test_layers_are_spread_evenly(num_layers: int, places: int, expected: list[int]) -> None:
    assert spread_layers(num_layers, places) == expected


def test_the_rule_of_the_spread() -> None:
    for num_layers in range(1, 20):
        for places in range(1, 40):
            found = spread_layers(num_layers, places)
            assert found == sorted(found)
            if places >= num_layers:
                counts = [found.count(layer) for layer in range(num_layers)]
                assert max(counts) - min(counts) <= 1
                assert min(counts) >= 1
            elif places > 1:
                gap = (num_layers - 1) / (places - 1)
                assert found == [math.ceil(place * gap - 0.5) for place in range(places)]
                assert (found[0], found[-1]) == (0, num_layers - 1)
                assert len(set(found)) == places


@pytest.mark.parametrize(
    ("wish", "blocks", "chosen"),
    [
        ({"blocks": [2, 2, 2]}, [2, 2, 2], [0, 1, 2, 3, 4, 5]),
        ({"layout": "B2-4H32"}, [2, 4], [0, 1, 2, 3, 4, 5]),
        ({"layers": [0, 2, 3, 5]}, [4], [0, 2, 3, 5]),
        ({"layout": "L3"}, [3], [0, 2, 5]),
        ({"layout": "B2-4-6"}, [2, 4, 6], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        ({"layout": "B2-2", "layers": [1, 4]}, [2, 2], [1, 1, 4, 4]),
        ({"blocks": (1, 1), "layers": [0, 5]}, [1, 1], [0, 5]),
    ],
    ids=str,
)
def test_the_same_layers_in_other_blocks(
    standard: Path, wish: dict[str, object], blocks: list[int], chosen: list[int]
) -> None:
    source = FunnelformerModel.from_pretrained(standard)
    model = FunnelformerModel.from_pretrained(standard, **wish)
    assert model.config.blocks == blocks
    assert sources_of(model, source) == chosen
    assert torch.equal(
        model.embeddings.position_embeddings.weight, source.embeddings.position_embeddings.weight
    )
    assert model.config.truncate_seq is False
    assert model.decoder is None
    assert model.config.made_from == {
        "source": "standard",
        "model_type": "funnelformer",
        "source_layout": "L6H32",
        "layers": chosen,
        "layout": model.config.name,
    }


def test_copies_of_a_layer_learn_by_themselves(standard: Path) -> None:
    model = FunnelformerModel.from_pretrained(standard, layout="B6-6").train()
    first, second = layers_of(model)[:2]
    assert torch.equal(first.feed_forward.expand.weight, second.feed_forward.expand.weight)
    ids, mask, _ = batch(9, [9, 6])
    model(ids, mask).last_hidden_state.sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step()
    assert not torch.equal(first.feed_forward.expand.weight, second.feed_forward.expand.weight)


def test_one_block_of_all_layers_computes_what_the_source_does(standard: Path) -> None:
    ids, mask, _ = batch(11, [11, 7, 1])
    with torch.no_grad():
        expected = FunnelformerModel.from_pretrained(standard).eval()(ids, mask).last_hidden_state
        found = FunnelformerModel.from_pretrained(standard, layout="L6").eval()(ids, mask).last_hidden_state
        # The first block's states, before anything is pooled, are still the source's.
        model = FunnelformerModel.from_pretrained(standard, layout="B2-4").eval()
        states = model(ids, mask, output_hidden_states=True).hidden_states
        theirs = FunnelformerModel.from_pretrained(standard).eval()(ids, mask, output_hidden_states=True)
    assert torch.allclose(found, expected, atol=SAME)
    for mine, other in zip(states[:3], theirs.hidden_states[:3], strict=True):
        assert torch.allclose(mine, other, atol=SAME)
    assert states[3].shape[1] == 6  # [CLS] and five windows of the ten tokens behind it


def test_the_last_token_is_not_dropped(standard: Path) -> None:
    """An encoder of one length knows no truncation; options that are given go before that."""
    model = FunnelformerModel.from_pretrained(standard, layout="B3-3").eval()
    ids, mask, _ = batch(8, [8, 8])
    changed = ids.clone()
    changed[0, -1] = 7 if ids[0, -1] != 7 else 8
    with torch.no_grad():
        first, second = (model(x, mask).last_hidden_state for x in (ids, changed))
    assert not torch.allclose(first[0], second[0])
    asked = FunnelformerModel.from_pretrained(standard, layout="B3-3", truncate_seq=True, hidden_dropout=0.3)
    assert (asked.config.truncate_seq, asked.config.hidden_dropout) == (True, 0.3)


def test_convert_writes_config_weights_and_card(
    standard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", standard, tmp_path / "out", "--layout", "B2-1H32") == 0
    said = capsys.readouterr().out
    assert "B2-1H32: layers 0, 2, 5 of the source's 6 (counted from 0), in this order\n" in said
    assert "left out: layer 1 (not among the layers that are kept)\n" in said
    assert "left out: lm_head.decoder.bias (a head of tokens (masked_lm), and a funnel without" in said
    model = FunnelformerModel.from_pretrained(tmp_path / "out").eval()
    assert (model.config.name, model.config.truncate_seq) == ("B2-1H32", False)
    assert model.config.made_from["layers"] == [0, 2, 5]
    assert model.config.made_from["source"] == "standard"
    ids, mask, _ = batch(9, [9, 4])
    with torch.no_grad():
        expected = FunnelformerModel.from_pretrained(standard, layout="B2-1").eval()(ids, mask)
        assert torch.equal(model(ids, mask).last_hidden_state, expected.last_hidden_state)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert card.data.base_model == "someone/small"
    assert card.data.library_name == "funnelformer"
    assert card.data.tags == ["funnelformer"]
    assert "stand here in this order: 0, 2, 5; in blocks of 2, 1." in card.text
    assert "made from `standard` by `funnelformer convert --layout B2-1H32`" in card.text
    # What it was made from stays with it when it is saved, and when it is dealt once more.
    model.save_pretrained(tmp_path / "again")
    again = FunnelformerConfig.from_pretrained(tmp_path / "again")
    assert again.made_from == model.config.made_from
    once_more = FunnelformerModel.from_pretrained(tmp_path / "again", layers=[0, 2])
    assert once_more.config.made_from["source_layout"] == "B2-1H32"
    assert once_more.config.made_from["made_from"] == model.config.made_from


def test_a_card_that_cannot_be_read_is_passed_over(standard: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    FunnelformerModel.from_pretrained(standard).save_pretrained(source)
    for number, text in enumerate(["---\n[\n---\n", "no metadata", "---\nlicense: [1, 2]\n---\n"]):
        (source / "README.md").write_text(text)
        convert(source, tmp_path / str(number), layout="B3-3")
        card = ModelCard.load(tmp_path / str(number) / "README.md")
        assert card.data.license is None
        assert card.data.base_model is None


def test_a_dry_run_names_the_layers_and_writes_nothing(
    standard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", standard, tmp_path / "out", "--layers", "0,5", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "L2H32: layers 0, 5 of the source's 6" in said
    name = "encoder.blocks.0.{}.feed_forward.expand.weight"
    prefix = "funnelformer."
    assert f"{prefix}{name.format(5)} -> {prefix}{name.format(1)} [128, 32]" in said
    assert not (tmp_path / "out").exists()


def test_a_classifier_keeps_its_head(tmp_path: Path) -> None:
    config = small_config("L4H32", position="absolute", default_token_type_id=0, num_labels=3)
    classifier = build(FunnelformerForSequenceClassification, config)
    classifier.save_pretrained(tmp_path / "full")
    report = convert(tmp_path / "full", tmp_path / "short", layout="B2-2")
    assert report.architecture == "sequence_classification"
    short = FunnelformerForSequenceClassification.from_pretrained(tmp_path / "short").eval()
    assert torch.equal(short.classifier.output.weight, classifier.classifier.output.weight)
    ids, mask, _ = batch(9, [9, 4])
    with torch.no_grad():
        assert short(ids, mask).logits.shape == (2, 3)


@pytest.mark.parametrize("name", ["FunnelModel", "FunnelForMaskedLM", "FunnelForSequenceClassification"])
def test_transformers_funnel_in_other_blocks(name: str, tmp_path: Path) -> None:
    """Its decoder and its truncation stay; so does the head, which reads the decoder's states."""
    config = transformers.FunnelConfig(
        block_sizes=[1, 1, 2],
        d_model=32,
        n_head=2,
        d_head=16,
        d_inner=64,
        vocab_size=60,
        num_decoder_layers=1,
    )
    torch.manual_seed(3)
    getattr(transformers, name)(config).save_pretrained(tmp_path / "stock")
    before = load_folder(tmp_path / "stock")
    report = convert(tmp_path / "stock", tmp_path / "out", layout="B2-2H32")
    after = load_folder(tmp_path / "out")
    assert report.layers == (0, 1, 2, 3)
    assert after.architecture == before.architecture
    assert after.config.truncate_seq == before.config.truncate_seq
    assert after.config.decoder_layers == before.config.decoder_layers
    prefix = "" if name == "FunnelModel" else "funnelformer."
    for index, (old, new) in enumerate(
        zip(("0.0", "1.0", "2.0", "2.1"), ("0.0", "0.1", "1.0", "1.1"), strict=True)
    ):
        assert torch.equal(
            before.state_dict[f"{prefix}encoder.blocks.{old}.mixer.query.weight"],
            after.state_dict[f"{prefix}encoder.blocks.{new}.mixer.query.weight"],
        ), index
    rest = {key for key in before.state_dict if "encoder.blocks" not in key}
    assert rest == {key for key in after.state_dict if "encoder.blocks" not in key}


def test_mixers_go_with_their_layers(tmp_path: Path) -> None:
    config = small_config("B2-2H32", mixer=["ponet", "attention"], decoder_layers=0, position="absolute")
    build(FunnelformerModel, config).save_pretrained(tmp_path / "hybrid")
    model = FunnelformerModel.from_pretrained(tmp_path / "hybrid", layout="B1-1-2")
    assert model.config.mixer == ["ponet", "ponet", "attention"]
    with pytest.raises(UserError, match="block 2 would have layers of several mixers, attention, ponet"):
        FunnelformerModel.from_pretrained(tmp_path / "hybrid", layout="B1-2-1")


def test_what_does_not_fit_is_one_line(
    standard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for arguments, message in (
        (("--layout", "B2-2H64"), "standard: is 32 wide, and layout 'B2-2H64' wants 64"),
        (("--layout", "B2-2-"), "layout 'B2-2-' cannot be read: a layout is B<layers>"),
        (("--layout", "B2-0"), "layout 'B2-0': layers and repeats must be at least 1"),
        (("--layers", "0,6"), "standard: has no layer 6; allowed: 0 to 5"),
        (("--layers=-1,2",), "standard: has no layer -1; allowed: 0 to 5"),
        (("--layers", "0,0,1"), "the layers 0, 0, 1 are not in rising order; name each one once"),
        (("--layers", "3,1"), "the layers 3, 1 are not in rising order; name each one once"),
        (("--layers", "0,,2"), "--layers is '0,,2'; allowed: numbers of layers"),
        (("--layers", "first"), "--layers is 'first'; allowed: numbers of layers"),
        (("--layers", "0,1,2", "--layout", "B1-1"), "3 layers were named, and the layout has room for 2"),
        (
            ("--layout", "B3-3", "--verify", "transformers"),
            "--verify compares with the source, whose layers --layout and --layers change",
        ),
        (("--set.blocks=[3,3]",), "blocks does not move the layers; use --layout, as --layout B2-2-2"),
        (("--layout", "B3-3", "--to", "original-torch"), "cannot hold position='absolute'"),
    ):
        assert message in fails(capsys, "convert", standard, out, *arguments)
        assert not out.exists()
    for wish, message in (
        ({"blocks": [2, "x"]}, "blocks is"),
        ({"blocks": []}, "blocks is"),
        ({"layers": "0,1"}, "layers is '0,1'; allowed: a list of layers from 0 to 5"),
        ({"layers": [True]}, "has no layer True"),
        ({"layers": []}, "layers is []"),
        ({"layout": "B3-3", "blocks": [3, 3]}, "already names the blocks"),
    ):
        with pytest.raises(UserError) as caught:
            FunnelformerModel.from_pretrained(standard, **wish)
        assert message in str(caught.value)
