"""Folders that transformers loads without this package: every head, the same outputs and the same step of training."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from checkpoints import without_package
from funnelformer import FunnelformerModel
from funnelformer.base.errors import UserError
from funnelformer.checkpoints import one_file, remote_code
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import map_folder
from funnelformer.modeling import HEADS
from models import batch, build, small_config

# One implementation, so no difference but rounding that threads may change.
TOLERANCE = 1e-6
NO_DROPOUT = {"classifier_dropout": 0.0}
# Name of a case: its head, the layout and other options.
CASES = {
    **{head: (head, "B1-1H16", {}) for head in HEADS},
    "answers": ("question_answering", "B1-1H16", {"qa_head": "conditional"}),
    "ponet": (
        "masked_lm",
        "L2H16",
        {"mixer": "ponet", "position": "absolute", "cls_token_id": 2, "sep_token_id": 3},
    ),
    "fourier": ("sequence_classification", "B1-1x2H16", {"mixer": ["fourier", "attention"], "num_labels": 3}),
    "top": ("token_classification", "B1-1-1H16", {"pooling": "top", "unpad": True}),
    "absolute": ("model", "L2H16", {"position": "absolute", "default_token_type_id": 0}),
}


def inputs_of(head: str) -> dict[str, torch.Tensor]:
    ids, mask, segments = batch(11, [11, 6])
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
    if HEADS[head].has_choices:
        return {name: tensor[None] for name, tensor in inputs.items()} | {"labels": torch.tensor([1])}
    if head == "question_answering":
        return inputs | {"start_positions": torch.tensor([3, 1]), "end_positions": torch.tensor([5, 2])}
    if head == "sequence_classification":
        return inputs | {"labels": torch.tensor([1, 0])}
    return inputs if head == "model" else inputs | {"labels": ids % 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The code of the models, imported from its files."""
    folder = tmp_path_factory.mktemp("files") / "code_beside_weights"
    folder.mkdir()
    for name, text in {"__init__.py": "", **remote_code.sources()}.items():
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder.parent))
    yield importlib.import_module("code_beside_weights.modeling_funnelformer")
    sys.path.remove(str(folder.parent))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("name", CASES)
def test_the_code_computes_the_same(files: ModuleType, name: str, tmp_path: Path) -> None:
    head, layout, options = CASES[name]
    model = build(HEADS[head].model_class, small_config(layout, **NO_DROPOUT, **options))
    model.save_pretrained(tmp_path)
    theirs_class = getattr(files, type(model).__name__)
    assert not isinstance(model, theirs_class)
    theirs = without_package.results(theirs_class.from_pretrained(tmp_path), inputs_of(head))
    equal(theirs, without_package.results(model, inputs_of(head)), name)


def equal(theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor], case: str) -> None:
    assert theirs.keys() == ours.keys()
    assert any(key.startswith("output.") and tensor.dim() for key, tensor in ours.items())
    for key, tensor in ours.items():
        difference = float((theirs[key] - tensor).abs().max())
        assert difference <= TOLERANCE, (case, key, difference)


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")
def test_every_head_without_this_package(elsewhere: Path, tmp_path: Path) -> None:
    cases, models = [], {}
    for name, (head, layout, options) in CASES.items():
        model = build(HEADS[head].model_class, small_config(layout, **NO_DROPOUT, **options))
        model.save_pretrained(tmp_path / "ours")
        report = convert(tmp_path / "ours", tmp_path / name, "remote-code")
        assert report.difference == 0
        shutil.rmtree(tmp_path / "ours")
        save_file(inputs_of(head), tmp_path / f"{name}.inputs.safetensors")
        auto = HEADS[head].auto_class or "AutoModelForPreTraining"
        cases.append({"name": name, "auto_class": auto, "again": name == "sequence_classification"})
        models[name] = model
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [str(elsewhere), without_package.__file__, str(tmp_path)],
        check=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    for name, model in models.items():
        theirs = load_file(tmp_path / f"{name}.outputs.safetensors")
        ours = without_package.results(model, inputs_of(CASES[name][0]))
        equal(theirs, ours, name)


def test_the_code_needs_nothing_but_torch_and_transformers() -> None:
    allowed = {"torch", "transformers", *sys.stdlib_module_names}
    for name, text in remote_code.sources().items():
        lines = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
        found = {line.split()[1].split(".")[0] for line in lines}
        assert found - {""} <= allowed, name
        assert "jaxtyping" not in text
        assert "triton'" not in text.replace("attn_implementation='triton'", "")
        compile(text, name, "exec")
    remote_code.sources.cache_clear()
    first = remote_code.sources()
    remote_code.sources.cache_clear()
    assert remote_code.sources() == first


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(FunnelformerModel, small_config("B1-1H16")).save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "remote", "remote-code")
    return tmp_path / "remote"


def test_here_it_is_data(folder: Path, tmp_path: Path) -> None:
    """The weights and the config are read; the code beside them is not run, and not copied on."""
    ran = tmp_path / "ran"
    for name in remote_code.sources():
        (folder / name).write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    ours = FunnelformerModel.from_pretrained(tmp_path / "ours").state_dict()
    for found in (FunnelformerModel.from_pretrained(folder), AutoModel.from_pretrained(folder)):
        assert type(found) is FunnelformerModel
        assert all(torch.equal(tensor, ours[name]) for name, tensor in found.state_dict().items())
    assert not hasattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), "auto_map")
    assert map_folder(folder).state_dict.keys() == ours.keys()
    FunnelformerModel.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    convert(folder, tmp_path / "back")
    assert "auto_map" not in json.loads((tmp_path / "back" / "config.json").read_text())
    assert not list((tmp_path / "back").glob("*.py"))
    assert not ran.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"auto_map": {"AutoModel": "someone/else--modeling_funnelformer.FunnelformerModel"}},
        {
            "auto_map": {
                "AutoModel": "modeling_funnelformer.FunnelformerModel",
                "AutoTokenizer": [None, "a.B"],
            }
        },
        {"auto_map": {"AutoModel": "modeling_other.FunnelformerModel"}},
        {"model_type": "bert"},
    ],
)
def test_any_other_code_is_refused(folder: Path, changed: dict[str, object]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(UserError, match="'auto_map' names code to run"):
        map_folder(folder)


def test_what_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="speaks of a module that is left out"):
        one_file.flatten(
            [("funnelformer.modeling.model", "FunnelformerModel")],
            without_modules=["funnelformer.modeling.pooling"],
        )
    with pytest.raises(ValueError, match="FunnelformerConfig has no made_up"):
        one_file.flatten(
            [("funnelformer.config.model_config", "FunnelformerConfig")],
            without_methods={"FunnelformerConfig": ["made_up"]},
        )
