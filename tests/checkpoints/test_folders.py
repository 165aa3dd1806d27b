"""Telling folders apart, and names on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import pytest
import transformers.utils

from funnelformer.base.errors import UserError
from funnelformer.base.options import ModelForm
from funnelformer.checkpoints.folders import detect, find_foreign, load_foreign, resolve
from funnelformer.checkpoints.forms import ENCODERS, FORMS, MODEL_TYPES, WRITTEN
from golden_cases import golden_folders, iter_cases


def write_config(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_formats_are_told_by_content(tmp_path: Path, golden: Path) -> None:
    assert detect(write_config(tmp_path / "a", model_type="funnelformer")) == "funnelformer"
    assert detect(write_config(tmp_path / "b", model_type="funnel")) == "transformers-funnel"
    assert {detect(folder) for folder in golden_folders("pt_")} == {"original-torch"}
    assert find_foreign(tmp_path / "a") is None
    assert find_foreign(golden / "pt_single_sep") == golden / "pt_single_sep"


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": \n oops}')
    cases = {
        tmp_path / "empty": "no model; looked for config.json .* net_config.json with .* model.ckpt.index",
        tmp_path / "emtpy": "no such folder; did you mean 'empty'",
        broken / "config.json": "is a file; give the folder",
        broken: "config.json: line 2: not valid JSON",
        write_config(
            tmp_path / "odd", model_type="brt"
        ): "model_type is 'brt'; allowed: bert, .*, funnel, funnelformer, ponet, ",
        write_config(
            tmp_path / "modern", model_type="modernbert"
        ): r"model_type is 'modernbert' \(rotary positions.*\), which cannot become .*; use it through transformers",
        write_config(
            tmp_path / "causal", model_type="gpt2"
        ): "model_type is 'gpt2', which cannot become .*; use it through transformers",
        write_config(tmp_path / "list", model_type=["bert"]): r"model_type is \['bert'\]; allowed",
        write_config(
            tmp_path / "code", model_type="bert", auto_map={"AutoModel": "code.Model"}
        ): "config.json: 'auto_map' names code to run",
        write_config(tmp_path / "none"): "model_type is None",
    }
    for path, expected in cases.items():
        with pytest.raises(UserError, match=expected) as error:
            detect(path)
        assert "\n" not in str(error.value)


def test_no_weights(tmp_path: Path) -> None:
    folder = write_config(tmp_path, model_type="funnel")
    with pytest.raises(UserError, match=r"no weights; looked for model\.safetensors, "):
        load_foreign(folder)


def test_hub_name_is_downloaded(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    config = write_config(tmp_path, model_type="funnel") / "config.json"

    def snapshot_download(name: str, **kwargs: Any) -> str:
        asked.update(name=name, **kwargs)
        return str(golden / "pt_single_sep")

    monkeypatch.setattr("funnelformer.checkpoints.folders.reach_hub", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(transformers.utils, "cached_file", lambda *_, **__: str(config))
    assert load_foreign("user/name", revision="main").architecture == "model"
    assert (asked["name"], asked["revision"]) == ("user/name", "main")
    assert "tf_model.h5" not in asked["allow_patterns"]
    assert find_foreign("user/name") == golden / "pt_single_sep"
    config.write_text('{"model_type": "funnelformer"}')
    assert find_foreign("user/name") is None


def test_hub_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError("offline\nwith much detail")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("funnelformer.checkpoints.folders.reach_hub", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(transformers.utils, "cached_file", fail)
    for function in (resolve, find_foreign):
        with pytest.raises(UserError) as error:
            function("user/name")
        assert (
            str(error.value) == "user/name: no such folder, and not found on the Hugging Face Hub (offline)"
        )
    with pytest.raises(UserError, match="no such folder"):
        resolve("./not/a/hub/name")


def test_every_golden_case_has_its_arrays() -> None:
    for folder in [*golden_folders("pt_"), *golden_folders("tf_")]:
        for name, arrays, meta in iter_cases(folder):
            assert arrays["inputs"].shape == (3, meta["seq_len"]), (folder.name, name)


def test_every_form_adds_itself_and_convert_offers_what_can_be_written():
    assert sorted(WRITTEN) == sorted(get_args(ModelForm))
    assert set(ENCODERS) < set(FORMS)
    assert set(MODEL_TYPES.values()) <= set(FORMS)
    for name, form in FORMS.items():
        assert callable(form.load), name
    for name, form in WRITTEN.items():
        assert callable(form.save), name
