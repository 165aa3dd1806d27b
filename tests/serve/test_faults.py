"""What goes wrong from outside: every fault has its answer, and the service goes on."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from funnelformer import UserError
from funnelformer.serve.config import ServeConfig
from funnelformer.serve.torch_backend import TorchBackend
from serve.running import WAIT_S, Client, running, save, until
from training.children import start
from training.toy import fails

TOKEN = "correct-horse-battery"
HEAD = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def refusal(reply):
    return reply.status, reply.error


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (
            b"{",
            400,
            "the body is not valid JSON (character 1: Expecting property name enclosed in double quotes)",
        ),
        (b"", 422, "body: Field required"),
        (b'{"texts": ["\xff"]}', 400, "the body is not valid UTF-8 (byte 12)"),
        (b"[" * 200_000, 400, None),
        (b'{"texts": [' + b"9" * 9000 + b"]}", 400, None),
        (b"[]", 422, None),
        (b"{}", 422, "texts: Field required"),
        (b'{"texts": []}', 422, "texts: List should have at least 1 item after validation, not 0"),
        (b'{"texts": "the cat"}', 422, "texts: Input should be a valid list"),
        (b'{"texts": [7]}', 422, "texts.0: Input should be a valid string (and 1 more)"),
        (b'{"texts": [""]}', 422, None),
        (b'{"texts": ["\\n\\t "]}', 422, None),
        (b'{"texts": ["a", ["b", "c", "d"]]}', 422, None),
        (b'{"texts": ["a", "\\ud800"]}', 422, None),
        (b'{"texts": ["a"], "text": "b"}', 422, "text: Extra inputs are not permitted"),
        (
            json.dumps({"texts": ["a"] * 65}).encode(),
            422,
            "texts: List should have at most 64 items after validation, not 65",
        ),
        (
            json.dumps({"texts": ["a" * 100_001]}).encode(),
            422,
            "texts.0: String should have at most 100000 characters (and 1 more)",
        ),
        (
            json.dumps({"texts": ["a", ["b", "c" * 100_001]]}).encode(),
            422,
            "texts.1.1: String should have at most 100000 characters (and 1 more)",
        ),
        (json.dumps({"texts": ["a" * 10_000_000]}).encode(), 413, "the body is larger than 1000000 bytes"),
    ],
    ids=lambda value: None if isinstance(value, int) or value is None else str(value[:24]),
)
def test_bodies_that_cannot_be_read(service, body, status, said):
    reply = service.post("/classify", body)
    assert reply.status == status
    assert reply.error == (said or reply.error)
    assert "\n" not in reply.error
    assert service.results("/classify", texts=["the cat"])


def test_fields_that_are_wrong(service):
    for body in (
        {"texts": ["a"], "pooling": "max"},
        {"texts": ["a"], "normalize": "yes"},
        {"texts": ["a"], "normalize": 1},
        {"texts": ["a"], "top": 3},
    ):
        assert service.post("/embed", body).status == 422


def test_other_paths_methods_and_kinds_of_body(service):
    assert refusal(service.get("/nothing")) == (404, "Not Found")
    reply = service.get("/classify")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    reply = service.post("/classify", {"texts": ["a"]}, Content_Type="text/plain")
    assert refusal(reply) == (415, "content-type: application/json is needed")
    assert (
        service.post("/classify", {"texts": ["a"]}, Content_Type="Application/JSON; charset=utf-8").status
        == 200
    )


def test_a_body_without_length_is_limited_as_it_comes(service):
    """10 MB in chunks: refused after the first million bytes."""
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    with service.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        for _ in range(17):
            connection.sendall(chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_no_token_no_answer(classifier):
    body = {"texts": ["the cat"]}
    with running(classifier, token=TOKEN) as client:
        for headers in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer "},
        ):
            reply = client.post("/classify", body, **headers)
            assert refusal(reply) == (401, "a bearer token is needed")
            assert reply.headers["www-authenticate"] == "Bearer"
        assert client.post("/classify", body, Authorization=f"Bearer {TOKEN}").status == 200
        assert client.get("/metrics").status == 401
        assert client.get("/nothing").status == 401
        assert client.send("GET", "/metrics", Authorization=f"bearer {TOKEN}").status == 200
        # A page that asks for the token, and a probe that has none.
        assert client.get("/").status == 200
        assert client.get("/health").json["needs_token"] is True
        document = client.get("/openapi.json").json
        assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        assert document["paths"]["/classify"]["post"]["security"] == [{"bearer": []}]


def test_tokens_that_are_none(tmp_path, monkeypatch):
    monkeypatch.delenv("FUNNELFORMER_TOKEN", raising=False)
    assert ServeConfig().token() is None
    monkeypatch.setenv("FUNNELFORMER_TOKEN", f" {TOKEN}\n")
    assert ServeConfig().token() == TOKEN
    monkeypatch.setenv("FUNNELFORMER_TOKEN", "short")
    with pytest.raises(UserError, match="FUNNELFORMER_TOKEN: a token has at least 16"):
        ServeConfig().token()
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert ServeConfig(token_file=file).token() == TOKEN
    for bad in ("two words of a token", "kürzer-als-gedacht", "x" * 15):
        file.write_text(bad)
        with pytest.raises(UserError, match=re.escape(str(file))):
            ServeConfig(token_file=file).token()
    with pytest.raises(UserError, match="no such file"):
        ServeConfig(token_file=tmp_path / "none").token()


def test_slow_clients_are_left(classifier):
    with running(classifier, client_timeout_s=0.4) as client:
        with client.raw() as silent, client.raw(b"POST /classify HT") as in_head:
            assert silent.recv(1) == b""
            assert in_head.recv(1) == b""
        with client.raw(HEAD + b'Content-Length: 30\r\n\r\n{"texts": ') as in_body:
            start = time.monotonic()
            reply = b"".join(iter(lambda: in_body.recv(1000), b""))  # head and body may come apart
            assert time.monotonic() - start > 0.3
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b"the body took more than 0.4 s" in reply
        # Asks for megabytes of answers and reads none of them.
        with client.raw() as deaf, pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask_for_ever(deaf)
        assert client.results("/classify", texts=["the cat"])


def ask_for_ever(connection):
    while True:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        time.sleep(0.01)


def test_a_client_that_leaves_gives_its_place_back(classifier):
    with running(classifier, max_delay_ms=30_000.0) as client:
        body = json.dumps({"texts": ["the cat"] * 3}).encode()
        head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
        with client.raw(head + body):
            until(lambda: client.waiting() == 3, "the texts do not wait")
        until(lambda: client.waiting() == 0, "the texts wait for nobody")
        until(lambda: client.counter("funnelformer_clients_gone_total") == 1, "nobody left")
        assert client.counter("funnelformer_requests_in_progress") == 0
        # Halfway through its body.
        with client.raw(head + body[:9]):
            until(lambda: client.counter("funnelformer_requests_in_progress") == 1, "no request")
        until(lambda: client.counter("funnelformer_requests_in_progress") == 0, "the request stays")


def test_a_full_queue_and_too_many_requests(classifier, monkeypatch):
    """The model held up: 4 texts may wait and 3 requests be in progress; the others are told when to come again."""
    go_on = threading.Event()
    original = TorchBackend.logits

    def held(self, features):
        assert go_on.wait(WAIT_S)
        return original(self, features)

    monkeypatch.setattr(TorchBackend, "logits", held)
    with running(classifier, max_queue=4, max_texts=4, max_requests=3) as client:
        answers = []

        def ask(number):
            answers.append(client.post("/classify", {"texts": ["the cat"] * number}).status)

        first = threading.Thread(target=ask, args=(1,))
        first.start()
        progress = "funnelformer_requests_in_progress"
        until(lambda: client.counter(progress) == 1 and client.waiting() == 0, "nothing is computed")
        second = threading.Thread(target=ask, args=(3,))
        second.start()
        until(lambda: client.waiting() == 3, "nothing waits")
        reply = client.post("/classify", {"texts": ["the cat"] * 2})
        assert refusal(reply) == (429, "too many texts are waiting")
        assert int(reply.headers["retry-after"]) >= 1
        third = threading.Thread(target=ask, args=(1,))
        third.start()
        until(lambda: client.waiting() == 4, "one more has room")
        reply = client.post("/classify", {"texts": ["the cat"]})
        assert refusal(reply) == (429, "too many requests are in progress")
        go_on.set()
        for thread in (first, second, third):
            thread.join()
        assert answers == [200] * 3
        assert client.waiting() == 0


def test_a_model_that_fails_says_so_and_goes_on(classifier, monkeypatch, caplog):
    original = TorchBackend.logits

    def failing(self, features):
        if any(len(feature["input_ids"]) == 7 for feature in features):
            raise RuntimeError("no memory")
        return original(self, features)

    monkeypatch.setattr(TorchBackend, "logits", failing)
    with running(classifier) as client:
        reply = client.post("/classify", {"texts": ["the red cat", "the red cat eats ."]})
        assert refusal(reply) == (500, "the request failed; the log says why")
        assert client.results("/classify", texts=["the red cat"])
    assert "no memory" in caplog.text


def test_the_models_folder_is_not_needed_any_more(toy, tmp_path):
    """Removed, or its file overwritten in place: what was read stays."""
    model = save(tmp_path / "model", toy.tokenizer, "texts")
    with running(model) as client:
        before = client.results("/classify", texts=["the red cat"])
        (model / "model.safetensors").write_bytes(b"")
        assert client.results("/classify", texts=["the red cat"]) == before
        assert client.get("/health").json["model_on_disk"] is True
        shutil.rmtree(model)
        assert client.results("/classify", texts=["the red cat"]) == before
        health = client.get("/health")
        assert (health.status, health.json["status"], health.json["model_on_disk"]) == (200, "ok", False)


def test_sigterm_under_load(classifier, tmp_path):
    """A process of its own: everything that was accepted is answered, nothing half, and it leaves without error."""
    output = tmp_path / "output.txt"
    output.touch()
    command = ("serve", classifier, "--port", 0, "--max-delay-ms", 2000)
    (process,) = start(*command, output=output)
    try:
        until(lambda: not process.is_alive() or "\n" in output.read_text(), "the service does not start")
        line = output.read_text()
        found = re.fullmatch(r".+ is served at http://127\.0\.0\.1:(\d+) \(Ctrl-C stops\)\n", line)
        assert found, line
        client = Client(int(found[1]))
        accepted, others = [], []

        def ask(answers):
            try:
                answers.append(client.post("/classify", {"texts": ["the red cat", "the dog ."]}).status)
            except ConnectionError:
                # Refused, or closed without a byte of an answer: at connecting, writing or reading.
                answers.append("never accepted")

        threads = [threading.Thread(target=ask, args=(accepted,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        until(lambda: client.waiting() == 24, "the requests do not wait")
        process.terminate()
        more = [threading.Thread(target=ask, args=(others,)) for _ in range(12)]
        for thread in more:
            thread.start()
            time.sleep(0.02)
        for thread in [*threads, *more]:
            thread.join()
        assert accepted == [200] * 12
        assert len(others) == 12
        assert set(others) <= {200, "never accepted"}
        process.join(WAIT_S)
        assert process.exitcode == 0
        assert output.read_text() == line
    finally:
        process.kill()
        process.join()


def test_what_cannot_be_served_is_one_line(classifier, service, toy, tmp_path, capsys):
    assert fails(capsys, "serve", classifier, "--port", service.port) == (
        f"127.0.0.1:{service.port}: cannot listen on this address (Address already in use)"
    )
    assert fails(capsys, "serve", tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such folder")
    assert (
        fails(capsys, "serve", classifier, "--max-texts", 600)
        == "--max-texts 600 is more than --max-queue 512"
    )
    assert (
        fails(capsys, "serve", classifier, "--max-delay-ms", -1)
        == "--max-delay-ms is -1.0; allowed: 0 to 60000"
    )
    (tmp_path / "token").write_text("short")
    assert "at least 16" in fails(capsys, "serve", classifier, "--token-file", tmp_path / "token")
    spans = save(tmp_path / "spans", toy.tokenizer, "answers")
    assert (
        fails(capsys, "serve", spans, "--max-length", 7)
        == "--max-length is 7; a question with a passage needs 8 or more"
    )


def test_a_model_that_gives_nan_answers_500_in_one_line(toy, classifier, tmp_path):
    """And no probability of NaN with 200; /classify and /embed."""
    folder = tmp_path / "damaged"
    shutil.copytree(classifier, folder)
    state = load_file(folder / "model.safetensors")
    state["funnelformer.embeddings.word_embeddings.weight"][:] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    said = "the model gives NaN or infinity: its weights are damaged, or its training has diverged"
    with running(folder) as client:
        for path in ("/classify", "/embed"):
            assert refusal(client.post(path, {"texts": ["the red cat sings ."]})) == (500, said)
