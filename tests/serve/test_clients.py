"""The clients that people have, unchanged, against the real server: OpenAI's, LangChain's, the Hugging Face Hub's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from funnelformer.inference.embedder import load_embedder
from serve.running import WAIT_S

pytestmark = pytest.mark.slow

KEY = "correct-horse-battery"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def address(classifier):
    """`funnelformer serve` as a process of its own, with two names of one model and a token."""
    command = [sys.executable, "-m", "funnelformer", "serve", f"A={classifier}", f"B={classifier}"]
    command += ["--port", "0", "--device", "cpu"]
    source = str(Path(__file__).parents[2] / "src")
    own = os.environ | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "1", "FUNNELFORMER_TOKEN": KEY}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=own, text=True) as process:
        line = process.stdout.readline()
        yield re.search(r"http://[0-9.:]+", line)[0]
        process.terminate()
        assert process.wait(WAIT_S) == 0


@pytest.fixture(scope="module")
def expected(classifier, texts):
    """Vectors of length 1, as `funnelformer embed` makes them."""
    return load_embedder(str(classifier), normalize=True, device="cpu").vectors(texts)


@pytest.mark.parametrize("settings", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_openai_embeddings(address, texts, expected, settings):
    """The client asks for base64 unless told otherwise, and decodes it."""
    openai = pytest.importorskip("openai", reason="needs openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        answer = client.embeddings.create(model="A", input=texts, **settings)
        np.testing.assert_allclose([row.embedding for row in answer.data], expected, atol=TOLERANCE)
        assert answer.model == "A"
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(texts)
        one = client.embeddings.create(model="B", input=texts[0], **settings)
        np.testing.assert_allclose([one.data[0].embedding], expected[:1], atol=TOLERANCE)


def test_openai_models_and_errors(address):
    openai = pytest.importorskip("openai", reason="needs openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["A", "B"]
        assert client.models.retrieve("B").owned_by == "funnelformer"
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="gpt", input="a")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as wrong:
            client.embeddings.create(model="A", input="a", dimensions=8)
        assert wrong.value.body["message"] == "dimensions: is 8; the vectors of this model have 16 numbers"
        assert (wrong.value.param, wrong.value.type) == ("dimensions", "invalid_request_error")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"


def test_langchain(address, texts, expected):
    """Its tokenizer is OpenAI's unless told not to use it."""
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    embeddings = langchain.OpenAIEmbeddings(
        model="A", base_url=f"{address}/v1", api_key=KEY, check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(embeddings.embed_documents(texts), expected, atol=TOLERANCE)
    np.testing.assert_allclose([embeddings.embed_query(texts[0])], expected[:1], atol=TOLERANCE)


def test_hugging_face_hub(address, texts, expected, monkeypatch):
    """The client of text-embeddings-inference's /embed; the tests keep it from any other address."""
    from huggingface_hub import InferenceClient, constants
    from huggingface_hub.errors import HfHubHTTPError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client = InferenceClient(model=f"{address}/models/A/embed", token=KEY)
    np.testing.assert_allclose(client.feature_extraction(texts[0]), expected[:1], atol=TOLERANCE)
    plain = client.feature_extraction(texts[0], normalize=False, truncate=True)
    np.testing.assert_allclose(plain / np.linalg.norm(plain), expected[:1], atol=TOLERANCE)
    with pytest.raises(HfHubHTTPError, match="413"):
        client.feature_extraction("red " * 600, truncate=False)


def test_curl(address, texts, expected):
    """A command line, and a model named by the path."""
    body = json.dumps({"inputs": texts[:2]})
    head = ["curl", "-s", "-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json"]
    found = subprocess.run([*head, f"{address}/models/A/embed", "-d", body], capture_output=True, check=True)
    np.testing.assert_allclose(json.loads(found.stdout), expected[:2], atol=TOLERANCE)
