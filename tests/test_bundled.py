"""The model that comes with the package: found by its name, small, good, and a start for everything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import funnelformer
from funnelformer import Embedder, FunnelformerModel, cli, load_embedder
from funnelformer.base.bundled import BUNDLED, located
from funnelformer.base.sentence_modules import model_folder, read_modules
from funnelformer.checkpoints.card import inherited
from funnelformer.checkpoints.folders import find_foreign, resolve
from funnelformer.checkpoints.model_source import Folder, find_model

FOLDER = Path(located("mini"))
TEXTS = ["A cat sits on the mat.", "A kitten is on the rug.", "Interest rates rose again."]


def test_the_package_has_all_files_of_each_and_their_licence():
    for name in BUNDLED:
        folder = Path(located(name))
        assert folder.parent.parent == Path(funnelformer.__file__).parent
        names = ["config.json", "model.safetensors", "modules.json", "tokenizer.json", "README.md"]
        assert [entry for entry in names if not (folder / entry).is_file()] == []
        card = (folder / "README.md").read_text()
        assert "license: apache-2.0" in card
        assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in card
        assert (folder / "model.safetensors").stat().st_size < 32e6


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("mini") == Folder(FOLDER)
    (tmp_path / "mini").mkdir()
    assert located("mini") == "mini"
    assert find_model("mini") == Folder(Path("mini"))
    assert located("maxi") == "maxi"


def test_vectors_are_of_single_precision_and_know_what_is_alike():
    embedder = Embedder.from_pretrained("mini")
    vectors = embedder.vectors(TEXTS)
    assert {parameter.dtype for parameter in embedder.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.5
    assert alike[0, 1] > alike[0, 2] + 0.4
    np.testing.assert_allclose(load_embedder(str(FOLDER)).vectors(TEXTS), vectors, atol=0)
    model = FunnelformerModel.from_pretrained("mini")
    assert model.config.blocks == [2, 2, 2]
    assert model.config.embedding_size == 128


def test_it_agrees_with_its_teacher(minilm):
    """On texts that nobody trained on, the demo's sentences and questions: cosines of all pairs correlate."""
    demo = Path(__file__).parents[1] / "demo"
    texts = [
        line
        for name in ("sentences.txt", "questions.txt")
        for line in (demo / name).read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pairs = np.triu_indices(len(texts), 1)
    mini, teacher = (
        (vectors @ vectors.T)[pairs]
        for vectors in (load_embedder(name).vectors(texts) for name in ("mini", str(minilm)))
    )
    assert np.corrcoef(mini, teacher)[0, 1] > 0.9


def test_it_is_opened_by_its_name_wherever_a_folder_is():
    assert resolve("mini") == FOLDER
    assert find_foreign("mini") is None
    assert inherited("mini")["license"] == "apache-2.0"
    assert model_folder("mini") == FOLDER
    assert read_modules("mini") == read_modules(FOLDER)


def test_push_takes_the_name(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["push", "mini", "someone/mini", "--dry-run"])
    assert "model.safetensors" in capsys.readouterr().out


def test_commands_take_the_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n".join(TEXTS) + "\n")
    cli.main(["embed", "mini", "texts.txt", "--out", "vectors.npy"])
    expected = Embedder.from_pretrained("mini").vectors(TEXTS)
    np.testing.assert_allclose(np.load("vectors.npy"), expected, atol=1e-6)
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, "aab", strict=True)] * 2
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.main(
        [
            "finetune",
            "--model",
            "mini",
            "--train",
            "train.jsonl",
            "--dev",
            "train.jsonl",
            "--out",
            "out",
            "--steps",
            "2",
        ]
    )
    made = json.loads(Path("out/config.json").read_text())
    assert made["embedding_size"] == 128
    assert made["blocks"] == [2, 2, 2]
    assert "license: apache-2.0" in Path("out/README.md").read_text()
