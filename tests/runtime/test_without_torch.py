"""An export is run where PyTorch and what comes with it cannot be imported, and in an environment that lacks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import funnelformer
from funnelformer import FunnelformerConfig
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.export.command import export
from funnelformer.export.signatures import TARGETS
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.predict import predict
from funnelformer.inference.predictor import load_predictor
from funnelformer.inference.rank import rank
from runtime.without_torch import commands, serve_once

ROOT = Path(__file__).parents[2]
SOURCE = Path(funnelformer.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("no_shape_checks", "traced_once")
LABELS = ("no", "perhaps", "yes")
TEXTS = [
    "the red cat sleeps",
    "a dog",
    "two birds sing at night",
    "the cat and the dog",
    "the red dog sleeps",
]


def make(folder, toy, task, settings, **options):
    """An export of a model with random weights."""
    torch.manual_seed(6)
    tokenizer = load_tokenizer(toy.tokenizer)
    config = FunnelformerConfig.from_name(
        "B1-1H16", vocab_size=len(tokenizer), initializer_std=0.4, **options
    )
    source = folder / f"{task}-source"
    TARGETS[task].model_class(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    (source / "task.json").write_text(json.dumps({"max_length": 40, **settings}))
    export(str(source), folder / task, check_to=10, say=lambda line: None)
    return folder / task


@pytest.fixture(scope="module")
def exports(toy, no_shape_checks, traced_once):
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    folder = toy.folder / "without-torch"
    pairs = make(folder, toy, "text-classification", {}, **names)
    vectors = {"pooling": "mean_tokens", "normalize": True, "max_length": 12}
    encoder = make(folder, toy, "feature-extraction", {}, decoder_layers=0, sentence_embedding=vectors)
    return pairs, encoder


@pytest.fixture
def environment(tmp_path):
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    return {**kept, "PYTHONPATH": str(SOURCE), "HOME": str(tmp_path)}


def check(exports, folder, environment, python, block):
    """predict, rank, embed and a refusal in such a process; what they write is what this process writes."""
    classes, encoder = map(str, exports)
    texts = folder / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text in TEXTS))
    pairs = folder / "pairs.csv"
    pairs.write_text("a,b\n" + "".join(f"{text},the cat\n" for text in TEXTS))
    out = folder / "out"
    out.mkdir()
    (folder / "here").mkdir()
    given = ["--backend", "onnx"]
    lines = [
        ["predict", classes, str(texts), "--out", str(out / "texts.jsonl"), *given],
        ["predict", classes, str(pairs), "--text", "a", "--text-pair", "b", "--out", str(out / "pairs.csv"), *given],
        ["rank", classes, str(texts), "--query", "the cat", "--label", "yes", "--out", str(out / "rank.jsonl"), *given],
        ["embed", encoder, str(texts), "--out", str(out / "vectors.npy"), *given],
        ["embed", encoder, str(texts), "--out", str(out / "vectors.jsonl"), *given],
        ["evaluate", classes, str(pairs), "--text", "a", "--label", "b", *given],
    ]  # fmt: skip
    done = commands(lines, environment, python, block)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "'the cat', which is not one of the model's labels" in error or "is not installed" in error
    predict(classes, str(texts), out=folder / "here" / "texts.jsonl", backend="onnx")
    predict(classes, str(pairs), text="a", text_pair="b", out=folder / "here" / "pairs.csv", backend="onnx")
    asked = {"query": "the cat", "label": "yes"}
    rank(classes, str(texts), **asked, out=folder / "here" / "rank.jsonl", backend="onnx")
    for name in ("texts.jsonl", "pairs.csv", "rank.jsonl"):
        assert (out / name).read_text() == (folder / "here" / name).read_text()
    vectors = np.load(out / "vectors.npy")
    np.testing.assert_array_equal(vectors, load_embedder(encoder, backend="onnx").vectors(TEXTS))
    source = load_embedder(f"{encoder}-source", device="cpu").vectors(TEXTS)
    np.testing.assert_allclose(vectors, source, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_with_imports_that_fail(exports, tmp_path, environment):
    check(exports, tmp_path, environment, sys.executable, block=True)


def test_what_needs_pytorch_says_so(exports, tmp_path, environment):
    done = commands([["predict", f"{exports[0]}-source", str(tmp_path)]], environment)
    assert done.returncode == 2
    assert "torch is not installed: without it funnelformer runs exports alone" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_serve_with_imports_that_fail(exports, environment):
    answer = serve_once(exports[0], "/classify", {"texts": TEXTS}, environment, sys.executable, block=True)
    predictor = load_predictor(str(exports[0]), backend="onnx")
    expected = predictor.answers(predictor.logits(TEXTS))
    assert [row["prediction"] for row in answer["results"]] == [row["prediction"] for row in expected]


@pytest.mark.slow
def test_in_an_environment_from_the_lock(exports, tmp_path, environment):
    """As the Dockerfile makes it: the files whose hashes the lock has, and the package without its dependencies."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    lock = str(ROOT / "requirements" / "runtime.txt")
    subprocess.run([*install, "--require-hashes", "--only-binary", ":all:", "-r", lock], check=True)
    absent = (
        "from importlib.util import find_spec\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pandas') if find_spec(name)])"
    )
    found = subprocess.run([python, "-c", absent], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    check(exports, tmp_path, environment, python, block=False)
    answer = serve_once(exports[1], "/embed", {"texts": TEXTS}, environment, python, block=False)
    expected = load_embedder(str(exports[1]), backend="onnx").vectors(TEXTS)
    found = np.array([row["vector"] for row in answer["results"]], dtype=np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["runtime", "build"])
def test_a_lock_has_every_package_with_its_hashes(name):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    packages = [line.partition("==")[0] for line in lines if "==" in line]
    needed = {"onnxruntime", "tokenizers", "numpy", "fastapi", "uvicorn", "cyclopts"}
    assert (needed if name == "runtime" else {"setuptools"}) <= set(packages)
    assert not {"torch", "transformers", "pandas", "datasets"} & set(packages)
    for line, following in pairwise(lines):
        if "==" in line:
            assert following.lstrip().startswith("--hash=sha256:")
    assert not any("://" in line or line.startswith("-") for line in lines)


def test_the_image_gets_the_files_that_it_copies():
    """What the Dockerfile copies is there, and .dockerignore lets it through."""
    rules = (ROOT / ".dockerignore").read_text().split()
    assert rules[0] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    words = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines()]
    copied = {
        name for line in words if line[:1] == ["COPY"] and "--from" not in line[1] for name in line[1:-1]
    }
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)
