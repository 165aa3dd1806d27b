"""What a name means, the same in every command; and a Hub that cannot be reached, in one line and at once."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from huggingface_hub import constants

from funnelformer import FunnelformerConfig, UserError
from funnelformer.base.hub import _problem, reach_hub
from funnelformer.checkpoints.model_source import Folder, Hub, Layout, find_model
from training.toy import FINETUNE, fails, run, write_table

HINT = "`hf download user/name --local-dir FOLDER` writes one: copy it here and name it instead"


@pytest.fixture
def no_network(monkeypatch):
    """An address where nobody listens."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    _problem.cache_clear()
    yield
    _problem.cache_clear()


def test_a_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("L1H16") == Layout("L1H16")
    assert find_model("funnel-small") == Layout("funnel-small")
    assert find_model("user/name") == Hub("user/name")
    for name in ("L1H16", "user/name"):
        (tmp_path / name).mkdir(parents=True)
        assert find_model(name) == Folder(tmp_path.__class__(name))


@pytest.mark.parametrize("name", ["./model", "a/b/c", "~/no-such-model", "/no/such"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(UserError, match=r": no such folder"):
        find_model(name)


def test_neither_layout_nor_folder(tmp_path, monkeypatch):
    (tmp_path / "pretrained").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"and there is no such folder; did you mean 'pretrained'\?$"):
        find_model("pretraned")


def test_info_and_finetune_agree(toy, tmp_path, monkeypatch, capsys):
    """A folder with the name of a layout is the folder: of width 24, not 16."""
    monkeypatch.chdir(tmp_path)
    FunnelformerConfig.from_name("L2H24", vocab_size=50, num_attention_heads=2).save_pretrained("L1H16")
    assert run("info L1H16 --lengths 64 --json") == 0
    assert json.loads(capsys.readouterr().out)["shape"]["hidden_size"] == 24
    data = write_table(tmp_path / "data.tsv", [("a cat", "yes"), ("a dog", "no")] * 8)
    line = fails(capsys, FINETUNE, "--model", "L1H16", "--train", data, "--out", tmp_path / "out")
    assert line.startswith("L1H16: no tokenizer in this folder")


@pytest.mark.parametrize(
    "command",
    [
        "info user/name",
        "finetune --model user/name --train data.csv --out out",
        "predict user/name data.csv",
        "embed user/name data.csv --out out.npy",
        "convert user/name out",
        "export user/name out",
        "serve user/name",
    ],
)
def test_without_a_network_one_line_at_once(no_network, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data.csv").write_text("text,label\na,b\n")
    asked, connect = [], socket.create_connection

    def count(address, *args, **kwargs):
        asked.append(address)
        return connect(address, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", count)
    line = fails(capsys, command)
    assert asked == [("127.0.0.1", 9)]  # one probe, which waits for two seconds at most, and no retry
    assert line.startswith(
        "user/name: no such folder, and the Hugging Face Hub cannot be reached (127.0.0.1: "
    )
    assert line.endswith(HINT)


def test_a_host_that_does_not_answer_is_asked_once(monkeypatch, tmp_path, no_network):
    asked, is_over = [], threading.Event()

    def hang(address, timeout):
        asked.append(address)
        is_over.wait(10)
        raise TimeoutError

    monkeypatch.setattr("funnelformer.base.hub._PROBE_S", 0.1)
    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for _ in range(3):
        with pytest.raises(UserError, match=r"127\.0\.0\.1: no answer"):
            reach_hub("user/name")
    is_over.set()
    assert asked == [("127.0.0.1", 9)]


def test_what_the_cache_has_is_taken_from_there(no_network, tmp_path, monkeypatch, capsys):
    (tmp_path / "models--user--name" / "snapshots" / "abc").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    reach_hub("user/name")
    assert constants.HF_HUB_OFFLINE
    assert "user/name is taken from the cache" in capsys.readouterr().err
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        reach_hub("user/other")


def test_a_hub_that_answers_is_asked(no_network, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        reach_hub("user/name")
    _problem.cache_clear()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1: "):
        reach_hub("user/name2")
