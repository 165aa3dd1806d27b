"""`distill --learn logits` and `scores`: a teacher with a head teaches on texts and pairs that have no labels."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import transformers

from funnelformer import load_predictor
from funnelformer.corpus.documents import in_validation
from funnelformer.inference.rank import rank
from funnelformer.training.distillation.answering_teacher import AnsweringTeacher
from funnelformer.training.distillation.reranking import Reranking, read_reranking
from sentence_folders import save_bert
from training.distillation.conftest import texts
from training.toy import fails, interrupted_at, log_of, metrics_of, run, sentence, weights_equal, write_table

LEARN = (
    "distill --layout B2-2 --steps 24 --batch-size 8 --device cpu --learning-rate 0.01 --evaluate-every 12 "
    "--log-every 6 --validation-fraction 0.1"
)
LABELS = ("fish", "fowl", "flesh")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A BERT of transformers with three labels."""
    return save_bert(
        tmp_path_factory.mktemp("classifier"),
        model_class="BertForSequenceClassification",
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    """A cross-encoder of sentence-transformers: a BERT with one number a pair."""
    folder = tmp_path_factory.mktemp("ranker")
    save_bert(
        folder / "bert",
        model_class="BertForSequenceClassification",
        id2label={0: "LABEL_0"},
        label2id={"LABEL_0": 0},
    )
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(folder / "bert"), device="cpu").save_pretrained(str(folder / "saved"))
    return folder / "saved"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    generator = random.Random(5)
    rows = [(sentence(generator), sentence(generator)) for _ in range(200)]
    return write_table(tmp_path_factory.mktemp("pairs") / "pairs.tsv", rows, ("query", "passage"))


def test_a_classifier_teaches_its_labels_on_texts_without_any(lesson, classifier, tmp_path):
    command = (
        LEARN,
        "--learn",
        "logits",
        "--teacher",
        classifier,
        "--model",
        classifier,
        "--train",
        lesson.texts,
    )
    out = tmp_path / "out"
    assert run(*command, "--out", out) == 0
    entries = log_of(out)
    losses = [entry["teacher_loss"] for entry in entries if "loss" in entry]
    assert losses[-1] < losses[0]
    # Nothing but the teacher's part is learned.
    assert all(
        entry["loss"] == pytest.approx(entry["teacher_loss"], rel=1e-4)
        for entry in entries
        if "loss" in entry
    )
    student = load_predictor(str(out), device="cpu")
    assert (tuple(student.labels), student.kind) == (LABELS, "classification")
    assert student.model.config.blocks == [2, 2]
    assert student.model.config.hidden_dropout == 0.1
    held_out = [text for text in lesson.texts.read_text().splitlines() if in_validation(text, 0.1)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    theirs = model(**tokenizer(held_out, padding=True, return_tensors="pt")).logits.detach().numpy()
    agreement = (student.logits(held_out).argmax(-1) == theirs.argmax(-1)).mean()
    assert metrics_of(out)["dev_accuracy"] == pytest.approx(agreement)
    card = (out / "README.md").read_text()
    assert "agreement with the teacher on held-out texts" in card
    assert "`fish`, `fowl`, `flesh`" in card


def test_a_cross_encoder_teaches_its_scores(ranker, pairs, squad, tmp_path, monkeypatch):
    """And the student puts documents in order; another seed and a resumed run ask nothing again."""
    command = (LEARN, "--learn", "scores", "--teacher", ranker, "--model", ranker.parent / "bert")
    columns = ("--train", pairs, "--text", "query", "--text-pair", "passage")
    command = (*command, *columns, "--retrieval", squad, "--cache", tmp_path / "cache")
    out, again = tmp_path / "out", tmp_path / "again"
    assert run(*command, "--out", out) == 0
    losses = [entry for entry in log_of(out) if "loss" in entry]
    assert losses[-1]["teacher_loss"] < losses[0]["teacher_loss"]
    entries = [entry for entry in log_of(out) if "eval_spearman" in entry]
    assert [sorted(entry)[-1] for entry in entries] == ["step"] * 2
    assert all(0 < entry["eval_mrr_squad"] <= 1 for entry in entries)
    metrics = metrics_of(out)
    assert metrics["metric"] == "dev_spearman"
    assert metrics["dev_spearman"] == max(entry["eval_spearman"] for entry in entries)
    assert metrics["mrr_squad"] in [entry["eval_mrr_squad"] for entry in entries]
    (file,) = (tmp_path / "cache").glob("answers-*/*.npy")
    asked = [tuple(line.split("\t")) for line in pairs.read_text().splitlines()[1:]]
    from sentence_transformers import CrossEncoder

    teacher = CrossEncoder(str(ranker), device="cpu")
    said = teacher.predict(asked, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    np.testing.assert_allclose(np.load(file)[:, 0], said, atol=1e-5)
    student = load_predictor(str(out), device="cpu")
    assert student.kind == "regression"
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(texts(5)) + "\n")
    assert (
        rank(str(out), str(documents), query="the red cat", out=tmp_path / "ranked.jsonl", device="cpu") == 5
    )

    def load(self, device, precision):
        raise AssertionError("the teacher is loaded again")

    monkeypatch.setattr(AnsweringTeacher, "load", load)
    with interrupted_at(15):
        assert run(*command, "--out", again) == 130
    assert run(*command, "--out", again, "--resume") == 0
    assert weights_equal(out, again)
    assert metrics == metrics_of(again)


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    """Thirty passages with a question each."""
    generator = random.Random(6)
    paragraphs = [
        {
            "context": " ".join(sentence(generator) for _ in range(3)),
            "qas": [
                {"id": str(number), "question": sentence(generator), "answers": [], "is_impossible": True}
            ],
        }
        for number in range(30)
    ]
    file = tmp_path_factory.mktemp("squad") / "squad.json"
    file.write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))
    return file


def test_passages_are_put_in_order_among_those_that_look_alike(squad):
    (found,) = read_reranking([str(squad)])
    assert found.candidates.shape == (30, 20)
    assert found.candidates[:, 0].tolist() == list(range(30))
    assert all(len(set(row)) == 20 for row in found.candidates.tolist())


def test_the_place_of_the_right_passage_by_hand(ranker, monkeypatch):
    """Second, and last of three beside an equal one."""
    scores = {
        ("a", "x"): 1.0,
        ("a", "y"): 2.0,
        ("a", "z"): 0.0,
        ("b", "z"): 1.0,
        ("b", "x"): 1.0,
        ("b", "y"): 3.0,
    }

    class Predicted:
        def __init__(self, *args):
            pass

        def logits(self, questions, passages):
            return np.array([[scores[pair]] for pair in zip(questions, passages, strict=True)])

    monkeypatch.setattr("funnelformer.training.distillation.reranking.Predictor", Predicted)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(ranker)
    found = Reranking("f", ["a", "b"], ["x", "y", "z"], np.array([[0, 1, 2], [2, 0, 1]]))
    assert found.measure(model, None, 16) == {"mrr_f": pytest.approx((1 / 2 + 1 / 3) / 2)}


def test_what_cannot_be_taught_is_said_in_a_line(lesson, classifier, ranker, pairs, tmp_path, capsys):
    out = ("--out", tmp_path / "out")

    def message(teacher, lessons, *options):
        return fails(
            capsys, LEARN, "--teacher", teacher, "--model", classifier, "--learn", *lessons, *out, *options
        )

    train = ("--train", lesson.texts)
    table = ("--train", pairs, "--text", "query", "--text-pair", "passage")
    assert "logits is learned alone" in message(classifier, ["vectors", "logits"], *train)
    assert "logits is learned alone" in message(classifier, ["logits=2"], *train)
    assert "--learn logits: --pairs would have no effect" in message(
        classifier, ["logits"], *train, "--pairs", "x"
    )
    assert "--temperature is of --learn logits" in message(
        classifier, ["vectors"], *train, "--temperature", 3
    )
    assert "scores have none" in message(ranker, ["scores"], *table, "--temperature", 3)
    assert "needs a cross-encoder" in message(classifier, ["scores"], *table)
    assert "needs pairs of a query and a passage" in message(ranker, ["scores"], *train)
    assert "is a BertModel; what is learned of texts needs" in message(lesson.teacher, ["logits"], *train)
    assert "has a text a line" in message(classifier, ["logits"], *train, "--text-pair", "passage")
    assert "needed are 2 or more" in message(classifier, ["logits"], *train, "--validation-fraction", 0)
    assert "too few for a step of 512" in message(classifier, ["logits"], *train, "--batch-size", 512)
    assert "--max-length 500 is beyond" in message(classifier, ["logits"], *train, "--max-length", 500)
    assert not (tmp_path / "out").exists()
