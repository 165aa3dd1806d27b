"""Conversions between folders: complete or absent, checked, and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel, AutoTokenizer, FunnelConfig

from funnelformer import FunnelformerForMaskedLM, FunnelformerForSequenceClassification
from funnelformer.base.errors import UserError
from funnelformer.checkpoints import compare
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.weights import read_state_dict
from models import build, small_config

# measured between the two implementations: 2.8e-5 in float32, logits up to about 7
TOLERANCE = 1e-4
# one implementation with the same numbers, kernels lying the other way around: 4e-7 measured
SAME = 5e-6
AS_TRANSFORMERS = {"padding": "transformers", "default_token_type_id": 0}


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["pt_finetuned_form", "pt_rep_sep_qkv_max", "pt_single_sep"])
def test_original_to_ours_and_back(name: str, golden: Path, tmp_path: Path) -> None:
    source = golden / name
    report = convert(source, tmp_path / "ours")
    assert (report.source_format, report.target_format) == ("original-torch", "funnelformer")
    assert report.difference is not None
    assert report.difference < SAME
    assert report.num_tensors == len(load_folder(source).state_dict)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= contents(tmp_path / "ours")
    back = convert(tmp_path / "ours", tmp_path / "back", "original-torch")
    assert back.difference is not None
    assert back.difference < SAME
    assert contents(tmp_path / "back") == {
        "README.md",
        "model.ckpt.pt",
        "net_config.pytorch.json",
        "vocab.uncased.txt",
    }
    before = read_state_dict(next(path for path in source.glob("model*.pt")))
    after = read_state_dict(tmp_path / "back" / "model.ckpt.pt")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "back" / "vocab.uncased.txt").read_text().split() == (
        source / "vocab.uncased.txt"
    ).read_text().split()
    assert contents(tmp_path) == {"ours", "back"}


def test_to_transformers_needs_the_users_word_then_loads_there(golden: Path, tmp_path: Path) -> None:
    source = golden / "pt_b222_sep_qonly_mean"
    with pytest.raises(UserError, match="--set padding=transformers --set default_token_type_id=0 converts"):
        convert(source, tmp_path / "out", "transformers")
    assert not contents(tmp_path)
    report = convert(source, tmp_path / "out", "transformers", overrides=AS_TRANSFORMERS)
    assert report.difference is not None
    assert report.difference < TOLERANCE
    assert type(AutoModel.from_pretrained(tmp_path / "out")).__name__ == "FunnelBaseModel"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("cat", "dog")["token_type_ids"] == [2, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["FunnelModel", "FunnelForMaskedLM", "FunnelForSequenceClassification"])
def test_from_transformers(name: str, tiny_funnel: FunnelConfig, tmp_path: Path) -> None:
    getattr(transformers, name)(tiny_funnel).save_pretrained(tmp_path / "stock")
    report = convert(tmp_path / "stock", tmp_path / "ours")
    assert report.difference is not None
    assert report.difference < TOLERANCE
    back = convert(tmp_path / "ours", tmp_path / "back", "transformers")
    before, after = (read_state_dict(tmp_path / folder / "model.safetensors") for folder in ("stock", "back"))
    assert back.difference is not None
    assert back.difference < TOLERANCE
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_the_target_has_no_place_for_is_reported(tiny_funnel: FunnelConfig, tmp_path: Path) -> None:
    transformers.FunnelForMaskedLM(tiny_funnel).save_pretrained(tmp_path / "stock")
    overrides = {"padding": "original", "default_token_type_id": None}
    report = convert(tmp_path / "stock", tmp_path / "out", "original-torch", overrides=overrides)
    assert set(report.ignored.values()) == {
        "the original PyTorch form has no decoder",
        "the original PyTorch form has no masked-LM head",
    }
    assert report.difference is not None
    assert report.difference < SAME
    assert load_folder(tmp_path / "out").config.decoder_layers == 0


def test_decoder_can_be_dropped(tiny_funnel: FunnelConfig, tmp_path: Path) -> None:
    transformers.FunnelModel(tiny_funnel).save_pretrained(tmp_path / "stock")
    report = convert(tmp_path / "stock", tmp_path / "base", "transformers", overrides={"decoder_layers": 0})
    assert len(report.ignored) == 20
    assert set(report.ignored.values()) == {"decoder_layers=0 was asked for"}
    assert load_folder(tmp_path / "base").config.decoder_layers == 0


def test_dry_run_writes_nothing(golden: Path, tmp_path: Path) -> None:
    report = convert(golden / "pt_single_sep", tmp_path / "out", dry_run=True)
    assert (report.num_tensors, report.difference) == (63, None)
    assert not contents(tmp_path)
    with pytest.raises(UserError, match="cannot hold padding"):
        convert(golden / "pt_single_sep", tmp_path / "out", "transformers", dry_run=True)


def test_targets_that_are_refused(golden: Path, tmp_path: Path) -> None:
    source = golden / "pt_single_sep"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "model.ckpt.pt").touch()
    (tmp_path / "file").touch()
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (source, {"overwrite": True}, "is the source"),
        (tmp_path / "full", {}, "is not empty"),
        (tmp_path / "mixed", {"overwrite": True}, "holds model.ckpt.pt of another model"),
        (tmp_path / "file", {"overwrite": True}, "is a file"),
        (tmp_path / "out", {"to": "pytorch"}, "'pytorch' is not a format; allowed: funnelformer"),
        (tmp_path / "out", {"overrides": {"poolin": "max"}}, "unknown key 'poolin'; did you mean 'pooling'"),
        (tmp_path / "out", {"overrides": {"hidden_size": 16}}, "the weights do not fit the config"),
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for target, arguments, expected in cases:
        with pytest.raises(UserError, match=expected) as error:
            convert(source, target, **arguments)
        assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_overwrite_replaces_a_model_of_the_same_form(golden: Path, tmp_path: Path) -> None:
    convert(golden / "pt_single_sep", tmp_path / "out")
    convert(golden / "pt_rep_sep_qkv_max", tmp_path / "out", overwrite=True)
    assert load_folder(tmp_path / "out").config.blocks == [1, 2, 1]


def test_a_wrong_map_is_caught_before_the_folder_appears(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = compare.build_model

    def swapped(config: Any, state: dict[str, torch.Tensor], architecture: str) -> torch.nn.Module:
        model = built(config, state, architecture)
        torch.nn.init.zeros_(model.get_parameter("encoder.blocks.0.0.mixer.key.weight"))
        monkeypatch.setattr(compare, "build_model", built)
        return model

    monkeypatch.setattr(compare, "build_model", swapped)
    with pytest.raises(UserError, match="not written, the converted model's outputs differ by"):
        convert(golden / "pt_single_sep", tmp_path / "out")
    assert not contents(tmp_path)


def test_what_a_head_cannot_be_without_is_one_line(tmp_path: Path) -> None:
    config = small_config("B1-1H32")
    build(FunnelformerForMaskedLM, config).save_pretrained(tmp_path / "mlm")
    with pytest.raises(UserError, match="masked language modelling needs a decoder"):
        convert(tmp_path / "mlm", tmp_path / "out", overrides={"decoder_layers": 0})
    config = small_config("B1-1H32", num_labels=3, classifier_pooling="mean", **AS_TRANSFORMERS)
    build(FunnelformerForSequenceClassification, config).save_pretrained(tmp_path / "mean")
    with pytest.raises(UserError, match="transformers' Funnel cannot hold classifier_pooling='mean'"):
        convert(tmp_path / "mean", tmp_path / "out", "transformers")
    with pytest.raises(UserError, match="PyTorch form cannot hold classifier_pooling='mean'"):
        convert(tmp_path / "mean", tmp_path / "out", "original-torch")
    assert not (tmp_path / "out").exists()
