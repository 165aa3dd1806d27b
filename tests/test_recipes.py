"""Every recipe is read as the command line reads it, and its model can be built."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from funnelformer import cli
from funnelformer.training.objectives import OBJECTIVES
from funnelformer.training.run import config_from_name, parse_options
from training.toy import fails

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def read(recipe, monkeypatch, out):
    """The config that `pretrain --config recipe` gives with the three flags that no recipe has."""
    seen = []
    monkeypatch.setattr(cli, "pretrain", lambda config: seen.append(config) or {})
    flags = ["--train", "data", "--tokenizer", "tok", "--out", str(out)]
    cli.app.meta(["pretrain", "--config", str(recipe), *flags], exit_on_error=False, print_error=False)
    return seen[0]


def test_there_are_recipes():
    assert {"base-published", "one-gpu-day", "small-mlm", "small-electra"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_key_is_known_and_the_model_builds(recipe, monkeypatch, tmp_path):
    config = read(recipe, monkeypatch, tmp_path / "out")
    written = tomllib.loads(recipe.read_text())
    settings = written.pop("set")
    for key, value in written.items():
        assert getattr(config, key.replace("-", "_")) == value, key
    options = parse_options(config.model_options)
    assert options == settings
    ids = {"vocab_size": 30522, "mask_token_id": 4}
    with torch.device("meta"):
        model_config = config_from_name(config.model, {**ids, **options})
        model = OBJECTIVES[config.objective].model_class(model_config)
    for key, value in settings.items():
        assert getattr(model.config, key) == value
    if config.model == "B4-4-4H768":
        assert 1.2e8 < sum(parameter.numel() for parameter in model.parameters()) < 1.7e8


def test_a_mistyped_key_is_one_line(tmp_path, capsys):
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPES[0].read_text().replace("learning-rate", "learning-rat"))
    flags = ["--train", "data", "--tokenizer", "tok", "--out", tmp_path / "out"]
    line = fails(capsys, "pretrain", "--config", file, *flags)
    assert "learning-rat" in line
    assert "learning-rate" in line
