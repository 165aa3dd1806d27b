"""Several models in one process: which one a request is for, and that none starves beside another."""

from __future__ import annotations

import threading
import time

import pytest

from funnelformer import UserError
from funnelformer.serve.config import name_models
from funnelformer.serve.torch_backend import TorchBackend
from serve.running import running, save, until


@pytest.fixture(scope="module")
def both(toy, classifier):
    other = save(toy.folder / "other", toy.tokenizer, "texts", labels=("red", "blue"), layout="B1-1H8")
    return {"A": str(classifier), "B": str(other)}


@pytest.fixture(scope="module")
def client(both):
    with running(None, models=both) as client:
        yield client


def test_each_model_answers_by_its_name(client, both):
    """In the body or in the path, on every route that has a body: with the answer of a service of its own."""
    bodies = {
        "/classify": {"texts": ["the cat runs ."]},
        "/embed": {"texts": ["the cat runs ."]},
        "/predict": {"inputs": "the cat runs ."},
        "/inspect": {"text": "the cat runs ."},
        "/rank": {"query": "the cat", "texts": ["the dog", "the red cat"], "label": None},
    }
    for name, folder in both.items():
        with running(folder) as alone:
            for path, body in bodies.items():
                if path == "/rank":
                    body = body | {"label": "yes" if name == "A" else "blue"}
                expected = alone.post(path, body).json
                assert client.post(path, body | {"model": name}).json == expected
                assert client.post(f"/models/{name}{path}", body).json == expected
            body = {"input": "the cat runs ."}
            expected = alone.post("/v1/embeddings", body | {"model": alone.get("/health").json["model"]}).json
            for path in ("/v1/embeddings", f"/models/{name}/v1/embeddings"):
                found = client.post(path, body | {"model": name}).json
                assert found == expected | {"model": name}
            expected = alone.get("/health").json
            found = client.get(f"/models/{name}/health").json
            assert found == expected | {"model": name, "uptime_s": found["uptime_s"]}


def test_lists_of_models(client):
    assert [model["id"] for model in client.get("/v1/models").json["data"]] == ["A", "B"]
    assert [model["id"] for model in client.get("/models/B/v1/models").json["data"]] == ["B"]
    health = client.get("/health").json
    assert health["status"] == "ok"
    assert [one["labels"] for one in health["models"].values()] == [["no", "perhaps", "yes"], ["red", "blue"]]
    assert client.get("/models/B/info").json["model_id"] == "B"
    servers = [server["url"] for server in client.get("/openapi.json").json["servers"]]
    assert servers == [".", "./models/A", "./models/B"]
    assert client.get("/models/A/").body == client.get("/").body
    reply = client.get("/models/A")
    assert (reply.status, reply.headers["location"]) == (308, "/models/A/")


def test_a_model_must_be_named_and_be_there(client):
    said = "model: there are several models; name one here or in the path /models/NAME/...; served: A, B"
    reply = client.post("/classify", {"texts": ["a"]})
    assert (reply.status, reply.error) == (422, said)
    reply = client.post("/predict", {"inputs": "a"})
    assert (reply.status, reply.json) == (422, {"error": said, "error_type": "Validation"})
    reply = client.get("/info")
    assert (reply.status, reply.json) == (422, {"error": said, "error_type": "Validation"})
    for path, body in (
        ("/classify", {"texts": ["a"], "model": "C"}),
        ("/models/C/classify", {"texts": ["a"]}),
    ):
        reply = client.post(path, body)
        assert (reply.status, reply.error) == (404, "no model 'C'; served: A, B")
    reply = client.post("/models/A/classify", {"texts": ["a"], "model": "B"})
    assert (reply.status, reply.error) == (422, "model: is 'B', but the path says 'A'")
    reply = client.post("/models/C/v1/embeddings", {"input": "a", "model": "C"})
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")


def test_below_a_proxys_path(both):
    with running(None, models=both, root_path="/nlp") as client:
        for prefix in ("", "/nlp"):
            assert client.post(f"{prefix}/models/B/classify", {"texts": ["a"]}).status == 200
            assert client.get(f"{prefix}/models/B").headers["location"] == "/nlp/models/B/"


def test_a_token_is_needed_for_each(both):
    with running(None, models=both, token="correct-horse-battery") as client:
        for path in ("/models/A/metrics", "/models/A/v1/models", "/models/A/info", "/v1/models"):
            assert client.get(path).status == 401
        assert client.get("/models/A/health").status == 200
        assert client.post("/models/A/predict", {"inputs": "a"}).json["error_type"] == "Validation"


def test_a_flood_of_one_model_leaves_the_other_its_answers(both, monkeypatch):
    """A's queue and its share of the requests are full, of texts that take 20 ms each; B's answers come between them.

    Each batch is one text: with one queue for both, B's three requests would wait for 30 of A's texts, or be refused.
    """
    original, order = TorchBackend.logits, []

    def slow(self, features):
        is_b = self.model.config.num_labels == 2
        if not is_b:
            time.sleep(0.02)
        order.append("b" if is_b else "a")
        return original(self, features)

    monkeypatch.setattr(TorchBackend, "logits", slow)
    settings = {"max_batch_tokens": 1, "max_queue": 40, "max_texts": 40, "max_requests": 4}
    with running(None, models=both, **settings) as client:
        replies = []

        def flood():
            replies.append(client.post("/models/A/classify", {"texts": ["the cat"] * 38}))

        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: "a" in order and (len(order) > 3 or replies), "A is not asked")
        for _ in range(3):
            assert client.post("/models/B/classify", {"texts": ["the dog"]}).status == 200
        num_before = len(order)
        for thread in threads:
            thread.join(60)
        assert sorted(reply.status for reply in replies) == [200, 429]
        assert order.count("b") == 3
        assert num_before < 38, order  # B was answered while A's texts waited
        metrics = client.get("/metrics").body.decode()
        assert 'funnelformer_model_tokens_total{model="B"} 12.0' in metrics
        assert client.counter("funnelformer_model_seconds_total") > 38 * 0.02


def test_requests_of_one_model_do_not_take_all(both, monkeypatch):
    """Of 4 requests in progress 2 may be A's; a third is refused, and B is answered."""
    go_on = threading.Event()
    original = TorchBackend.logits

    def held(self, features):
        if self.model.config.num_labels == 3:
            assert go_on.wait(30)
        return original(self, features)

    monkeypatch.setattr(TorchBackend, "logits", held)
    with running(None, models=both, max_requests=4) as client:
        replies = []
        body = {"texts": ["the cat"]}
        threads = [
            threading.Thread(target=lambda: replies.append(client.post("/models/A/classify", body)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: client.counter("funnelformer_requests_in_progress") == 2, "A is not asked")
        time.sleep(0.1)  # counted by the model too
        third = client.post("/models/A/classify", body)
        assert (third.status, third.error) == (429, "too many requests for this model are in progress")
        assert third.headers["retry-after"] == "1"
        waiting = threading.Thread(target=lambda: replies.append(client.post("/models/B/classify", body)))
        waiting.start()
        until(lambda: client.counter("funnelformer_requests_in_progress") == 3, "B is refused")
        go_on.set()
        for thread in (*threads, waiting):
            thread.join(60)
        assert [reply.status for reply in replies] == [200] * 3


def test_names_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c=d"):
        (tmp_path / name).mkdir()
    assert name_models(["A=a", "B=b"]) == {"A": "a", "B": "b"}
    assert name_models([str(tmp_path / "a"), "b"]) == {"a": str(tmp_path / "a"), "b": "b"}
    assert name_models(["c=d"]) == {"c=d": "c=d"}  # a folder
    assert name_models(["."]) == {tmp_path.name: "."}
    assert name_models(["org/name"]) == {"name": "org/name"}
    for arguments, said in (
        (["a", "x/a"], "x/a: there is a model 'a' already; name one of them, as NAME=x/a"),
        ([], "serve needs a model: a folder, or several as NAME=FOLDER"),
    ):
        with pytest.raises(UserError) as error:
            name_models(arguments)
        assert str(error.value) == said
