"""A model's folder that names code of its own is refused before anything is run, loaded or asked."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import funnelformer
from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification, FunnelformerModel
from funnelformer.base.errors import UserError
from funnelformer.data.tokenizer import load_tokenizer
from training.toy import fails

SOURCES = Path(funnelformer.__file__).parent


@pytest.fixture(scope="module")
def classifier(toy):
    tokenizer = load_tokenizer(toy.tokenizer)
    names = {0: "no", 1: "yes"}
    config = FunnelformerConfig.from_name("L1H16", vocab_size=len(tokenizer), id2label=names)
    folder = toy.folder / "classifier"
    FunnelformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def planted(classifier, tmp_path):
    """A folder with a module that leaves a file when it is run; `planted(file, **entries)` adds to a config."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(classifier, folder)
    module = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"

    def plant(name: str, **entries) -> Path:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        (file.parent / "planted.py").write_text(module + "class Planted: pass\n")
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**content, **entries}))
        return folder

    yield plant
    assert not ran.exists()


ATTACKS = {
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": [None, "planted.Planted"]}},
    "config.json": {
        "auto_map": {"AutoConfig": "planted.Planted", "AutoTokenizer": [None, "planted.Planted"]}
    },
    "generator/config.json": {"auto_map": {"AutoConfig": "planted.Planted"}},
    "generator/tokenizer_config.json": {"auto_map": {"AutoTokenizer": [None, "planted.Planted"]}},
    "processor_config.json": {"auto_map": {"AutoProcessor": "planted.Planted"}},
    "generation_config.json": {"nested": [{"auto_map": {"x": "planted.Planted"}}]},
    "adapter_config.json": {"auto_mapping": {"base_model_class": "Planted", "parent_library": "planted"}},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_code_of_a_folder_is_refused(planted, capsys, tmp_path, name):
    folder = planted(name, **ATTACKS[name])
    texts = tmp_path / "texts.txt"
    texts.write_text("the red cat sings .\n")
    for command, arguments in {
        "predict": (folder, texts),
        "embed": (folder, texts, "--out", tmp_path / "o.npy"),
        "info": (folder,),
        "export": (folder, tmp_path / "out"),
        "convert": (folder, tmp_path / "out"),
    }.items():
        message = fails(capsys, command, *arguments)
        assert message.startswith(f"{folder / name}: "), command
        assert "names code to run" in message
        assert "planted" in message
    for load in (FunnelformerModel.from_pretrained, load_tokenizer):
        with pytest.raises(UserError, match="names code to run"):
            load(folder)


@pytest.mark.parametrize("name", ["config.json", "generator/config.json"])
def test_yes_on_stdin_is_a_text_and_no_answer(planted, capsys, monkeypatch, name):
    """transformers would ask on stdin, where the texts are."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"y\nthe red cat sings .\n")))
    message = fails(capsys, "predict", planted(name, **ATTACKS[name]), "-")
    assert "'auto_map' names code to run" in message
    assert sys.stdin.read().startswith("y")  # nobody has read it


@pytest.mark.slow
def test_yes_on_stdin_of_a_process(planted):
    """The attack itself."""
    name = "tokenizer_config.json"
    folder = planted(name, **ATTACKS[name])
    done = subprocess.run(
        [sys.executable, "-m", "funnelformer", "predict", str(folder), "-"],
        input="y\nthe red cat sings .\n",
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [done.stderr.rstrip("\n")]
    assert done.stderr.startswith(f"error: {folder / name}: 'auto_map' names code to run (")


def test_modules_of_another_package_are_refused(planted, capsys, tmp_path):
    folder = planted("modules.json")
    module = {"idx": 0, "name": "0", "path": "", "type": "planted.Planted"}
    (folder / "modules.json").write_text(json.dumps([module]))
    message = fails(capsys, "embed", folder, "--out", tmp_path / "o.npy")
    assert message.startswith(f"{folder / 'modules.json'}: 'type' names code to run ('planted.Planted')")


def test_a_kernel_of_the_hub_is_refused(planted, capsys, tmp_path):
    folder = planted("config.json", attn_implementation="someone/kernel")
    message = fails(capsys, "predict", folder, "-")
    assert "'attn_implementation' names code to run (\"someone/kernel\")" in message


def test_an_empty_map_and_a_large_file_are_no_code(planted, classifier):
    folder = planted("tokenizer_config.json", auto_map={})
    assert len(load_tokenizer(folder)) == len(load_tokenizer(classifier))


def test_every_call_that_loads_refuses_code():
    """By the syntax of all our files: a new call without `trust_remote_code=False` fails here."""
    asked, found = 0, []
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = {keyword.arg: keyword.value for keyword in node.keywords}
            where = f"{file.relative_to(SOURCES)}:{node.lineno}"
            if name in ("pipeline", "CrossEncoder", "from_config", "input"):
                found.append(where)
            if name in ("from_pretrained", "SentenceTransformer"):
                asked += 1
                value = names.get("trust_remote_code")
                passes_on = None in names and _sets_trust(file, node.lineno)
                if not passes_on and not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(where)
            if name == "load_dataset" and not _is_of_the_hub(file):
                found.append(where)
    assert asked >= 10
    assert found == []


def _sets_trust(file: Path, line: int) -> bool:
    """Whether the method around a call sets the key in the keywords that it hands on."""
    return any(
        isinstance(node, ast.FunctionDef)
        and node.lineno <= line <= (node.end_lineno or 0)
        and any(ast.unparse(part) == "kwargs['trust_remote_code'] = False" for part in node.body)
        for node in ast.walk(ast.parse(file.read_text()))
    )


def _is_of_the_hub(file: Path) -> bool:
    """Where `load_dataset` is called, with a name of the Hub and never with a folder."""
    return file.name in ("tables.py", "documents.py") and "load_dataset(str(" not in file.read_text()
