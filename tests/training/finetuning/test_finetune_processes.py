"""Fine-tuning and scoring on two processes are those on one: no row twice, none lost, one writer."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForMultipleChoice,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
)
from training.children import finish, start
from training.finetuning.test_choice_task import write_race
from training.finetuning.test_squad_task import write_squad
from training.toy import FINETUNE, animal_rows, log_of, run, write_table

# Losses differ by the order of float32 sums alone; a score of classes is a count.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def data(toy):
    """64 rows to train on, which fill whole steps, and 37 to score: for two processes 3 and 2 batches, one short."""
    train = write_table(toy.folder / "train.tsv", animal_rows(64))
    rows = animal_rows(37, seed=1)
    rows[3] = (rows[3][0], "no" if rows[3][1] == "yes" else "yes")
    # Rows of different length, so that what is padded differs from batch to batch.
    rows = [(text * (1 + number % 2), label) for number, (text, label) in enumerate(rows)]
    return train, write_table(toy.folder / "dev.tsv", rows)


@pytest.fixture(scope="module")
def runs(toy, data):
    """The run of one process, accumulating twice as many batches, and that of two."""
    train, dev = data
    fixed = ["--model", toy.pretrained, "--train", train, "--dev", dev, "--epochs", 5, "--log-every", 1]
    fixed += ["--set.hidden_dropout=0.0", "--set.attention_dropout=0.0", "--learning-rate", 0.02]
    outs = []
    for number in (1, 2):
        out = toy.folder / f"run-{number}"
        children = start(
            FINETUNE,
            *fixed,
            "--out",
            out,
            "--gradient-accumulation",
            2 // number,
            output=toy.folder / f"run-{number}.txt",
            num_processes=number,
        )
        assert finish(children) == [0] * number, (toy.folder / f"run-{number}.txt").read_text()
        outs.append(out)
    return outs


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


def test_the_losses_are_the_same(runs):
    one, two = (
        [[entry["loss"], entry["learning_rate"]] for entry in log_of(out) if "loss" in entry] for out in runs
    )
    assert len(one) == 20  # 64 rows in steps of 16
    for left, right in zip(one, two, strict=True):
        assert left == pytest.approx(right, rel=TOLERANCE)
    assert one[-1][0] < one[0][0] - 0.2


def test_the_scores_are_the_same_to_the_example(runs):
    one, two = map(metrics_of, runs)
    assert one["dev_accuracy"] == two["dev_accuracy"]
    assert one["dev_macro_f1"] == two["dev_macro_f1"]
    assert one["dev_loss"] == pytest.approx(two["dev_loss"], rel=TOLERANCE)
    assert one["ece"]["dev"] == pytest.approx(two["ece"]["dev"], abs=1e-4)
    logs = [[entry["eval_loss"] for entry in log_of(out) if "eval_loss" in entry] for out in runs]
    assert len(logs[0]) == 5
    assert logs[0] == pytest.approx(logs[1], rel=TOLERANCE)
    assert (one["steps"], one["best_step"], one["data"]) == (two["steps"], two["best_step"], two["data"])
    assert one["cost"]["train_flops"] == two["cost"]["train_flops"]
    assert two["cost"]["num_processes"] == 2


def test_every_row_is_predicted_once_and_in_order(runs, data):
    given = [line.split("\t")[0] for line in data[1].read_text().splitlines()[1:]]
    one, two = (
        [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()] for out in runs
    )
    assert [row["text"] for row in two] == given
    for left, right in zip(one, two, strict=True):
        assert left["prediction"] == right["prediction"]
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4, abs=2e-6)


def test_the_first_process_alone_prints(runs, toy):
    assert (toy.folder / "run-2.txt.1").read_text() == ""
    assert "the model is in" in (toy.folder / "run-2.txt").read_text()


def test_evaluate_and_predict_on_two_processes(runs, toy, data, tmp_path):
    """Batches are those of one process, so the numbers are the same ones."""
    found = {}
    for number in (1, 2):
        for command, file in (("evaluate", "scores.json"), ("predict", "p.jsonl")):
            out = tmp_path / f"{number}-{file}"
            output = tmp_path / f"{number}-{command}.txt"
            arguments = (command, runs[0], data[1], "--out", out, "--device", "cpu", "--batch-size", 8)
            assert finish(start(*arguments, output=output, num_processes=number)) == [0] * number, (
                output.read_text()
            )
            found[number, command] = out.read_text()
    assert found[1, "evaluate"] == found[2, "evaluate"]
    scores = json.loads(found[2, "evaluate"])
    assert scores["examples"] == 37
    assert scores["accuracy"] == metrics_of(runs[0])["dev_accuracy"]
    assert found[1, "predict"] == found[2, "predict"]
    assert len(found[2, "predict"].splitlines()) == 37
    assert not (tmp_path / "2-evaluate.txt.1").read_text()


@pytest.mark.parametrize(
    ("task", "suffix", "write", "flags"),
    [
        ("squad", "-v1.1.json", partial(write_squad, lacking=0), ("--doc-stride", 8)),
        pytest.param("race", ".jsonl", write_race, (), marks=pytest.mark.slow),
    ],
)
def test_questions_and_choices_on_two_processes(toy, tmp_path, task, suffix, write, flags):
    """9 questions in batches of 2, of which one process has one more; a passage is several windows."""
    for seed, (name, number) in enumerate((("train", 8), ("dev", 9))):
        write(tmp_path / f"{name}{suffix}", number, seed=seed)
    fixed = ["--task", task, "--data", tmp_path, "--model", toy.pretrained, "--batch-size", 2, "--steps", 2]
    fixed += ["--set.hidden_dropout=0.0", "--set.attention_dropout=0.0", "--max-length", 24, *flags]
    assert run(FINETUNE, *fixed, "--out", tmp_path / "1", "--gradient-accumulation", 2) == 0

    def on_two(*arguments):
        children = start(*arguments, output=tmp_path / "said.txt", num_processes=2)
        assert finish(children) == [0, 0], (tmp_path / "said.txt").read_text()

    on_two(FINETUNE, *fixed, "--out", tmp_path / "2")
    one, two = metrics_of(tmp_path / "1"), metrics_of(tmp_path / "2")
    scores = {name: value for name, value in one.items() if name.startswith("dev_")}
    assert {name: two[name] for name in scores} == pytest.approx(scores, rel=TOLERANCE)
    of_one, of_two = (
        [json.loads(line) for line in (tmp_path / number / "predictions.jsonl").read_text().splitlines()]
        for number in "12"
    )
    said = [row["prediction"] for row in of_one]
    assert [row["prediction"] for row in of_two] == said
    assert len(said) == 9
    assert len(set(said)) > 1

    used = (tmp_path / "1", tmp_path, "--part", "dev", "--device", "cpu", "--batch-size", 2, "--out")
    on_two("evaluate", *used, tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["examples"] == 9
    for name, value in scores.items():
        if name != "dev_loss":
            assert found[name.removeprefix("dev_")] == pytest.approx(value, rel=TOLERANCE)
    on_two("predict", *used, tmp_path / "p.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == said


@pytest.mark.parametrize(
    ("model_class", "shape", "labels"),
    [
        (FunnelformerForSequenceClassification, (2, 9), torch.tensor([0, 1])),
        (FunnelformerForTokenClassification, (2, 9), torch.ones(2, 9, dtype=torch.long)),
        (FunnelformerForMultipleChoice, (2, 3, 9), torch.tensor([0, 2])),
    ],
)
def test_every_parameter_has_its_part_in_a_step(model_class, shape, labels):
    """With token types, so that DistributedDataParallel need not look for those that have none."""
    for name, options in (
        ("B1-1x2H16", {"mixer": ["ponet", "attention"], "ponet_segments": "chunks"}),
        ("L2H16", {"mixer": "fourier"}),
    ):
        config = FunnelformerConfig.from_name(name, vocab_size=20, **options)
        model = model_class(config)
        ids = torch.randint(20, shape)
        model(input_ids=ids, token_type_ids=torch.zeros_like(ids), labels=labels).loss.backward()
        assert [name for name, value in model.named_parameters() if value.grad is None] == []
