"""Fine-tuning on questions with choices: learned, scored by level, answered."""

from __future__ import annotations

import json
import random

import pytest

from funnelformer import FunnelformerForMultipleChoice
from funnelformer.base.errors import UserError
from funnelformer.inference.config import PredictConfig
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.part_jobs import PredictJob
from funnelformer.inference.predict import predict
from funnelformer.training.finetuning.config import FinetuneConfig
from funnelformer.training.finetuning.task_data import load_task_data
from funnelformer.training.finetuning.trainer import FinetuneTrainer
from spread.workers import rows_made
from training.toy import ANIMALS, FINETUNE, make_toy, run, sentence


def write_race(path, num_articles, seed):
    """The right answer is the sentence with a cat: the model learns it of the answers alone."""
    generator = random.Random(seed)
    rows = []
    for number in range(num_articles):
        options = [sentence(generator, animal) for animal in generator.sample(ANIMALS, 4)]
        right = generator.randrange(4)
        options = [option.replace(" cat ", " cow ") for option in options]
        options[right] = sentence(generator, "cat")
        rows.append(
            {
                "article": sentence(generator),
                "questions": ["the red bird"],
                "options": [options],
                "answers": ["ABCD"[right]],
                "id": f"{('middle', 'high')[number % 2]}{number}.txt",
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("race")
    for name, number in (("train", 64), ("dev", 16), ("test", 16)):
        write_race(folder / f"{name}.jsonl", number, seed=number)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    (folder / "toy").mkdir()
    toy = make_toy(folder / "toy")
    flags = ["--task", "race", "--data", folder, "--model", toy.pretrained, "--out", folder / "out"]
    assert run(FINETUNE, *flags, "--max-length", 24, "--epochs", 8, "--learning-rate", 0.02) == 0
    return folder / "out"


def test_it_is_learned_and_scored_by_level(model, folder):
    metrics = json.loads((model / "metrics.json").read_text())
    assert (metrics["task"], metrics["kind"]) == ("race", "choice")
    for name in ("accuracy", "middle_accuracy", "high_accuracy"):
        assert metrics[f"dev_{name}"] == metrics[f"test_{name}"] == 1.0
    scores = evaluate(str(model), str(folder), part="test", device="cpu")
    assert scores == {
        "data": str(folder), "examples": 16, "accuracy": 1.0, "middle_accuracy": 1.0, "high_accuracy": 1.0
    }  # fmt: skip
    high = evaluate(str(model), str(folder / "test.jsonl"), task="race-high", device="cpu")
    assert (high["examples"], high["accuracy"]) == (8, 1.0)
    assert FunnelformerForMultipleChoice.from_pretrained(model).config.id2label == dict(enumerate("ABCD"))


def test_choices_are_grouped_by_their_tokens(folder, model, tmp_path, monkeypatch):
    """Of each question the longest sequence: [CLS], 3 words and the option's, [SEP], those of the article, [SEP]."""
    found = []
    original = FinetuneTrainer._get_train_sampler

    def sampler(self, dataset):
        found.append(original(self, dataset).lengths)
        return original(self, dataset)

    monkeypatch.setattr(FinetuneTrainer, "_get_train_sampler", sampler)
    rows = []
    for number in range(4):
        options = [["the", "the the", "the the the", "the the the the"]]
        article = " ".join(["bird"] * (number + 1))
        rows.append({"article": article, "questions": ["the red bird"], "options": options, "answers": ["A"]})
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--task", "race", "--train", file, "--dev", file, "--model", folder / "toy" / "pretrained"]
    assert run(FINETUNE, *flags, "--out", tmp_path / "out", "--group-by-length", "--max-length", 24) == 0
    assert list(found[0]) == [11, 12, 13, 14]


def test_an_article_is_not_divided_between_train_and_dev(tmp_path):
    """10 articles of 3 questions; a fifth of the articles is the dev part."""
    options = [["a", "b", "c", "d"]] * 3
    rows = [{"article": f"no. {i}", "questions": ["x", "y", "z"], "options": options, "answers": ["A"] * 3}
            for i in range(10)]  # fmt: skip
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = FinetuneConfig(model="m", task="race", train=str(file), dev_fraction=0.2, out=tmp_path / "out")
    data = load_task_data(config)
    train, dev = set(data.train["article"]), set(data.dev[""]["article"])
    assert (len(train), len(dev), train & dev) == (8, 2, set())
    assert (len(data.train), len(data.dev[""])) == (24, 6)


def test_answers_of_questions_without_any(model, folder, tmp_path):
    lines = (folder / "test.jsonl").read_text().splitlines()[:3]
    rows = [json.loads(line) for line in lines]
    right = [row.pop("answers")[0] for row in rows]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert predict(str(model), str(tmp_path / "q.jsonl"), out=tmp_path / "p.jsonl", device="cpu") == 3
    found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in found] == right
    assert all(row["probabilities"].keys() == set("ABCD") for row in found)


def test_answers_in_parts_are_those_of_one_machine(model, folder, tmp_path):
    """What a worker of a cluster writes of questions, with their source and number; a bad one is named."""
    predict(str(model), str(folder / "test.jsonl"), out=tmp_path / "p.jsonl", device="cpu")
    expected = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    job = PredictJob(PredictConfig(str(model), device="cpu"))
    found = rows_made(job, folder / "test.jsonl", tmp_path / "out", 5)
    assert [row["row"] for row in found] == list(range(1, 17))
    for row, one in zip(found, expected, strict=True):
        assert (row["question"], row["options"]) == (one["question"], one["options"])
        assert row["prediction"] == one["prediction"]
        assert row["probabilities"] == pytest.approx(one["probabilities"], abs=2e-6)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    rows[7]["options"][0] = ["a", "b"]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"bad\.jsonl: line 8, question 1: 2 options, 4 are needed"):
        rows_made(job, tmp_path / "bad.jsonl", tmp_path / "bad", 5)
    with pytest.raises(UserError, match=r"is a model of choice, but squad is a task of span"):
        PredictJob(PredictConfig(str(model), task="squad", engine="ray")).sources(str(tmp_path / "bad.jsonl"))
