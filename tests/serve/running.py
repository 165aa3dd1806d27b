"""A service in this process: its server in a thread, and a client without any library between."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForMaskedLM,
    FunnelformerForMultipleChoice,
    FunnelformerForQuestionAnswering,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
    FunnelformerModel,
)
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.serve.config import ServeConfig

for name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(name, reason="needs funnelformer[serve]")

from funnelformer.serve.server import make_server  # noqa: E402

WAIT_S = 60.0

CLASSES = {
    "masked": FunnelformerForMaskedLM,
    "choices": FunnelformerForMultipleChoice,
    "answers": FunnelformerForQuestionAnswering,
    "states": FunnelformerModel,
    "texts": FunnelformerForSequenceClassification,
    "tokens": FunnelformerForTokenClassification,
}


def save(folder: Path, tokenizer_folder: Path, kind: str, task: dict | None = None, **settings: Any) -> Path:
    """A tiny model of random weights, with a tokenizer; `task` is written as task.json."""
    torch.manual_seed(6)
    tokenizer = load_tokenizer(tokenizer_folder)
    names = settings.pop("labels", None)
    if names:
        settings |= {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
        }
    layout = settings.pop("layout", "B1-1-1H16")
    config = FunnelformerConfig.from_name(layout, vocab_size=len(tokenizer), initializer_std=0.4, **settings)
    CLASSES[kind](config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if task is not None:
        (folder / "task.json").write_text(json.dumps(task))
    return folder


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What an error says; it must be the only thing in the body."""
        assert list(self.json) == ["error"]
        return self.json["error"]


@dataclass
class Client:
    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """headers: with "_" in place of "-"."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            given = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, given)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, named, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.send("GET", path)

    def post(self, path: str, values: Any, **headers: str) -> Reply:
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        return self.send("POST", path, body, **{"Content_Type": "application/json"} | headers)

    def results(self, path: str, **values: Any) -> Any:
        """The results of a request that must succeed."""
        reply = self.post(path, values)
        assert reply.status == 200, reply.body
        return reply.json["results"]

    @contextmanager
    def raw(self, sent: bytes = b"") -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as connection:
            connection.sendall(sent)
            yield connection

    def waiting(self) -> int:
        return self.get("/health").json["waiting_texts"]

    def counter(self, name: str) -> float:
        """The sum of the metric's values, of all labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in found)


def until(is_so: Any, what: str) -> None:
    """Wait for something that must come true."""
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@contextmanager
def running(model: Path | str | None, **settings: Any) -> Iterator[Client]:
    """Serve a model (None: those in `models`) on a free port; the block ends when the server has."""
    token = settings.pop("token", None)
    config = ServeConfig(
        model=str(model or ""), **{"port": 0, "device": "cpu", "max_delay_ms": 1.0} | settings
    )
    server = make_server(config, token)
    thread = threading.Thread(target=server.listen)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive(), "the server does not start")
        yield Client(server.listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()
        server.listener.close()
