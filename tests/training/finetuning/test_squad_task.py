"""Fine-tuning on questions with passages: learned in windows, scored, answered, written as the scripts read it."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest
import transformers
from transformers.pipelines import SUPPORTED_TASKS

from funnelformer.base.errors import UserError
from funnelformer.inference.answer import answer
from funnelformer.inference.config import PredictConfig
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.part_jobs import PredictJob
from funnelformer.inference.predict import predict
from funnelformer.inference.predictor import Predictor, load_predictor
from funnelformer.tasks.squad_scores import answer_metrics
from spread.workers import rows_made
from training.toy import ANIMALS, FINETUNE, fails, run, sentence

QUESTION = "the cat ?"


def write_squad(path, num_passages, seed, lacking):
    """What the cat does: "cat runs". Passages of 4 to 6 sentences; of `lacking` of three no animal is a cat."""
    generator = random.Random(seed)
    paragraphs = []
    for number in range(num_passages):
        others = [animal for animal in ANIMALS if animal != "cat"]
        told = [sentence(generator, generator.choice(others)) for _ in range(generator.randint(4, 6))]
        has_cat = number % 3 >= lacking
        if has_cat:
            told[generator.randrange(len(told))] = sentence(generator, "cat")
        context = " ".join(told)
        begin = context.find("cat ")
        answers = (
            [{"text": context[begin : context.index(" .", begin)], "answer_start": begin}] if has_cat else []
        )
        asked = {"id": f"{path.stem}-{number}", "question": QUESTION, "answers": answers}
        paragraphs.append({"context": context, "qas": [{**asked, "is_impossible": not has_cat}]})
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))


def gold_of(path):
    (article,) = json.loads(path.read_text())["data"]
    return {
        question["id"]: (paragraph["context"], [entry["text"] for entry in question["answers"]])
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }


@pytest.fixture(scope="module")
def folder(toy):
    for name, number in (("train", 90), ("dev", 21), ("test", 21)):
        for version, lacking in (("v1.1", 0), ("v2.0", 1)):
            write_squad(toy.folder / f"{name}-{version}.json", number, len(name) + number, lacking)
    return toy.folder


def tune(toy, folder, task, head):
    out = toy.folder / f"{task}-{head}"
    flags = ["--task", task, "--data", folder, "--model", toy.pretrained, "--out", out]
    spans = ["--doc-stride", 8, "--max-answer-length", 2, f"--set.qa_head={head}"]
    assert run(FINETUNE, *flags, *spans, "--max-length", 24, "--epochs", 3, "--learning-rate", 0.02) == 0
    return out


@pytest.fixture(scope="module")
def answerer(toy, folder):
    return tune(toy, folder, "squad2", "conditional")


@pytest.fixture(scope="module")
def simple(toy, folder):
    return tune(toy, folder, "squad", "simple")


def test_version_2_is_learned(answerer, folder):
    metrics = json.loads((answerer / "metrics.json").read_text())
    assert (metrics["task"], metrics["kind"]) == ("squad2", "span")
    assert metrics["dev_best_exact"] == metrics["dev_best_f1"] == 100.0
    # The test part is scored at the threshold of the dev part.
    for name in ("f1", "exact", "HasAns_f1", "NoAns_exact"):
        assert metrics[f"test_{name}"] == 100.0
    task = json.loads((answerer / "task.json").read_text())
    assert (task["doc_stride"], task["max_answer_length"], task["max_length"]) == (8, 2, 24)
    assert task["null_threshold"] == metrics["dev_best_f1_thresh"]


def test_version_1_is_learned(simple):
    metrics = json.loads((simple / "metrics.json").read_text())
    assert metrics["dev_f1"] == metrics["dev_exact_match"] == metrics["test_exact_match"] == 100.0


def test_what_the_run_leaves(answerer, folder):
    """All answers are right at the threshold that the dev part chose, so there are no mistakes."""
    rows = [json.loads(line) for line in (answerer / "predictions.jsonl").read_text().splitlines()]
    gold = gold_of(folder / "dev-v2.0.json")
    assert {row["id"]: (row["context"], row["gold"]) for row in rows} == gold
    assert all(row["prediction"] == (row["gold"] or [""])[0] for row in rows)
    assert (answerer / "mistakes.tsv").read_text() == (
        "row\tloss\tgold\tpredicted\tprobability\tid\tquestion\tcontext\n"
    )
    assert (answerer / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "answers a question with a part of a passage" in (answerer / "README.md").read_text()


def test_evaluation_does_not_depend_on_the_batch(answerer, folder):
    metrics = json.loads((answerer / "metrics.json").read_text())
    scores = [
        evaluate(str(answerer), str(folder), part="test", batch_size=size, device="cpu")
        for size in (1, 5, 64)
    ]
    for found in scores:
        assert found["examples"] == 21
        for name, value in found.items():
            assert value == pytest.approx(scores[0][name], abs=1e-4) if name != "data" else True
            if f"test_{name}" in metrics and name != "loss":
                assert value == pytest.approx(metrics[f"test_{name}"], abs=1e-4)


def test_few_windows_are_held_at_a_time(answerer, folder, monkeypatch):
    """The windows of two questions, whatever the number of questions; the answers are the same."""
    predictor = load_predictor(str(answerer), device="cpu")
    contexts = [context for context, _ in gold_of(folder / "test-v2.0.json").values()]
    questions = [QUESTION] * len(contexts)
    together = answer(predictor, questions, contexts)
    held = []
    outputs = Predictor.outputs

    def watched(self, features, *args, **kwargs):
        held.append(len(features))
        return outputs(self, features, *args, **kwargs)

    monkeypatch.setattr(Predictor, "outputs", watched)
    monkeypatch.setattr("funnelformer.inference.answer._CHUNK", 2)
    one_by_one = answer(predictor, questions, contexts)
    assert len(held) == 11
    assert max(held) <= 2 * 5  # 30 tokens in windows of 17 of the passage, 8 apart, are 3
    for first, second in zip(together, one_by_one, strict=True):
        assert (first.id, first.text) == (second.id, second.text)
        assert first.null_odds == pytest.approx(second.null_odds, abs=1e-4)


def test_the_files_of_the_official_scripts(answerer, simple, folder, tmp_path):
    gold = gold_of(folder / "test-v2.0.json")
    assert predict(str(answerer), str(folder), submit_to=tmp_path / "out", device="cpu") == 21
    read = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert set(read) == {"predictions.json", "nbest_predictions.json", "null_odds.json"}
    threshold = json.loads((answerer / "task.json").read_text())["null_threshold"]
    for name, (context, texts) in gold.items():
        assert read["predictions.json"][name] == (texts[0] if texts else "")
        assert (read["null_odds.json"][name] > threshold) == (not texts)
        best = read["nbest_predictions.json"][name]
        assert sum(entry["probability"] for entry in best) == pytest.approx(1, abs=1e-4)
        assert [e["probability"] for e in best] == sorted((e["probability"] for e in best), reverse=True)
        for entry in best:
            begin = entry["answer_start"]
            assert context[begin : begin + len(entry["text"])] == entry["text"]
            assert len(entry["text"].split()) <= 2
    odds = [read["null_odds.json"][name] for name in gold]
    said = [read["predictions.json"][name] for name in gold]
    assert answer_metrics(said, [texts for _, texts in gold.values()], odds, threshold)["exact"] == 100.0
    predict(str(simple), str(folder), part="dev", submit_to=tmp_path / "one", device="cpu")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "predictions.json",
        "nbest_predictions.json",
    }


def test_rows_with_predictions(answerer, tmp_path):
    """Questions of a file without answers, in the flattened form."""
    context = "the red dog eats . the blue cat sleeps ."
    rows = [
        {"id": "1", "context": context, "question": QUESTION},
        {"id": "2", "context": context.replace("cat", "cow"), "question": QUESTION},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert predict(str(answerer), str(path), out=tmp_path / "p.jsonl", device="cpu") == 2
    found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in found] == ["cat sleeps", ""]
    assert list(found[0]) == ["id", "context", "question", "prediction", "probability", "null_odds"]
    predictor = load_predictor(str(answerer), device="cpu")
    said = answer(predictor, [QUESTION, QUESTION], [row["context"] for row in rows])
    assert [entry.text for entry in said] == ["cat sleeps", ""]
    assert (said[0].best[0].begin, said[0].best[0].end) == (28, 38)


def test_answers_in_parts_are_those_of_one_machine(answerer, folder, tmp_path):
    """What a worker of a cluster writes of questions in SQuAD's form; of a bad one its place is named."""
    source = folder / "dev-v2.0.json"
    predict(str(answerer), str(source), out=tmp_path / "p.jsonl", device="cpu")
    expected = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    job = PredictJob(PredictConfig(str(answerer), device="cpu"))
    found = rows_made(job, source, tmp_path / "out", 8)
    assert [row["row"] for row in found] == list(range(1, 22))
    for row, one in zip(found, expected, strict=True):
        assert {name: row[name] for name in ("id", "question", "prediction")} == {
            name: one[name] for name in ("id", "question", "prediction")
        }
        assert (row["probability"], row["null_odds"]) == pytest.approx(
            (one["probability"], one["null_odds"]), abs=1e-5
        )
    content = json.loads(source.read_text())
    content["data"][0]["paragraphs"][9]["qas"][0]["question"] = " "
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"bad\.json: article 1, paragraph 10, question 1 .*: .*question.* is"
    ):
        rows_made(job, tmp_path / "bad.json", tmp_path / "bad", 8)


def test_the_pipeline_of_transformers(simple):
    """Transformers 4 had one. Where there is none `funnelformer.inference.answer.answer` says what it would."""
    context = "the red dog eats . the blue cat sleeps ."
    (said,) = answer(load_predictor(str(simple), device="cpu"), [QUESTION], [context])
    assert said.text == "cat sleeps"
    if "question-answering" in SUPPORTED_TASKS:
        pipe = transformers.pipeline("question-answering", model=str(simple), device="cpu")
        found = pipe(question=QUESTION, context=context, max_answer_len=2)
        assert (found["answer"], found["start"]) == ("cat sleeps", 28)


def test_a_model_goes_on_with_the_other_head(toy, answerer, folder, tmp_path):
    flags = [
        "--task",
        "squad",
        "--data",
        folder,
        "--model",
        answerer,
        "--out",
        tmp_path / "out",
        "--steps",
        1,
    ]
    assert run(FINETUNE, *flags, "--max-length", 24, "--set.qa_head=simple") == 0


def test_passages_are_not_divided_between_train_and_dev(toy, folder, tmp_path, capsys):
    file = folder / "train-v1.1.json"
    flags = [
        "--task",
        "squad",
        "--train",
        file,
        "--model",
        toy.pretrained,
        "--out",
        tmp_path / "out",
        "--steps",
        1,
    ]
    assert run(FINETUNE, *flags, "--max-length", 24, "--dev-fraction", 0.2) == 0
    shown = capsys.readouterr().out
    assert f"no --dev given: 20% of {file} selects the best epoch" in shown
    assert "data: 72 to train on, 18 to select the best epoch" in shown
    assert "72 questions in " in shown


def test_what_cannot_be(toy, answerer, folder, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--task", "squad", "--data", folder, "--model", toy.pretrained, "--out", out]
    bad = json.loads((folder / "train-v1.1.json").read_text())
    bad["data"][0]["paragraphs"][4]["qas"][0]["answers"][0]["answer_start"] = 5000
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(bad))
    line = fails(capsys, FINETUNE, *flags, "--train", path)
    assert line.startswith(
        f"{path}: article 1, paragraph 5, question 1 (id 'train-v1.1-4'): the answer 'cat "
    )
    assert line.endswith(
        f"is outside of the passage, which has {len(bad['data'][0]['paragraphs'][4]['context'])}"
    )
    assert fails(capsys, FINETUNE, *flags, "--doc-stride", 0) == "--doc-stride is 0; allowed: 1 or more"
    for several in ((), ("--seeds", 2)):
        line = fails(capsys, FINETUNE, *flags, "--max-length", 5, *several)
        assert line == "--max-length is 5; a question with a passage needs 8 or more"
    assert not out.exists()
    line = fails(capsys, "predict", answerer, "-")
    assert line == "stdin holds only texts; give the questions of a task as a file or a folder"
    line = fails(capsys, "evaluate", answerer, folder, "--task", "sst2")
    assert line == f"{answerer}: is a model of span, but sst2 is a task of classification"
    assert run(FINETUNE, *flags, "--train", path, "--skip-bad-rows", "--steps", 1, "--max-length", 24) == 0
    assert "1 bad row left out; the first: " in capsys.readouterr().out


@pytest.mark.slow
def test_every_question_of_a_real_set_can_be_answered(toy):
    """The gold answers of a part of SQuAD 2.0, sent through windows and back, score 100."""
    root = os.environ.get("FUNNELFORMER_DATA")
    if root is None or not (Path(root) / "qa_squad2_small").is_dir():
        pytest.skip("FUNNELFORMER_DATA names no folder with qa_squad2_small/*.json.gz")
    import numpy as np

    from funnelformer.data.tokenizer import load_tokenizer
    from funnelformer.tasks.releases import TASKS
    from funnelformer.tasks.spans import Questions
    from funnelformer.tasks.task import read_part

    task = TASKS["squad2"]
    source = Path(root) / "qa_squad2_small"
    kind = Questions(task)
    examples = kind.examples(read_part(task, str(source), task.part("dev")))
    with gzip.open(source / "dev.json.gz", "rt") as file:
        asked = [q for a in json.load(file)["data"] for p in a["paragraphs"] for q in p["qas"]]
    assert examples["id"][:] == [question["id"] for question in asked]
    encoded = kind.encode(examples, load_tokenizer(toy.tokenizer), 512)
    spans = np.zeros((len(encoded.features), 21, 3))
    spans[:, 1:, 2] = -np.inf
    first, last = (np.asarray(encoded.features[f"{name}_positions"][:]) for name in ("start", "end"))
    spans[:, 0, 2] = np.where(first > 0, -1.0, 1.0)
    spans[:, 1] = np.stack([first, last, np.where(first > 0, 0.0, -np.inf)], axis=-1)
    # A window that shows the answer's start with less context than another passes it over, and that one has it.
    scores = kind.score(spans, None, encoded)
    assert scores["NoAns_exact"] == 100.0
    assert scores["HasAns_exact"] > 99.0
