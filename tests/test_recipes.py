"""Every recipe is read as the command line reads it, and its model can be built."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from funnelformer import cli
from funnelformer.base.options import parse_options
from funnelformer.training.pretraining.objectives import OBJECTIVES
from funnelformer.training.run.folder import config_from_name
from training.toy import fails

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def read(recipe, monkeypatch, out):
    """The config that `pretrain --config recipe` gives with the three flags that no recipe has."""
    seen = []
    monkeypatch.setattr(
        "funnelformer.training.pretraining.pretrain.pretrain", lambda config: seen.append(config) or {}
    )
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


# ---- fine-tuning

FINETUNE = sorted((Path(__file__).parents[1] / "recipes" / "finetune").glob("*.toml"))
# Batch, epochs, the rates tried: as published for the released models. Of RACE and SQuAD steps are.
PUBLISHED = {
    "rte": (16, 10, 1e-5, 2e-5),
    "mrpc": (16, 10, 1e-5, 3e-5),
    "cola": (16, 10, 1e-5, 1e-5),
    "sst2": (16, 10, 1e-5, 1e-5),
    "qnli": (32, 3, 2e-5, 2e-5),
    "mnli": (64, 3, 1e-5, 1e-5),
    "qqp": (64, 5, 2e-5, 2e-5),
    "imdb": (32, 5, 1e-5, 3e-5),
    "race": (16, None, 2e-5, 2e-5),
    "squad": (48, None, 3e-5, 3e-5),
    "squad2": (48, None, 3e-5, 3e-5),
}
STEPS = {"race": 24_000, "squad": 8_000, "squad2": 8_000}


def test_every_published_setting_has_a_recipe():
    assert {path.stem for path in FINETUNE} == PUBLISHED.keys()


@pytest.mark.parametrize("recipe", FINETUNE, ids=lambda path: path.stem)
def test_recipes_of_fine_tuning(recipe, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "funnelformer.training.finetuning.finetune.finetune", lambda config: seen.append(config) or {}
    )
    flags = ["--data", "glue", "--model", "m", "--out", str(tmp_path / "out")]
    cli.app.meta(["finetune", "--config", str(recipe), *flags], exit_on_error=False, print_error=False)
    (config,) = seen
    written = tomllib.loads(recipe.read_text())
    assert parse_options(config.model_options) == written.pop("set", {})
    for key, value in written.items():
        assert getattr(config, key.replace("-", "_")) == value, key
    batch, epochs, lowest, highest = PUBLISHED[recipe.stem]
    assert (config.task, config.batch_size) == (recipe.stem, batch)
    assert (config.epochs, config.steps) == (epochs, None) if epochs else config.steps == STEPS[recipe.stem]
    assert lowest <= config.learning_rate <= highest
    assert config.max_length == (512 if recipe.stem in ("imdb", *STEPS) else 128)
    is_squad = recipe.stem.startswith("squad")
    assert config.warmup == (1_000 / 8_000 if is_squad else 0.1)
    assert config.layer_decay == (0.75 if is_squad else 1.0)
