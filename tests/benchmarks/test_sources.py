"""What the benchmark of sources says of its results, and that a cell that is there is not run again."""

from __future__ import annotations

import json
import sys

import pytest
import sources


def cell(name: str, model: str, seed: int, test: float) -> dict[str, object]:
    also = dict.fromkeys(sources.SETS[name].also, test / 2)
    row = {"set": name, "model": model, "seed": seed, "test": test, "training_seconds": 100.0 + seed}
    return row | ({"also": also} if also else {})


RESULTS = {
    "cells": [
        cell("sst2", "L6", 0, 0.90),
        cell("sst2", "B2-2-2", 0, 0.885),
        cell("sst2", "B2-2-2", 1, 0.895),
        cell("films", "L4", 0, 0.84),
    ],
    "times": [{"set": "sst2", "seconds_per_1000": {"L6": [10.0, 20.0, 30.0], "B2-2-2": [6.0, 14.0, 18.0]}}],
}


def test_scores_stand_beside_seconds_and_what_was_not_run_says_so():
    lines = sources.score_table(RESULTS).splitlines()
    assert "| sst2 | L6 | 1 | 90.0 | 100 | 20.00 | 1.00 |" in lines
    assert "| sst2 | B2-2-2 | 2 | 89.0 (88.5 to 89.5) | 100 | 14.00 | 0.60 |" in lines
    assert "| films | L4 | 1 | 84.0 | 100 |  |  |" in lines
    assert "| mrpc | L6 | 0 | not run | | | |" in lines
    assert len(lines) == 2 + len(sources.SETS) * (len(sources.MODELS) + 1)


def test_kinds_never_seen_have_a_table_of_their_own():
    assert sources.also_table(RESULTS).splitlines()[2:] == ["| L4 | 1 | 84.0 | 42.0 | 42.0 | 42.0 |"]


def test_what_a_teacher_adds_is_counted_seed_by_seed():
    rows = [cell("sst2", "B2-2-2 taught", seed, test) for seed, test in ((0, 0.90), (1, 0.89), (2, 0.95))]
    lines = sources.taught_table({**RESULTS, "cells": RESULTS["cells"] + rows}).splitlines()
    assert lines[2:] == [
        "| sst2 | B2-2-2 | 2 | 89.0 (88.5 to 89.5) | 89.5 (89.0 to 90.0) | 90.0 | 0.5 (-0.5 to 1.5) |",
        "| sst2 | L4 | 0 | not run | | | |",
    ]


def test_a_row_takes_the_place_of_the_one_before(tmp_path):
    file = tmp_path / "results.json"
    sources.add(file, "cells", cell("sst2", "L6", 0, 0.5), sources.cell_of)
    sources.add(file, "cells", cell("sst2", "L6", 1, 0.6), sources.cell_of)
    sources.add(file, "cells", cell("sst2", "L6", 0, 0.7), sources.cell_of)
    rows = json.loads(file.read_text())["cells"]
    assert {(row["seed"], row["test"]) for row in rows} == {(0, 0.7), (1, 0.6)}


def test_a_finished_cell_is_not_run_again(tmp_path, monkeypatch, capsys):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(RESULTS))
    run = []

    def run_cell(name, model, seed, options):
        run.append((name, model, seed))
        return cell(name, model, seed, 0.8)

    monkeypatch.setattr(sources, "run_cell", run_cell)
    where = ["--source", "s", "--data", "d", "--ratings", "r", "--out", tmp_path / "out", "--results", file]
    chosen = ["--sets", "sst2", "--models", "L6", "B2-2-2", "--seeds", 0, 1]
    monkeypatch.setattr(sys, "argv", ["sources.py", *map(str, [*where, *chosen])])
    sources.main()
    assert run == [("sst2", "L6", 1)]
    assert "5 cells are there" in capsys.readouterr().out
    assert file.with_suffix(".png").is_file()


def test_a_shown_command_has_no_path_of_this_machine(tmp_path):
    words = ["finetune", "--model", tmp_path / "B2-2-2", "--train", tmp_path / "train.tsv"]
    assert sources.shown(words) == "funnelformer finetune --model B2-2-2 --train train.tsv"


def test_timed_texts_are_spread_over_the_table(tmp_path):
    file = tmp_path / "test.tsv"
    rows = [f"a{number}\tb{number}\t0" for number in range(10)]
    file.write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]) + "\n")
    assert sources.texts_of(file, 3) == ["a0 b0", "a3 b3", "a6 b6"]


@pytest.mark.parametrize("name", sources.SETS)
def test_every_set_has_its_tables(name, tmp_path):
    folder = tmp_path / "data" / sources.SETS[name].folder
    folder.mkdir(parents=True)
    for part in ("train", "dev", "test"):
        (folder / f"{part}.tsv").write_text("text\tlabel\n")
    options = type("Options", (), {"data": tmp_path / "data", "ratings": tmp_path / "ratings"})
    assert {"train", "dev", "test", *sources.SETS[name].also} == set(sources.files(name, options))
