"""OpenAI's and text-embeddings-inference's forms, and /rank: values, lengths, errors. See test_clients, too."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch

from funnelformer import FunnelformerForSequenceClassification, FunnelformerModel
from funnelformer.base.sentence_modules import SentenceEmbedding
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.rank import rank
from serve.running import running, save

# Measured 1.2e-6 between a text alone and in a padded batch.
TOLERANCE = 1e-5
QUERY = "the red cat eats ."


@pytest.fixture(scope="module")
def vectors(classifier, texts):
    """Vectors [N, D] of length 1, of a direct call of the encoder with each text."""
    model = FunnelformerModel.from_pretrained(classifier, decoder_layers=0).eval()
    tokenizer = load_tokenizer(classifier)
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).encoder_last_hidden_state for text in texts]
    means = torch.cat([state.mean(1) for state in states])
    return (means / means.norm(dim=-1, keepdim=True)).numpy()


@pytest.fixture(scope="module")
def logits(classifier):
    """A function from a text or a pair to the logits of a direct call."""
    return caller(classifier)


def caller(folder):
    model = FunnelformerForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder)

    def call(*parts):
        with torch.no_grad():
            return model(**tokenizer(*parts, return_tensors="pt")).logits[0].double().numpy()

    return call


@pytest.fixture(scope="module")
def pairs(toy):
    """Models of pairs, of two classes and of amounts."""
    task = {"text": "a", "text_pair": "b"}
    two = save(toy.folder / "rank-two", toy.tokenizer, "texts", task, labels=("no", "yes"))
    amounts = save(
        toy.folder / "rank-amounts", toy.tokenizer, "texts", task, num_labels=1, problem_type="regression"
    )
    models = {"two": str(two), "amounts": str(amounts)}
    with running(None, models=models) as client:
        yield client, models


def embeddings(client, given, **more):
    reply = client.post("/v1/embeddings", {"input": given, "model": "classes"} | more)
    assert reply.status == 200, reply.body
    answer = reply.json
    assert (answer["object"], answer["model"]) == ("list", "classes")
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    assert {entry["object"] for entry in answer["data"]} == {"embedding"}
    return [entry["embedding"] for entry in answer["data"]], answer["usage"]


def softmax(values):
    shares = np.exp(values - values.max())
    return shares / shares.sum()


def test_openai_embeddings(service, classifier, texts, vectors):
    tokenizer = load_tokenizer(classifier)
    found, usage = embeddings(service, texts)
    np.testing.assert_allclose(found, vectors, atol=TOLERANCE)
    num_tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert usage == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    (one,), _ = embeddings(service, texts[0], user="somebody", dimensions=16.0)
    np.testing.assert_allclose(one, vectors[0], atol=TOLERANCE)


def test_openai_base64_is_float32(service, texts):
    numbers, _ = embeddings(service, texts[:3])
    encoded, _ = embeddings(service, texts[:3], encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(entry), "<f4").tolist() for entry in encoded]
    np.testing.assert_allclose(decoded, numbers, atol=1e-6)  # batches may differ
    assert len(decoded[0]) == 16


@pytest.mark.parametrize("is_framed", [False, True])
def test_openai_token_ids(service, classifier, texts, vectors, is_framed):
    """Of this model's tokenizer, with the special tokens around them or without: the vector is that of the text."""
    tokenizer = load_tokenizer(classifier)
    ids = [tokenizer(text, add_special_tokens=is_framed)["input_ids"] for text in texts]
    found, usage = embeddings(service, ids)
    np.testing.assert_allclose(found, vectors, atol=TOLERANCE)
    assert usage["prompt_tokens"] == sum(len(tokenizer(text)["input_ids"]) for text in texts)
    (one,), _ = embeddings(service, ids[0])
    np.testing.assert_allclose(one, vectors[0], atol=TOLERANCE)


def test_prompts(toy):
    """The default prompt stands before texts and before ids; /embed may name another."""
    settings = SentenceEmbedding(prompts={"query": "the blue ", "other": "the red "}, default_prompt="query")
    folder = save(toy.folder / "prompts", toy.tokenizer, "masked", sentence_embedding=settings.to_dict())
    ids = load_tokenizer(folder)("cat runs", add_special_tokens=False)["input_ids"]
    with running(folder) as client:
        plain = client.results("/embed", texts=["cat runs"], normalize=True)[0]["vector"]
        for given in ("cat runs", ids):
            body = {"input": given, "model": "prompts"}
            found = client.post("/v1/embeddings", body).json["data"][0]["embedding"]
            assert found == pytest.approx(plain, abs=TOLERANCE)
        other = client.post("/embed", {"inputs": "cat runs", "prompt_name": "other"}).json[0]
        assert np.abs(np.subtract(other, plain)).max() > 0.01
        reply = client.post("/embed", {"inputs": "cat runs", "prompt_name": "none"})
        assert (reply.status, reply.json) == (
            422,
            {
                "error": "the model: has no prompt 'none'; it has: other, query",
                "error_type": "Validation",
            },
        )


def test_openai_models(service):
    (model,) = service.get("/v1/models").json["data"]
    assert model.pop("created") > 1_700_000_000
    assert model == {"id": "classes", "object": "model", "owned_by": "funnelformer"}
    assert service.get("/v1/models/classes").json["id"] == "classes"
    assert service.send("HEAD", "/v1/models/classes").status == 200
    reply = service.get("/v1/models/gpt")
    error = {
        "message": "no model 'gpt'; served: classes",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert (reply.status, reply.json) == (404, {"error": error})
    assert 'route="/v1/models/{model}",status="404"' in service.get("/metrics").body.decode()


@pytest.mark.parametrize(
    ("change", "status", "param", "said"),
    [
        ({"model": "gpt"}, 404, "model", "no model 'gpt'; served: classes"),
        ({"model": None}, 400, "model", "model: Input should be a valid string"),
        ({"input": []}, 400, "input", "input: List should have at least 1 item after validation, not 0"),
        ({"input": "  "}, 400, "input", None),
        ({"input": ["a", ""]}, 400, "input", None),
        ({"input": ["a", 7]}, 400, "input", "input.1: Input should be a valid string"),
        ({"input": [7, "a"]}, 400, "input", "input.1: Input should be a valid integer"),
        ({"input": [7.5]}, 400, "input", "input.0: Input should be a valid integer"),
        ({"input": [True]}, 400, "input", "input.0: Input should be a valid string"),
        ({"input": [[]]}, 400, "input", None),
        ({"input": [9_999]}, 400, "input", "input.0: Input should be less than 69"),
        ({"input": [-1]}, 400, "input", "input.0: Input should be greater than or equal to 0"),
        ({"input": {"a": 1}}, 400, "input", None),
        (
            {"input": ["a"] * 65},
            400,
            "input",
            "input: List should have at most 64 items after validation, not 65",
        ),
        ({"input": "red " * 600}, 400, "input", "input.0: has more than the 512 tokens that the model reads"),
        (
            {"input": [[9], [9] * 511]},
            400,
            "input",
            "input.1: has more than the 512 tokens that the model reads",
        ),
        ({"dimensions": 8}, 400, "dimensions", "dimensions: is 8; the vectors of this model have 16 numbers"),
        ({"dimensions": 0}, 400, "dimensions", None),
        ({"encoding_format": "hex"}, 400, "encoding_format", None),
        ({"texts": ["a"]}, 400, "texts", "texts: Extra inputs are not permitted"),
    ],
    ids=lambda value: None if not isinstance(value, dict) else str(value)[:32],
)
def test_openai_refusals(service, change, status, param, said):
    reply = service.post("/v1/embeddings", {"input": "a", "model": "classes"} | change)
    error = reply.json["error"]
    assert list(reply.json) == ["error"]
    if said and "less than" in said:
        said = said.replace("69", error["message"].rpartition(" ")[2])
    assert (reply.status, error["message"]) == (status, said or error["message"])
    assert "\n" not in error["message"]
    code = "model_not_found" if status == 404 else None
    assert error == {
        "message": error["message"], "type": "invalid_request_error", "param": param, "code": code,
    }  # fmt: skip


def test_errors_before_a_route_have_its_protocols_form(classifier):
    """No token, no JSON, too large, another kind of body: in the form of the path, with one status for all."""
    token = "correct-horse-battery"
    with running(classifier, token=token, max_body_bytes=1000) as client:
        right = {"Authorization": f"Bearer {token}"}
        for path in ("/v1/embeddings", "/embed", "/predict", "/rerank", "/rank", "/classify"):
            replies = {
                401: client.post(path, {}),
                400: client.post(path, b"{", **right),
                413: client.post(path, b" " * 2000, **right),
                415: client.post(path, {}, Content_Encoding="br", **right),
            }
            for status, reply in replies.items():
                assert reply.status == status
                if path.startswith("/v1"):
                    code = "invalid_api_key" if status == 401 else None
                    message = reply.json["error"].pop("message")
                    assert reply.json["error"] | {"message": message} == {
                        "message": message, "type": "invalid_request_error", "param": None, "code": code,
                    }  # fmt: skip
                elif path in ("/rank", "/classify"):
                    assert reply.error
                else:
                    assert set(reply.json) == {"error", "error_type"}
                    assert reply.json["error_type"] == "Validation"
        for path in ("/v1/models", "/info"):
            assert client.get(path).status == 401
            assert client.send("GET", path, **right).status == 200
        assert client.post("/embed", {"inputs": "a"}, **right).status == 200


def test_compressed_bodies(service):
    import gzip

    body = gzip.compress(json.dumps({"input": "the cat", "model": "classes"}).encode())
    assert service.post("/v1/embeddings", body, Content_Encoding="gzip").status == 200
    body = gzip.compress(json.dumps({"inputs": "the cat"}).encode())
    for path in ("/embed", "/predict"):
        assert service.post(path, body, Content_Encoding="gzip").status == 200


def test_tei_embed(service, texts, vectors):
    np.testing.assert_allclose(service.post("/embed", {"inputs": texts}).json, vectors, atol=TOLERANCE)
    np.testing.assert_allclose(service.post("/embed", {"inputs": texts[0]}).json, vectors[:1], atol=TOLERANCE)
    raw = service.post("/embed", {"inputs": texts[:2], "normalize": False}).json
    ours = service.results("/embed", texts=texts[:2])
    np.testing.assert_allclose(raw, [row["vector"] for row in ours], atol=TOLERANCE)


def test_tei_truncate(classifier):
    """A text of 40 words at 12 tokens: refused, cut to its first ten when asked, or with --auto-truncate."""
    long, short = "red " * 40, "red " * 10
    for settings in ({}, {"auto_truncate": True}):
        with running(classifier, max_length=12, **settings) as client:
            (expected,) = client.post("/embed", {"inputs": short}).json
            (found,) = client.post("/embed", {"inputs": long, "truncate": True}).json
            assert found == pytest.approx(expected, abs=TOLERANCE)
            refused = client.post("/embed", {"inputs": ["a", long], "truncate": False})
            assert (refused.status, refused.json) == (
                413,
                {
                    "error": "inputs.1: has more than the 12 tokens that the model reads",
                    "error_type": "Validation",
                },
            )
            said = 200 if settings else 413
            assert client.post("/embed", {"inputs": long}).status == said
            assert client.post("/predict", {"inputs": long}).status == said
            body = {"input": long, "model": "classes"}
            assert client.post("/v1/embeddings", body).status == (200 if settings else 400)
            assert client.get("/info").json["auto_truncate"] is bool(settings)


def test_tei_predict(service, texts, logits):
    """A text and a pair have a list of labels, a batch a list of those; best first."""

    def expected(*parts, raw=False):
        scores = logits(*parts) if raw else softmax(logits(*parts))
        rows = zip(scores.tolist(), ("no", "perhaps", "yes"), strict=True)
        return [
            {"score": pytest.approx(score, abs=TOLERANCE), "label": label}
            for score, label in sorted(rows, reverse=True)
        ]

    a, b = texts[:2]
    assert service.post("/predict", {"inputs": a}).json == expected(a)
    assert service.post("/predict", {"inputs": [a, b]}).json == expected(a, b)
    assert service.post("/predict", {"inputs": [[a], [a, b], [b]]}).json == [
        expected(a), expected(a, b), expected(b),
    ]  # fmt: skip
    assert service.post("/predict", {"inputs": [[a]], "raw_scores": True}).json == [expected(a, raw=True)]


def test_tei_predict_of_several_labels(toy, texts):
    """Each label has its own probability."""
    folder = save(
        toy.folder / "several", toy.tokenizer, "texts", labels=("a", "b", "c"),
        problem_type="multi_label_classification",
    )  # fmt: skip
    with running(folder) as client:
        found = {row["label"]: row["score"] for row in client.post("/predict", {"inputs": texts[0]}).json}
    shares = 1 / (1 + np.exp(-caller(folder)(texts[0])))
    assert found == pytest.approx(dict(zip("abc", shares.tolist(), strict=True)), abs=TOLERANCE)


@pytest.mark.parametrize("name", ["two", "amounts"])
def test_tei_rerank(pairs, texts, name):
    """Of two classes the second's probability, of amounts their sigmoid; raw: what the sigmoid was taken of."""
    client, folders = pairs
    call = caller(folders[name])
    values = np.array([call(QUERY, text) for text in texts])
    raw = values[:, 0] if values.shape[1] == 1 else values[:, 1] - values[:, 0]
    order = np.argsort(-raw)
    body = {"query": QUERY, "texts": texts, "model": name}
    found = client.post("/rerank", body).json
    assert [row["index"] for row in found] == order.tolist()
    scores = 1 / (1 + np.exp(-raw[order]))
    assert [row["score"] for row in found] == pytest.approx(scores.tolist(), abs=TOLERANCE)
    assert set(found[0]) == {"index", "score"}
    found = client.post("/rerank", body | {"raw_scores": True, "return_text": True}).json
    assert [row["score"] for row in found] == pytest.approx(raw[order].tolist(), abs=TOLERANCE)
    assert [row["text"] for row in found] == [texts[index] for index in order]
    reranker = client.get(f"/models/{name}/info").json["model_type"]["reranker"]
    assert len(reranker["id2label"]) == values.shape[1]


@pytest.mark.parametrize("name", ["two", "amounts"])
def test_rank_is_that_of_the_command(pairs, texts, tmp_path, name):
    client, folders = pairs
    source, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"{text}\n" for text in texts))
    rank(folders[name], str(source), query=QUERY, out=out, device="cpu")
    expected = [json.loads(line) for line in out.read_text().splitlines()]
    found = client.results("/rank", query=QUERY, texts=texts, model=name)
    assert [(row["rank"], row["index"] + 1) for row in found] == [
        (row["rank"], row["row"]) for row in expected
    ]
    scores = [row["score"] for row in expected]
    assert [row["score"] for row in found] == pytest.approx(scores, abs=TOLERANCE)
    assert not any(row["cut"] for row in found)
    best = client.results("/rank", query=QUERY, texts=texts, top=2, model=name)
    assert [row["index"] for row in best] == [row["index"] for row in found[:2]]


def test_rank_by_a_label(service, texts, logits):
    found = service.results("/rank", query=QUERY, texts=texts, label="perhaps")
    scores = np.array([softmax(logits(QUERY, text))[1] for text in texts])
    assert [row["score"] for row in found] == pytest.approx(sorted(scores, reverse=True), abs=TOLERANCE)
    for label, said in (
        (None, "the model: use label to name the label whose probability is the score: no, perhaps, yes"),
        ("yess", "label yess: no label of the model; did you mean 'yes'?; it has no, perhaps, yes"),
    ):
        reply = service.post("/rank", {"query": QUERY, "texts": texts, "label": label})
        assert reply.status == 422
        assert reply.error.split(";")[0] == said.split(";")[0]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "said"),
    [
        ("/embed", {"inputs": []}, 400, "Empty", None),
        ("/embed", {"inputs": ""}, 400, "Empty", None),
        ("/embed", {"inputs": ["a"] * 65}, 413, "Validation", None),
        ("/embed", {"inputs": 7}, 422, "Validation", "inputs: Input should be a text or a list of texts"),
        ("/embed", {"inputs": ["a", 7]}, 422, "Validation", "inputs.1: Input should be a valid string"),
        ("/embed", {"inputs": "a", "pooling": "cls"}, 422, "Validation", None),
        ("/embed", {"inputs": "a", "truncation_direction": "Left"}, 422, "Validation", None),
        ("/embed", {"inputs": "a", "model": "x"}, 404, "Validation", "no model 'x'; served: classes"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation", None),
        ("/predict", {"inputs": [["a"], "b"]}, 422, "Validation", "inputs.1: Input should be a valid list"),
        ("/predict", {"inputs": [[]]}, 400, "Empty", None),
        ("/predict", {}, 422, "Validation", "inputs: Field required"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty", None),
        (
            "/rerank", {"query": "a", "texts": ["b"]}, 424, "Backend",
            "this model is not a reranker: it gives neither amounts nor two classes",
        ),
    ],
)  # fmt: skip
def test_tei_refusals(service, path, body, status, kind, said):
    reply = service.post(path, body)
    assert (reply.status, reply.json["error_type"]) == (status, kind)
    assert set(reply.json) == {"error", "error_type"}
    assert reply.json["error"] == (said or reply.json["error"])


def test_tei_models_that_cannot(toy):
    folder = save(toy.folder / "cannot", toy.tokenizer, "masked")
    with running(folder) as client:
        assert client.get("/info").json["model_type"] == {"embedding": {"pooling": "mean"}}
        for path, body in (("/predict", {"inputs": "a"}), ("/rerank", {"query": "a", "texts": ["b"]})):
            reply = client.post(path, body)
            assert (reply.status, reply.json["error_type"]) == (424, "Backend")
            assert reply.json["error"].endswith("it answers /embed, /fill, /inspect")
        assert client.post("/rank", {"query": "a", "texts": ["b"]}).status == 409


def test_tei_info(service):
    labels = ("no", "perhaps", "yes")
    names = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    info = service.get("/info").json
    assert info.pop("version")
    assert info == {
        "model_id": "classes",
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": {"classifier": names},
        "max_concurrent_requests": 256,
        "max_input_length": 512,
        "max_batch_tokens": 1024,
        "max_batch_requests": None,
        "max_client_batch_size": 64,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "sha": None,
        "docker_label": None,
    }
