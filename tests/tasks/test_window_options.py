"""--doc-stride and --windows where a model is used: predict, evaluate, serve and export say what the windows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnelformer import FunnelformerForTokenClassification, UserError
from funnelformer.export.command import export
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.predict import predict
from funnelformer.inference.predictor import load_predictor
from funnelformer.serve.backend_choice import load_backend
from funnelformer.serve.config import ServeConfig
from funnelformer.tasks.window_options import WindowOptions
from serve.running import running, save
from training.toy import Toy, run, write_table

# Measured 9e-7 between a window in a batch and alone.
TOLERANCE = 1e-5
WORDS = ["the", "red", "cat", "eats", ".", "the", "blue", "bird", "sings", ".", "the", "dog", "runs", "."]
TEXT = " ".join(WORDS)


@pytest.fixture(scope="module")
def classes(toy: Toy) -> Path:
    """A classifier that cuts at 8 tokens, of which two are special."""
    return save(toy.folder / "classes", toy.tokenizer, "texts", {"max_length": 8}, labels=("no", "yes"))


@pytest.fixture(scope="module")
def tags(toy: Toy) -> Path:
    """A tagger to which no token is outside, whatever it reads."""
    folder = toy.folder / "tags"
    names = ("O", "B-X", "I-X")
    save(folder, toy.tokenizer, "tokens", {"max_length": 8, "task": "ner"}, labels=names)
    model = FunnelformerForTokenClassification.from_pretrained(folder)
    model.classifier.bias.data[0] = -1e4
    model.save_pretrained(folder)
    return folder


def by_hand(folder: Path, stride: int, windows: str) -> list[float]:
    """Probabilities, from the logits of each six words as a text of its own."""
    predictor = load_predictor(str(folder), device="cpu")
    starts = [
        start for start in range(0, len(WORDS), stride) if start == 0 or start - stride + 6 < len(WORDS)
    ]
    logits = predictor.logits([" ".join(WORDS[start : start + 6]) for start in starts]).astype(np.float64)
    if windows == "max":
        combined = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).max(0)
    else:
        combined = logits[: 2 if windows == "first:2" else None].mean(0)
    shares: list[float] = (np.exp(combined) / np.exp(combined).sum()).tolist()
    return shares


def predicted(folder: Path, tmp_path: Path, **options: Any) -> dict[str, Any]:
    (tmp_path / "texts.txt").write_text(TEXT + "\n")
    out = tmp_path / "found.jsonl"
    predict(str(folder), str(tmp_path / "texts.txt"), out=out, device="cpu", **options)
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    return dict(row)


@pytest.mark.parametrize(
    ("options", "stride", "windows"),
    [
        ({"doc_stride": 4}, 4, "mean"),
        ({"windows": "max"}, 3, "max"),
        ({"doc_stride": 5, "windows": "first:2"}, 5, "first:2"),
    ],
)
def test_a_class_is_that_of_its_windows(
    classes: Path, tmp_path: Path, options: dict[str, Any], stride: int, windows: str
) -> None:
    expected = by_hand(classes, stride, windows)
    cut = list(predicted(classes, tmp_path)["probabilities"].values())
    assert max(abs(a - b) for a, b in zip(cut, expected, strict=True)) > 1e-3
    row = predicted(classes, tmp_path, **options)
    assert list(row["probabilities"].values()) == pytest.approx(expected, abs=TOLERANCE)
    label = ("no", "yes")[int(expected[1] > expected[0])]
    assert row["prediction"] == label
    table = write_table(tmp_path / "t.tsv", [(TEXT, label), (TEXT, "no" if label == "yes" else "yes")])
    assert evaluate(str(classes), str(table), device="cpu", **options)["accuracy"] == 0.5
    with running(classes, **options) as client:
        (found,) = client.results("/classify", texts=[TEXT])
    assert list(found["probabilities"].values()) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")
def test_an_export_keeps_how_it_reads(classes: Path, tags: Path, tmp_path: Path) -> None:
    """In its task.json, and a service of the export reads as it says, or as it is told."""
    graph = tmp_path / "graph"
    export(str(classes), graph, check_to=8, doc_stride=4, windows="max", say=lambda _: None)
    saved = json.loads((graph / "task.json").read_text())
    assert saved == {"max_length": 8, "doc_stride": 4, "windows": "max"}
    for options, windows in (({}, "max"), ({"windows": "mean"}, "mean")):
        expected = by_hand(classes, 4, windows)
        assert list(predicted(graph, tmp_path, **options)["probabilities"].values()) == pytest.approx(
            expected, abs=TOLERANCE
        )
        with running(graph, **options) as client:
            (found,) = client.results("/classify", texts=[TEXT])
        assert list(found["probabilities"].values()) == pytest.approx(expected, abs=TOLERANCE)
    export(str(tags), tmp_path / "tags", check_to=8, doc_stride=2, say=lambda _: None)
    assert json.loads((tmp_path / "tags" / "task.json").read_text())["doc_stride"] == 2
    expected_tags = predicted(tags, tmp_path, doc_stride=2)["prediction"]
    assert predicted(tmp_path / "tags", tmp_path)["prediction"] == expected_tags


@pytest.mark.parametrize("stride", [None, 1, 2, 5, 6])
def test_no_token_becomes_outside_in_silence(tags: Path, tmp_path: Path, stride: int | None) -> None:
    """Each word has the tag of the window of six that shows it with the most context, computed alone."""
    options = {} if stride is None else {"doc_stride": stride}
    found = predicted(tags, tmp_path, **options)["prediction"]
    assert len(found) == len(WORDS)
    assert "O" not in found
    step = stride or 3
    starts = [start for start in range(0, len(WORDS), step) if start == 0 or start - step + 6 < len(WORDS)]
    (tmp_path / "texts.txt").write_text(
        "".join(f"{' '.join(WORDS[start : start + 6])}\n" for start in starts)
    )
    predict(str(tags), str(tmp_path / "texts.txt"), out=tmp_path / "w.jsonl", device="cpu")
    alone = [json.loads(line)["prediction"] for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    for place, tag in enumerate(found):
        context = {
            number: min(place - start, start + len(alone[number]) - 1 - place)
            for number, start in enumerate(starts)
            if start <= place < start + len(alone[number])
        }
        best = [number for number, width in context.items() if width == max(context.values())]
        assert tag in {alone[number][place - starts[number]] for number in best}
    with running(tags, **options) as client:
        (row,) = client.results("/classify", texts=[TEXT])
    assert row["prediction"] == found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--windows", "last"), "--windows is 'last'; allowed: mean, max, first:1 or more"),
        (("--doc-stride", 0), "--doc-stride is 0; allowed: 1 or more"),
        (("--doc-stride", 7), "--doc-stride is 7; allowed: 1 to 6, the tokens of a text in a window of 8"),
    ],
)
def test_what_is_refused(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], message: str
) -> None:
    table = write_table(tmp_path / "t.tsv", [(TEXT, "no")])
    for command in (
        ("predict", classes, table, "--out", tmp_path / "out.jsonl"),
        ("evaluate", classes, table),
        ("serve", classes),
        ("export", classes, tmp_path / "out"),
    ):
        assert run(*command, *flags) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_models_without_a_text_to_cut(tags: Path, toy: Toy, tmp_path: Path) -> None:
    def asked(kind: str, task: dict[str, Any], **options: Any) -> None:
        folder = save(tmp_path / kind, toy.tokenizer, kind, task, labels=("no", "yes"))
        load_predictor(str(folder), device="cpu", windows=WindowOptions(**options))

    with pytest.raises(UserError, match="a tag is taken from one window"):
        load_predictor(str(tags), device="cpu", windows=WindowOptions(windows="max"))
    with pytest.raises(UserError, match="windows of single texts; this is a task of pairs of texts"):
        asked("texts", {"text": "a", "text_pair": "b"}, doc_stride=4)
    with pytest.raises(UserError, match="windows of single texts; this is a task of choice"):
        asked("choices", {}, doc_stride=4)
    with pytest.raises(UserError, match="an answer is taken from one of them"):
        asked("answers", {"task": "squad2"}, windows="max")
    config = ServeConfig(model=str(toy.pretrained), doc_stride=4)
    with pytest.raises(UserError, match="--doc-stride is for models that label texts or tokens, or answer"):
        load_backend(config)
