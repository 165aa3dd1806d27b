"""Names, presets, defaults and the errors of the config."""

import json

import pytest

from funnelformer import FunnelformerConfig, UserError
from funnelformer.config.model_config import MIXERS, PRESETS, parse_name
from funnelformer.mixers import Mixer, mixer_class


@pytest.mark.parametrize(
    ("name", "blocks", "repeats", "width", "heads", "head_size", "decoder_layers"),
    [
        ("B6-3x2-3x2H768", [6, 3, 3], [1, 2, 2], 768, 12, 64, 2),
        ("B4-4-4H768", [4, 4, 4], [1, 1, 1], 768, 12, 64, 2),
        ("B10-10-10H1024", [10, 10, 10], [1, 1, 1], 1024, 16, 64, 2),
        ("L12H768", [12], [1], 768, 12, 64, 0),
        ("B2x3H96", [2], [3], 96, 3, 32, 0),
        ("B1-1H40", [1, 1], [1, 1], 40, 5, 8, 2),
    ],
)
def test_names_parse(name, blocks, repeats, width, heads, head_size, decoder_layers):
    config = FunnelformerConfig.from_name(name)
    assert (config.blocks, config.repeats) == (blocks, repeats)
    assert (config.hidden_size, config.num_attention_heads, config.head_size) == (width, heads, head_size)
    assert (config.intermediate_size, config.decoder_layers) == (4 * width, decoder_layers)
    assert config.name == name


@pytest.mark.parametrize(
    "name", ["", "B4-4-4", "L12", "B4--4H768", "b4-4-4h768", "B4x-4H768", "L12H768 ", "H768"]
)
def test_an_unreadable_name_shows_the_grammar(name):
    with pytest.raises(UserError, match=r"B<layers>\[x<repeats>\]-\.\.\.H<width> or L<layers>H<width>"):
        FunnelformerConfig.from_name(name)


@pytest.mark.parametrize(("name", "message"), [("B0-4H64", "at least 1"), ("L2H20", "not a multiple of 8")])
def test_names_with_impossible_numbers(name, message):
    with pytest.raises(UserError, match=message):
        FunnelformerConfig.from_name(name)


def test_presets_are_the_released_models():
    small = FunnelformerConfig.from_name("funnel-small")
    base = FunnelformerConfig.from_name("funnel-small-base")
    assert (small.name, small.decoder_layers, base.decoder_layers) == ("B4-4-4H768", 2, 0)
    assert FunnelformerConfig.from_name("funnel-medium").name == "B6-3x2-3x2H768"
    assert FunnelformerConfig.from_name("funnel-xlarge").name == "B10-10-10H1024"
    assert FunnelformerConfig.from_name("transformer-base").name == "L12H768"
    for preset in PRESETS:
        FunnelformerConfig(**parse_name(preset))
    with pytest.raises(UserError, match="did you mean 'funnel-small'"):
        FunnelformerConfig.from_name("funel-small")


def test_overrides_win_over_the_name():
    config = FunnelformerConfig.from_name("B4-4-4H768", decoder_layers=1, pooling="max", num_labels=7)
    assert (config.decoder_layers, config.pooling, config.num_labels) == (1, "max", 7)


def test_unknown_keys_are_errors_that_name_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"^model config: unknown key 'poolng'; did you mean 'pooling'\?$"):
        FunnelformerConfig(poolng="max")
    FunnelformerConfig(pooling="max").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'hiden_size'; did you mean 'hidden_size'"):
        FunnelformerConfig.from_pretrained(tmp_path, hiden_size=8)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    assert values["pooling"] == "max"
    file.write_text(json.dumps({**values, "separate_clss": True}))
    with pytest.raises(UserError, match="'separate_clss'; did you mean 'separate_cls'"):
        FunnelformerConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pooling": "men"}, "pooling is 'men'; allowed: mean, max, top; did you mean 'mean'"),
        ({"padding": "none"}, "padding is 'none'; allowed: exact, original, transformers"),
        ({"position": "rotary"}, "position is 'rotary'; allowed: relative, absolute"),
        (
            {"mixer": "atention"},
            "mixer is 'atention'; allowed: attention, ponet, fourier; did you mean 'attention'",
        ),
        ({"mixer": ["attention"]}, "1 mixers for 3 blocks"),
        ({"blocks": []}, "blocks is"),
        ({"blocks": [2, 0]}, "integers >= 1"),
        ({"blocks": "4_4_4"}, "a list of integers"),
        ({"repeats": [1, 1]}, "differ in length"),
        ({"hidden_size": 0}, "hidden_size is 0; allowed: a whole number, 1 or more"),
        ({"hidden_size": 33}, "must be even"),
        ({"decoder_layers": -1}, "decoder_layers is -1"),
        ({"hidden_dropout": 1.5}, "hidden_dropout is 1.5; allowed: 0 <= p < 1"),
        ({"decoder_skip_state": 5}, "states 0..4"),
        ({"pool_q_only": "abc"}, "pool_q_only is 'abc'; allowed: true, false"),
        ({"layer_norm_eps": "x"}, "layer_norm_eps is 'x'; allowed: a finite number"),
    ],
    ids=str,
)
def test_values_that_make_no_model(values, message):
    with pytest.raises(UserError, match=message):
        FunnelformerConfig(**values)


def test_a_changed_value_is_checked_when_loading(tmp_path):
    FunnelformerConfig().save_pretrained(tmp_path)
    assert FunnelformerConfig.from_pretrained(tmp_path, pooling="top").pooling == "top"
    with pytest.raises(UserError, match="pooling is 'tip'"):
        FunnelformerConfig.from_pretrained(tmp_path, pooling="tip")


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_of_the_table_keeps_the_contract(name):
    assert isinstance(mixer_class(name)(FunnelformerConfig(mixer=name)), Mixer)


def test_an_unknown_mixer_has_no_class():
    with pytest.raises(
        UserError, match="mixer is 'fouriet'; allowed: attention, ponet, fourier; did you mean"
    ):
        mixer_class("fouriet")
