"""The program writes nothing to the user's home and looks up no name, unless it is told to ask a hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.test_predictor import classifier
from training.toy import FINETUNE, animal_rows, tokens, write_table

SOURCE = Path(__file__).parents[1] / "src"
# Notes every name that is looked up, and every host that is called by its number.
RECORDER = """
import os, sys

def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect"):
        with open(os.environ["RECORD"], "a") as file:
            file.write(f"{event} {arguments}\\n")

sys.addaudithook(note)
"""


def traces(folder: Path, command: list[str]) -> tuple[list[str], str]:
    """What a command leaves in an empty home, and the names it looks up."""
    home, site, record = (folder / name for name in ("home", "site", "record"))
    for made in (home, site):
        made.mkdir()
    (site / "sitecustomize.py").write_text(RECORDER)
    record.write_text("")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "XDG_", "MPL", "ORT_"))
    }
    places = {"HOME": str(home), "PYTHONPATH": f"{site}{os.pathsep}{SOURCE}", "RECORD": str(record)}
    done = subprocess.run(
        [sys.executable, "-m", "funnelformer", *command],
        capture_output=True,
        text=True,
        env={**kept, **places, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [str(path.relative_to(home)) for path in home.rglob("*")], record.read_text()


@pytest.mark.slow
def test_finetune_and_its_figures(toy, tmp_path):
    data = [
        write_table(tmp_path / name, animal_rows(16, seed))
        for seed, name in enumerate(("train.tsv", "dev.tsv"))
    ]
    flags = ("--model", toy.pretrained, "--train", data[0], "--dev", data[1], "--out", tmp_path / "out")
    assert traces(tmp_path, tokens(FINETUNE, *flags)) == ([], "")
    assert (tmp_path / "out" / "confusion.png").is_file()


@pytest.mark.slow
def test_predict_of_an_export(toy, tmp_path):
    pytest.importorskip("onnxruntime")
    model = classifier(tmp_path / "model", toy, num_labels=2)
    (tmp_path / "texts.txt").write_text("the red cat runs .\n")
    for name, command in (
        ("export", ["export", str(model), str(tmp_path / "graph")]),
        ("predict", ["predict", str(tmp_path / "graph"), str(tmp_path / "texts.txt")]),
    ):
        (tmp_path / name).mkdir()
        assert traces(tmp_path / name, command) == ([], "")
