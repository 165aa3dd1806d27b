"""`funnelformer push`: what goes to the Hub and what stays, against a server that speaks its calls for uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.base import hub
from training.toy import fails, run

# The client's own call for large files, without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = "---\nlicense: mit\n---\n# A model\n"


class FakeHub(ThreadingHTTPServer):
    """Keeps what it is sent. refuse: a status for the making of the repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.tokens: set[str] = set()
        self.created: dict[str, object] = {}
        self.blobs: dict[str, bytes] = {}
        self.commits: list[tuple[str, list[dict[str, object]]]] = []
        self.refuse: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        hub, body, path = self.server, self._body(), self.path.partition("?")[0]
        hub.calls.append(path)
        hub.tokens.add(self.headers.get("Authorization", ""))
        if path == "/api/repos/create":
            if hub.refuse is not None:
                self._answer({"error": "You may not write here"}, hub.refuse)
                return
            hub.created = json.loads(body)
            self._answer({"url": f"{hub.url}/someone/reviews"})
        elif path.startswith("/api/models/someone/reviews/branch/"):
            self._answer({})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.startswith("/api/models/someone/reviews/preupload/"):
            names = [entry["path"] for entry in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            self._answer(
                {
                    "files": [
                        {"path": name, "uploadMode": mode, "shouldIgnore": False}
                        for name, mode in zip(names, modes, strict=True)
                    ]
                }
            )
        elif path == "/someone/reviews.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            for entry in objects:
                entry["actions"] = {"upload": {"href": f"{hub.url}/blobs/{entry['oid']}"}}
            self._answer({"transfer": "basic", "objects": objects})
        elif path.startswith("/api/models/someone/reviews/commit/"):
            hub.commits.append((path.rpartition("/")[2], [json.loads(line) for line in body.splitlines()]))
            self._answer({"commitUrl": f"{hub.url}/someone/reviews/commit/1", "commitOid": "1"})
        else:
            self._answer({"error": f"no {path}"}, 404)

    def do_PUT(self) -> None:
        self.server.calls.append("PUT")
        self.server.blobs[self.path.rpartition("/")[2]] = self._body()
        self._answer({})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    hub._problem.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as a training leaves it."""
    folder = tmp_path / "model"
    FunnelformerModel(FunnelformerConfig.from_name("L1H16", vocab_size=40)).save_pretrained(folder)
    for name in (
        "tokenizer.json",
        "task.json",
        "metrics.json",
        "run.json",
        "log.jsonl",
        "dev_predictions.tsv",
    ):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text(CARD)
    (folder / "optimizer.safetensors").write_bytes(b"moments")
    (folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoint-2" / "model.safetensors").write_bytes(b"older")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("a token")
    return folder


def sent(server: FakeHub) -> dict[str, bytes]:
    """The files of the one commit, in the order in which they were committed."""
    ((_, lines),) = server.commits
    found = {}
    for line in lines[1:]:
        value = line["value"]
        assert isinstance(value, dict)
        is_large = line["key"] == "lfsFile"
        found[value["path"]] = server.blobs[value["oid"]] if is_large else base64.b64decode(value["content"])
    return found


def test_the_model_goes_and_the_rest_stays(
    fake: FakeHub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"push {model} someone/reviews --private --revision second --message Better") == 0
    files = sent(fake)
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "task.json", "metrics.json"}
    assert files == {name: (model / name).read_bytes() for name in names}
    assert next(iter(files)) == "README.md"
    assert hashlib.sha256(files["model.safetensors"]).hexdigest() in fake.blobs
    assert (fake.created["name"], fake.created["organization"]) == ("reviews", "someone")
    assert fake.created["visibility"] == "private"
    ((revision, (header, *_)),) = fake.commits
    assert revision == "second"
    assert header["value"] == {"summary": "Better", "description": ""}
    assert fake.tokens == {"Bearer hf_of_the_test"}
    out = capsys.readouterr().out
    assert "5 files stay here" in out
    assert f"uploaded: {fake.url}/someone/reviews/commit/1" in out


def test_everything_where_it_is_asked_for(fake: FakeHub, model: Path) -> None:
    assert run(f"push {model} someone/reviews --everything") == 0
    files = sent(fake)
    assert files["checkpoints/checkpoint-2/model.safetensors"] == b"older"
    assert {"optimizer.safetensors", "log.jsonl", "dev_predictions.tsv"} <= files.keys()
    assert not any(name.startswith(".") for name in files)
    assert "visibility" not in fake.created


def test_a_dry_run_asks_nobody(fake: FakeHub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"push {model} someone/reviews --dry-run") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    size = (model / "model.safetensors").stat().st_size
    assert [f"{size:,}", "model.safetensors"] in lines
    assert lines[0][1] == "README.md"
    assert lines[-1] == ["dry", "run:", "nothing", "was", "uploaded"]
    assert not fake.calls


def test_what_is_refused(
    fake: FakeHub,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "'reviews' is not a name on the Hub; allowed: user/name" in fails(capsys, f"push {model} reviews")
    assert "no such folder" in fails(capsys, f"push {tmp_path / 'none'} someone/reviews")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "no model; looked for config.json and" in fails(
        capsys, f"push {tmp_path / 'empty'} someone/reviews"
    )
    assert not fake.calls
    fake.refuse = 403
    assert "someone/reviews: the Hub refuses it" in fails(capsys, f"push {model} someone/reviews")
    assert not fake.commits
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    assert "set HF_TOKEN, or run `hf auth login`" in fails(capsys, f"push {model} someone/reviews")
    (model / "README.md").write_text("---\n: [\n---\n")
    assert "its metadata cannot be read" in fails(capsys, f"push {model} someone/reviews")
    (model / "README.md").unlink()
    assert "has no card" in fails(capsys, f"push {model} someone/reviews")
