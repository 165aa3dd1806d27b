"""FastEmbed takes an export for embeddings as it is: in an environment of its own, without torch and the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.export.command import export
from funnelformer.inference.embedder import load_embedder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_shape_checks")]

# It wants an older client of the Hub than transformers, so the two cannot share an environment.
REQUIREMENT = "fastembed==0.9.1"
SCRIPT = """
import importlib.util, json, sys
import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

assert not any(importlib.util.find_spec(name) for name in ("torch", "transformers", "funnelformer"))
folder, texts, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
TextEmbedding.add_custom_model(
    model="ours", pooling=PoolingType.DISABLED, normalization=False, sources=ModelSource(url="local"),
    dim=16, model_file="model.onnx",
)
np.save(out, np.stack(list(TextEmbedding("ours", specific_model_path=folder).embed(texts, batch_size=3))))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with FastEmbed, which is installed for the test."""
    folder = tmp_path_factory.mktemp("fastembed")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", REQUIREMENT]
    subprocess.run(install, check=True)
    return python


def test_vectors_are_ours(python, toy, tmp_path):
    torch.manual_seed(3)
    tokenizer = load_tokenizer(toy.tokenizer)
    vectors = {"pooling": "mean_tokens", "normalize": True, "max_length": 12}
    config = FunnelformerConfig.from_name(
        "B1-1H16",
        vocab_size=len(tokenizer),
        initializer_std=0.4,
        decoder_layers=0,
        sentence_embedding=vectors,
    )
    FunnelformerModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(str(tmp_path / "model"), tmp_path / "onnx", check_to=20, say=lambda line: None)
    sentence = "the cat sleeps while seven dogs bark at night and nobody minds them at all"
    texts = [" ".join(sentence.split()[:number]) for number in (1, 2, 5, 9, 14, 3, 7)]
    file = tmp_path / "vectors.npy"
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    script = [str(python), "-c", SCRIPT, str(tmp_path / "onnx"), json.dumps(texts), str(file)]
    subprocess.run(script, check=True, env=environment)
    theirs = np.load(file)
    assert theirs.shape == (7, 16)
    for source in ("model", "onnx"):
        ours = load_embedder(str(tmp_path / source)).vectors(texts)
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    assert np.abs(theirs[0] - theirs[4]).max() > 0.01
