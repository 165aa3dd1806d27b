"""Fine-tuning on tasks of the papers from files of their form: trained, scored, submitted."""

from __future__ import annotations

import json
import zipfile

import datasets
import pytest

from funnelformer import FunnelformerForSequenceClassification
from funnelformer.base.version import VERSION_KEY
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.predict import predict
from training.toy import FINETUNE, animal_rows, fails, run, write_table

SOLVE = ("--epochs", 6, "--learning-rate", 0.02)


@pytest.fixture(scope="module")
def glue(toy):
    """CoLA and MNLI in the form of GLUE: the animal decides; cats are acceptable, and entail."""
    folder = toy.folder / "glue"
    for name in ("CoLA", "MNLI", "diagnostic"):
        (folder / name).mkdir(parents=True)
    for part, seed in (("train", 0), ("dev", 1)):
        rows = animal_rows(96 if part == "train" else 32, seed, {"cat": "1", "dog": "0"})
        lines = (f"src\t{label}\t\t{text}\n" for text, label in rows)
        (folder / "CoLA" / f"{part}.tsv").write_text("".join(lines))
    test = [(index, text) for index, (text, _) in enumerate(animal_rows(8, 2))]
    write_table(folder / "CoLA" / "test.tsv", test, ("index", "sentence"))
    labels = {"cat": "entailment", "dog": "neutral", "cow": "contradiction"}
    for name, num_rows, seed in (("train", 120, 3), ("dev_matched", 30, 4), ("dev_mismatched", 24, 5)):
        rows = [("the bird sings .", text, label) for text, label in animal_rows(num_rows, seed, labels)]
        write_table(folder / "MNLI" / f"{name}.tsv", rows, ("sentence1", "sentence2", "gold_label"))
    for name, file in (("MNLI", "test_matched"), ("MNLI", "test_mismatched"), ("diagnostic", "diagnostic")):
        rows = [(i, "the bird sings .", text) for i, (text, _) in enumerate(animal_rows(6, 6, labels))]
        write_table(
            folder / name / f"{file}.tsv",
            [*rows, (6, "the bird sings .", "")],
            ("index", "sentence1", "sentence2"),
        )
    return folder


@pytest.fixture(scope="module")
def cola(toy, glue):
    out = toy.folder / "cola"
    flags = ["--task", "CoLA", "--data", glue, "--model", toy.pretrained, "--out", out, *SOLVE]
    assert run(FINETUNE, *flags) == 0
    return out


@pytest.fixture(scope="module")
def mnli(toy, glue):
    out = toy.folder / "mnli"
    flags = ["--task", "mnli", "--data", glue / "MNLI", "--model", toy.pretrained, "--out", out, *SOLVE]
    assert run(FINETUNE, *flags) == 0
    return out


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


def test_cola_is_trained_and_scored(cola, glue):
    metrics = metrics_of(cola)
    assert (metrics["task"], metrics["kind"]) == ("cola", "classification")
    assert metrics["dev_matthews"] == metrics["dev_accuracy"] == 1.0
    assert list(metrics) == [
        "model", "task", "kind", "steps", "best_step", "chosen", "dev_loss", "dev_matthews", "dev_accuracy",
        "metric", "ece", "num_parameters", "cost", "data", "versions", VERSION_KEY,
    ]  # fmt: skip
    assert json.loads((cola / "task.json").read_text())["task"] == "cola"
    scores = evaluate(str(cola), str(glue), device="cpu")
    assert scores == {"data": str(glue), "examples": 32, "matthews": 1.0, "accuracy": 1.0}


def test_a_model_of_a_task_on_a_table_of_the_users(cola, tmp_path):
    """The columns are guessed as ever, the scores are the task's; one of four is wrong."""
    rows = [("the red cat eats .", "acceptable"), ("the red dog eats .", "unacceptable")] * 2
    rows[0] = (rows[0][0], "unacceptable")
    table = write_table(tmp_path / "mine.tsv", rows)
    scores = evaluate(str(cola), str(table), device="cpu")
    # True and false positives 1 and 1, true and false negatives 2 and 0.
    assert scores["matthews"] == pytest.approx((1 * 2 - 1 * 0) / (2 * 1 * 3 * 2) ** 0.5)
    assert scores["accuracy"] == 0.75


def test_both_accuracies_of_mnli(mnli, glue):
    metrics = metrics_of(mnli)
    assert metrics["dev_matched_accuracy"] == metrics["dev_mismatched_accuracy"] == 1.0
    log = [json.loads(line) for line in (mnli / "log.jsonl").read_text().splitlines()]
    best = max(entry["eval_matched_accuracy"] for entry in log if "eval_matched_accuracy" in entry)
    assert best == metrics["dev_matched_accuracy"]
    scores = evaluate(str(mnli), str(glue), device="cpu")
    assert scores == {
        "data": str(glue), "examples": 54, "matched_accuracy": 1.0, "mismatched_accuracy": 1.0
    }  # fmt: skip
    file = glue / "MNLI" / "dev_mismatched.tsv"
    for source, named in ((glue, {}), (file, {"task": "mnli"})):
        one = evaluate(str(mnli), str(source), part="dev-mismatched", device="cpu", **named)
        assert one == {"data": str(source), "examples": 24, "accuracy": 1.0}


@pytest.fixture
def hub(monkeypatch):
    """A data set of three splits behind every name; the test split has no labels."""
    splits = {}
    for split, animal, label in (
        ("train", "dog", "unacceptable"), ("validation", "cat", "acceptable"), ("test", "cat", None)
    ):  # fmt: skip
        rows = {"sentence": [f"the red {animal} eats ."] * 3, "label": [label] * 3}
        splits[split] = datasets.Dataset.from_dict(rows)
    monkeypatch.setattr("funnelformer.data.tables.reach_hub", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(splits))


def test_names_on_the_hub(cola, hub, tmp_path):
    """That of the model's task is read as the task, its dev part by default; of another a split is named."""
    for name, part in (("nyu-mll/glue:cola", None), ("glue:cola", "validation"), ("user/mine", "dev")):
        scores = evaluate(str(cola), name, part=part, device="cpu")
        assert (scores["examples"], scores["accuracy"]) == (3, 1.0)
    for name, part, said in (
        ("nyu-mll/glue:cola", None, "acceptable"),
        ("user/mine", "train", "unacceptable"),
    ):
        assert predict(str(cola), name, part=part, out=tmp_path / "p.jsonl", device="cpu") == 3
        rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        assert [row["prediction"] for row in rows] == [said] * 3


def test_parts_of_what_has_none(cola, mnli, glue, hub, tmp_path, capsys):
    table = write_table(tmp_path / "a.tsv", [("the cat", "acceptable")])
    for command in ("evaluate", "predict"):
        assert fails(capsys, command, cola, table, "--part", "dev") == (
            f"--part dev needs a --task, or a folder or a name with splits; {table} is neither"
        )
    line = fails(capsys, "predict", cola, glue, "--part", "test", "--submit", tmp_path / "glue.zip")
    assert line == "--part test and --submit exclude each other: a submission has all test parts"
    file = glue / "MNLI" / "dev_matched.tsv"
    assert fails(capsys, "evaluate", mnli, file, "--task", "mnli") == (
        f"{file}: is one file, but mnli has several parts; name one with --part: dev-matched, dev-mismatched"
    )


def test_the_diagnostic_is_scored_with_the_model_of_mnli(mnli, glue, tmp_path):
    header = ("Logic", "Premise", "Hypothesis", "Label")
    rows = [("", "the bird sings .", f"the red {animal} eats .", label) for animal, label in (
        ("cat", "entailment"), ("dog", "neutral"), ("cow", "contradiction"), ("cow", "neutral"))]  # fmt: skip
    write_table(tmp_path / "diagnostic-full.tsv", rows, header)
    scores = evaluate(str(mnli), str(tmp_path), task="ax", device="cpu")
    # Of the confusion matrix: right 3 of 4; gold counts 1, 2, 1, predicted 1, 1, 2.
    expected = (3 * 4 - (1 * 1 + 2 * 1 + 1 * 2)) / ((16 - 6) * (16 - 6)) ** 0.5
    assert scores["matthews"] == pytest.approx(expected)
    assert scores["accuracy"] == 0.75


def test_the_submission_of_two_models(cola, mnli, glue, tmp_path, capsys):
    """One zip; numbers for CoLA, names for MNLI; the diagnostic comes with MNLI, and an empty text is answered."""
    path = tmp_path / "glue.zip"
    assert run("predict", cola, glue, "--submit", path, "--device", "cpu") == 0
    assert "the leaderboard also wants SST-2.tsv, " in capsys.readouterr().err
    assert run("predict", mnli, glue, "--submit", path, "--device", "cpu") == 0
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name).decode().splitlines() for name in archive.namelist()}
    assert list(files) == ["CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    assert files["CoLA.tsv"] == ["index\tprediction", *(f"{i}\t{1 - i % 2}" for i in range(8))]
    names = ["entailment", "neutral", "contradiction"] * 2
    for name in ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"):
        assert files[name][:-1] == ["index\tprediction", *(f"{i}\t{label}" for i, label in enumerate(names))]
        assert files[name][-1].split("\t")[1] in names


def test_the_submission_of_amounts(toy, tmp_path):
    """STS-B: numbers from 0 to 5 with three digits, also where the model says less or more."""
    folder = tmp_path / "STS-B"
    folder.mkdir()
    amounts = {"cat": "-1.0", "dog": "1.0"}
    for name, num_rows, seed in (("train", 80, 0), ("dev", 16, 1)):
        rows = [("the bird sings .", text, score) for text, score in animal_rows(num_rows, seed, amounts)]
        write_table(folder / f"{name}.tsv", rows, ("sentence1", "sentence2", "score"))
    rows = [(i, "the bird sings .", text) for i, (text, _) in enumerate(animal_rows(4, 2))]
    write_table(folder / "test.tsv", rows, ("index", "sentence1", "sentence2"))
    out = tmp_path / "out"
    assert (
        run(FINETUNE, "--task", "stsb", "--data", tmp_path, "--model", toy.pretrained, "--out", out, *SOLVE)
        == 0
    )
    metrics = metrics_of(out)
    assert metrics["dev_pearson"] > 0.9
    assert "dev_spearman" in metrics
    texts = [row["prediction"] for row in predicted(out, folder / "test.tsv", tmp_path)]
    assert texts[0] < 0 < texts[1] < 5
    assert submitted(out, tmp_path) == ["0.000", f"{texts[1]:.3f}", "0.000", f"{texts[3]:.3f}"]
    model = FunnelformerForSequenceClassification.from_pretrained(out)
    model.classifier.output.bias.data += 9
    model.save_pretrained(out)
    assert submitted(out, tmp_path) == ["5.000"] * 4


def predicted(model, data, folder):
    predict(str(model), str(data), out=folder / "p.jsonl", device="cpu")
    return [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]


def submitted(model, folder):
    """The predictions for STS-B in the zip."""
    assert predict(str(model), str(folder), submit_to=folder / "glue.zip", device="cpu") == 4
    with zipfile.ZipFile(folder / "glue.zip") as archive:
        lines = archive.read("STS-B.tsv").decode().splitlines()
    return [line.split("\t")[1] for line in lines[1:]]


def test_the_error_rate_on_the_test_set(toy, tmp_path):
    """Yelp: a part of the training data selects; the test set is scored once, in percent of errors."""
    folder = tmp_path / "yelp_review_polarity_csv"
    folder.mkdir()
    for name, num_rows, seed in (("train", 96, 0), ("test", 40, 1)):
        rows = animal_rows(num_rows, seed, {"cat": "2", "dog": "1"})
        if name == "test":
            rows[0] = (rows[0][0], "1")  # one of forty is labelled wrong
        lines = (f'"{label}","{text}"\n' for text, label in rows)
        (folder / f"{name}.csv").write_text("".join(lines))
    out = tmp_path / "out"
    flags = ["--task", "yelp2", "--data", tmp_path, "--model", toy.pretrained, "--out", out, *SOLVE]
    assert run(FINETUNE, *flags) == 0
    metrics = metrics_of(out)
    assert metrics["dev_accuracy"] == 1.0
    assert metrics["test_accuracy"] == 39 / 40
    assert metrics["test_error_percent"] == pytest.approx(2.5)
    scores = evaluate(str(out), str(tmp_path), device="cpu")
    assert (scores["examples"], scores["error_percent"]) == (40, pytest.approx(2.5))


# ---- input that cannot be used


def test_options_that_do_not_go_together(toy, glue, cola, tmp_path, capsys):
    def line(*flags):
        return fails(capsys, FINETUNE, "--model", toy.pretrained, "--out", tmp_path / "out", *flags)

    assert line("--task", "cola") == (
        "--task cola needs --data: the folder of its files (CoLA with train.tsv, ...), or nyu-mll/glue:cola"
    )
    assert line("--task", "ner").endswith("(train.txt, ...), or eriktks/conll2003")
    assert line("--task", "amazon5").endswith("(amazon_review_full_csv with train.csv, ...)")
    file = glue / "CoLA" / "train.tsv"
    assert line("--task", "cola", "--data", file) == (
        f"{file}: is a file, but --data takes a folder or a name; name it with --train (and --dev)"
    )
    for others in (("--task", "squad"), ()):
        message = line(*others, "--train", file, "--split-seed=-1")
        assert message == "--split-seed is -1; allowed: 0 to 4294967295"
    assert line("--data", glue) == (
        "--train is needed: a table, a folder or a `datasets` name; or --task with --data"
    )
    assert line("--task", "ax", "--data", glue) == (
        "ax has no training data; fine-tune on mnli and evaluate with --task ax"
    )
    assert line("--task", "cola", "--data", glue, "--text", "x") == (
        "--text and --task exclude each other: the task has its columns"
    )
    assert line("--task", "cola", "--data", glue, "--regression") == (
        "--regression and --task exclude each other: cola is a task of classification"
    )
    for other in (("--task", "cola", "--data", glue), ("--train", glue)):
        assert line(*other, "--max-answer-length", 9) == (
            "--max-answer-length is only for squad and squad2, whose answers are spans"
        )
    assert line("--task", "rte", "--data", glue) == (
        f"{glue}: no train.tsv in this folder, nor in RTE in it: the train part of rte"
    )
    assert not (tmp_path / "out").exists()


def test_submissions_that_cannot_be(cola, glue, tmp_path, capsys):
    path = tmp_path / "glue.zip"
    table = write_table(tmp_path / "a.tsv", [("the cat", "x")])
    assert fails(capsys, "predict", cola, table, "--submit", path).startswith(
        "--submit needs the folder of the "
    )
    assert fails(capsys, "predict", cola, glue, "--task", "mnli", "--submit", path) == (
        f"{cola}: was trained on single texts, but mnli has pairs"
    )
    assert fails(capsys, "predict", cola, glue, "--task", "stsb", "--submit", path) == (
        f"{cola}: is a model of classification, but stsb is a task of regression"
    )
    assert fails(capsys, "predict", cola, glue, "--task", "imdb", "--submit", path).startswith(
        "--submit: imdb has no submission; these have one: cola, sst2, "
    )
    assert fails(capsys, "evaluate", cola, glue, "--part", "test") == (
        "the test part of cola has no labels; predict --submit writes its submission"
    )
    assert fails(capsys, "evaluate", cola, glue, "--part", "dve") == (
        "cola has no part 'dve'; it has train, dev, test"
    )
    path.write_text("not a zip")
    assert "is not the zip of a submission" in fails(capsys, "predict", cola, glue, "--submit", path)
    assert path.read_text() == "not a zip"
