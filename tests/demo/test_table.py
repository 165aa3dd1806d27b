"""The table, the sentences under it, and the figures that come from a benchmark."""

from __future__ import annotations

import json

import pytest
from measure import seconds_in_turns
from table import Row, draw, read_control, remarks, table

ACCURACY = {"films": 0.852, "products": 0.824, "tweets": 0.72, "editorials": 0.778}


def cell(model: str, seed: int, test: float, seconds: float) -> dict[str, object]:
    return {
        "set": "films",
        "model": model,
        "seed": seed,
        "test": test,
        "also": {"products": test - 0.1, "tweets": 0.5, "editorials": 0.6},
        "training_seconds": seconds,
        "threads": 1,
        "hardware": {"processor": "a processor"},
    }


def test_an_empty_figure_stays_empty_and_a_recorded_one_has_its_source():
    rows = [
        Row("funnel", ACCURACY, 0.5, 0.75, [2.0, 1.0, 3.0], [20.0], 22_000_000, 210.4),
        Row("full", ACCURACY, recorded="2 seeds, 1 thread, a processor"),
        Row("words", mrr=0.6),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == (
        "| funnel | 85.2% | 82.4% | 72.0% | 77.8% | 0.500 | 0.750 | 2.00 | 20.00 | 22,000,000 | 210 |"
    )
    assert lines[3] == "| full | 85.2%* | 82.4%* | 72.0%* | 77.8%* |  |  |  |  |  |  |"
    assert lines[4] == "| words |  |  |  |  | 0.600 |  |  |  |  |  |"
    assert lines[6:] == ["* full: from benchmarks/results/sources.json (2 seeds, 1 thread, a processor)"]
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_a_control_is_the_mean_of_its_seeds(tmp_path):
    file = tmp_path / "sources.json"
    cells = [cell("L6", 0, 0.86, 100), cell("L6", 1, 0.88, 300), cell("L4", 0, 0.5, 1)]
    file.write_text(json.dumps({"cells": cells, "times": []}))
    found = read_control(file, "L6")
    assert found is not None
    accuracy, seconds, where = found
    assert accuracy == pytest.approx({"films": 0.87, "products": 0.77, "tweets": 0.5, "editorials": 0.6})
    assert seconds == 100
    assert where == "2 seeds, 1 thread, a processor"


def test_a_control_that_was_not_measured_is_none(tmp_path):
    file = tmp_path / "sources.json"
    file.write_text(json.dumps({"cells": [cell("L6", 0, 0.86, 100)], "times": []}))
    assert read_control(file, "L4") is None


def test_where_the_funnel_loses_it_is_said():
    funnel = Row("funnel", {"films": 0.85, "tweets": 0.70}, 0.5, 0.8, [1.0, 2.0, 3.0], [3.0])
    other = Row("full", {"films": 0.84, "tweets": 0.72}, 0.7, 0.9, [2.0, 2.0, 2.0], [4.0])
    assert remarks(funnel, [other]) == [
        "funnel is ahead of full: +1.0 points on films, 0.75 of the time for documents.",
        "funnel is behind full: -2.0 points on tweets, -0.200 in search, -0.100 in search added to TF-IDF.",
        "funnel is even with full: 1.00 of the time for sentences.",
    ]


def test_the_picture_is_there(tmp_path):
    rows = [Row("funnel", ACCURACY, 0.5, 0.7, [1.0], [20.0]), Row("words", ACCURACY, 0.6, None, [0.1], [0.2])]
    draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_turns_alternate_and_the_first_does_not_count():
    called = []
    work = {name: lambda texts, name=name: called.append((name, len(texts))) for name in ("a", "b")}
    seconds = seconds_in_turns(work, ["x", "y"], rounds=2)
    assert called == [("a", 2), ("b", 2)] * 3
    assert {name: len(rounds) for name, rounds in seconds.items()} == {"a": 2, "b": 2}
