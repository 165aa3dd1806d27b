"""Every committed results file says what made it: command, commit, versions, machine; or that it is not recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lra_small
import masking
import pytest
import recording

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FILES = sorted(RESULTS.glob("*.json"))


def records(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a file that have facts of their own: the cells of sources.json, each row, or the file."""
    if "cells" in found:
        return found["cells"] + found["times"]
    if "command" not in found and "versions" not in found:
        return found["rows"]
    return [found]


def missing(record: dict[str, Any]) -> list[str]:
    """Which of the four facts a record lacks; "not recorded" is an answer, nothing and null are none."""
    versions = record.get("versions", record)
    facts = {
        "command": record.get("command"),
        "commit": versions.get("commit"),
        "versions": versions.get("torch") or (versions is not record and versions.get("commit")),
        "machine": record.get("hardware") or record.get("machine") or record.get("processor"),
    }
    return [name for name, value in facts.items() if not value]


def keys(value: Any) -> set[str]:
    """All keys of nested tables, and the columns that plain rows have."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value) | set(value.get("columns", [])) | keys(list(value.values()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_results_file_says_what_made_it(file):
    found = records(json.loads(file.read_text()))
    assert found
    assert [missing(record) for record in found] == [[] for _ in found]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_memory_is_in_bytes(file):
    assert not {key for key in keys(json.loads(file.read_text())) if key.endswith(("_mb", "_mib"))}


def test_missing_facts_are_found():
    whole = {"command": "python x.py", "hardware": {"cores": 2}, "versions": {"commit": "a", "torch": "2"}}
    assert missing(whole) == []
    assert missing(whole | {"hardware": "not recorded"}) == []
    assert missing(whole | {"versions": {"commit": None, "torch": "2"}}) == ["commit"]
    assert missing({"rows": []}) == ["command", "commit", "versions", "machine"]
    assert keys({"columns": ["a_mib"], "rows": [[1]], "runs": [{"b_mb": 1}]}) >= {"a_mib", "b_mb"}


def test_a_recorded_command_hides_the_users_files():
    words = ["/home/me/benchmarks/tasks.py", "--data", "/home/me/sets", "--seeds", "3", "--out=/home/me/runs"]
    words += ["--peer-model", "/a", "/b", "--jobs", "2"]
    assert recording.command_line(words, ("data", "peer_model")) == (
        "python benchmarks/tasks.py --data DATA --seeds 3 --out OUT --peer-model PEER_MODEL --jobs 2"
    )


def test_the_arena_benchmark_says_what_made_it(tmp_path, monkeypatch, capsys):
    """From a run that is there already, which it does not repeat."""
    run = tmp_path / "listops-transformer"
    run.mkdir()
    speeds = {"steps_per_s": 2.0, "examples_per_s": 64.0, "peak_memory_bytes": 5 << 20}
    row = {"task": "listops", "model": "transformer", "accuracy": 0.25, **speeds}
    (run / "metrics.json").write_text(json.dumps(row))
    monkeypatch.setitem(lra_small.TASKS, "listops", ["--generate", "20", "--length", "32"])
    monkeypatch.setattr(
        "sys.argv",
        ["lra_small.py", "--out", str(tmp_path), "--tasks", "listops", "--models", "transformer"],
    )
    lra_small.main()
    found = json.loads((tmp_path / "results.json").read_text())
    assert missing(found) == []
    assert found["command"] == (
        "python benchmarks/lra_small.py --out OUT --tasks listops --models transformer"
    )
    assert found["rows"] == [row]
    assert "| listops | transformer | 25.0% | 2.0 | 1.00 | 64 | 5 |" in capsys.readouterr().out


def test_the_masking_benchmark_runs_and_says_what_made_it(tmp_path, monkeypatch, capsys):
    out = tmp_path / "masking.json"
    monkeypatch.setattr(
        "sys.argv", ["masking.py", "--rows", "32", "--length", "32", "--repeats", "1", "--out", str(out)]
    )
    monkeypatch.setattr(masking.torch, "set_num_threads", lambda number: None)  # the process is shared
    masking.main()
    found = json.loads(out.read_text())
    assert found["command"] == "python benchmarks/masking.py --rows 32 --length 32 --repeats 1 --out OUT"
    assert [row["strategy"] for row in found["results"]] == list(masking.STRATEGIES)
    assert found["hardware"]["device"] == "cpu"
    assert found["versions"]["torch"]
