"""Two nodes of torchrun's elastic rendezvous on the loopback: one dies, is started again, and the run goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from training.toy import PRETRAIN, log_of, tokens

pytestmark = pytest.mark.slow
_TIMEOUT_S = 500


def start_node(endpoint: str, out: Path, command: list[str], said: Path) -> subprocess.Popen[bytes]:
    """One machine's torchrun, as docs/pretraining.md has it."""
    rendezvous = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        endpoint,
        "--rdzv-id",
        "toy",
        "--max-restarts",
        "3",
    ]
    with open(said, "ab") as file:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
                *(*rendezvous, "-m", "funnelformer", *command, "--out", str(out), "--auto-resume"),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            stdout=file,
            stderr=file,
        )


def kill(node: subprocess.Popen[bytes]) -> None:
    """SIGKILL for torchrun and what it started, as when the machine loses power."""
    processes = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    node.wait()


def listens(endpoint: str) -> bool:
    host, _, port = endpoint.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def run(out: Path, command: list[str], said: Path, kill_at: int | None) -> None:
    """A run of two nodes; the second dies when the checkpoint of step `kill_at` is there, and is started again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    deadline = time.monotonic() + _TIMEOUT_S
    nodes = [start_node(endpoint, out, command, said)]
    try:
        while not listens(endpoint):  # the first has the store of the rendezvous, and must live
            assert time.monotonic() < deadline
            time.sleep(0.1)
        nodes.append(start_node(endpoint, out, command, said))
        if kill_at is not None:
            while not list(out.glob(f"**/*-{kill_at}/complete.json")):
                assert all(node.poll() is None for node in nodes), said.read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            kill(nodes[1])
            nodes[1] = start_node(endpoint, out, command, said)
        codes = [node.wait(timeout=deadline - time.monotonic()) for node in nodes]
        assert codes == [0, 0], said.read_text()[-3000:]
    finally:
        for node in nodes:
            if node.poll() is None:
                kill(node)


def test_a_run_of_two_nodes_goes_on_when_one_dies(toy, tmp_path):
    data = ("--train", toy.corpus, "--tokenizer", toy.tokenizer)
    command = tokens(PRETRAIN, *data, "--steps", 200, "--save-every", 20, "--evaluate-every", 20)
    run(tmp_path / "whole", command, tmp_path / "whole.txt", None)
    run(tmp_path / "killed", command, tmp_path / "killed.txt", 40)
    said = (tmp_path / "killed.txt").read_text()
    assert said.count("model: L1H16, ") == 2, said[-3000:]  # the first process began twice
    whole, killed = log_of(tmp_path / "whole"), log_of(tmp_path / "killed")
    assert len(killed) == len(whole) > 40
    for one, two in zip(whole, killed, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == pytest.approx(value, rel=1e-6), (one["step"], key)
