"""A head fitted to vectors: scikit-learn's, number for number; and the few-shot training of the encoder before it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.cost.flops import forward_flops
from funnelformer.export.command import export
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.predictor import load_predictor
from funnelformer.training.finetuning import vector_fit
from funnelformer.training.finetuning.contrastive import ClassCouples, pair_loss
from funnelformer.training.finetuning.fitted_head import fit_head
from training.toy import ANIMALS, animal_rows, fails, run, sentence, write_table

FIT = "finetune --batch-size 8 --device cpu --max-length 16"
CLASSES = {"cat": "pet", "dog": "guard", "cow": "farm"}
# Largest difference between our probabilities and scikit-learn's; measured 4e-7.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tables(toy):
    """Of two and of three classes."""
    found = {}
    for name, labels in (("two", None), ("three", CLASSES)):
        found[name] = write_table(toy.folder / f"{name}.tsv", animal_rows(60, 0, labels))
        found[f"{name}-dev"] = write_table(toy.folder / f"{name}-dev.tsv", animal_rows(21, 1, labels))
    return found


@pytest.fixture(scope="module")
def runs(toy, tables):
    """Frozen runs of both."""
    for name in ("two", "three"):
        flags = ["--train", tables[name], "--dev", tables[f"{name}-dev"], "--model", toy.pretrained]
        assert run(FIT + " --frozen", *flags, "--out", toy.folder / f"frozen-{name}") == 0
    return {name: toy.folder / f"frozen-{name}" for name in ("two", "three")}


def columns(file):
    rows = [line.split("\t") for line in file.read_text().splitlines()[1:]]
    return [text for text, _ in rows], [label for _, label in rows]


def vectors_of(folder, texts):
    return (
        load_embedder(str(folder), normalize=False, max_length=16, device="cpu").vectors(texts).astype(float)
    )


@pytest.mark.parametrize("name", ["two", "three"])
def test_probabilities_are_those_of_scikit_learn(toy, runs, tables, name):
    texts, labels = columns(tables[name])
    metrics = json.loads((runs[name] / "metrics.json").read_text())
    expected = make_pipeline(
        StandardScaler(), LogisticRegression(C=metrics["chosen"]["C"], max_iter=2000, tol=1e-7)
    ).fit(vectors_of(toy.pretrained, texts), labels)
    tested, _ = columns(tables[f"{name}-dev"])
    predictor = load_predictor(str(runs[name]), device="cpu")
    found = predictor.probabilities(predictor.logits(tested))
    order = [predictor.labels.index(label) for label in expected.classes_]
    np.testing.assert_allclose(
        found[:, order], expected.predict_proba(vectors_of(toy.pretrained, tested)), atol=TOLERANCE
    )
    # They are worth something, and told as `evaluate` finds them.
    assert metrics["dev_accuracy"] > 0.9
    assert (
        evaluate(str(runs[name]), str(tables[f"{name}-dev"]), device="cpu")["accuracy"]
        == (metrics["dev_accuracy"])
    )


def test_the_folder_is_a_normal_model(toy, runs, tables):
    """The encoder is the source's, bit for bit; the head one linear layer, which the pipeline and an export read."""
    before, after = (load_file(folder / "model.safetensors") for folder in (toy.pretrained, runs["three"]))
    own = {name for name in after if name.startswith("funnelformer.")}
    assert all(torch.equal(after[name], before[name]) for name in own)
    assert {name: tuple(after[name].shape) for name in after.keys() - own} == {
        "classifier.output.weight": (3, 16),
        "classifier.output.bias": (3,),
    }
    metrics = json.loads((runs["three"] / "metrics.json").read_text())
    assert (metrics["steps"], "best_step" in metrics) == (0, False)
    lengths = [
        len(ids)
        for ids in load_predictor(str(runs["three"])).tokenizer(columns(tables["three"])[0])["input_ids"]
    ]
    config = FunnelformerConfig.from_pretrained(runs["three"])
    assert config.classifier_pooling == "mean"
    assert set(lengths) == {7}
    flops = forward_flops(config, 7, batch_size=60, head="classification").total
    assert metrics["cost"]["train_flops"] == flops
    card = (runs["three"] / "README.md").read_text()
    assert "The dev part chose nothing; cross-validation on the training data chose" in card
    assert "| C of the head |" in card
    assert "curve.png" not in card
    assert not (runs["three"] / "curve.png").exists()
    rows = [json.loads(line) for line in (runs["three"] / "predictions.jsonl").read_text().splitlines()]
    (said,) = transformers.pipeline("text-classification", model=str(runs["three"]), device="cpu")(
        [rows[0]["text"]]
    )
    assert (said["label"], said["score"]) == (
        rows[0]["prediction"],
        pytest.approx(rows[0]["probability"], abs=2e-6),
    )


@pytest.mark.slow
def test_it_is_exported_as_int8(no_shape_checks, runs, tables, tmp_path):
    export(str(runs["three"]), tmp_path / "int8", int8="dynamic", calibration=str(tables["three-dev"]))
    found = evaluate(str(tmp_path / "int8"), str(tables["three-dev"]))
    expected = json.loads((runs["three"] / "metrics.json").read_text())["dev_accuracy"]
    assert found["accuracy"] == pytest.approx(expected, abs=0.06)


def test_the_sources_own_pooling(toy, tables, tmp_path):
    """A model that says how its vectors are made gives the head the same ones, not yet scaled to length 1."""
    source = tmp_path / "source"
    flags = ["--pooling", "cls", "--save-sentence-transformers", source, "--normalize"]
    assert run("embed", toy.pretrained, *flags) == 0
    more = [
        "--train",
        tables["two"],
        "--dev",
        tables["two-dev"],
        "--model",
        source,
        "--out",
        tmp_path / "out",
    ]
    assert run(FIT + " --frozen", *more) == 0
    assert FunnelformerConfig.from_pretrained(tmp_path / "out").classifier_pooling == "cls"
    texts, labels = columns(tables["two"])
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = make_pipeline(
        StandardScaler(), LogisticRegression(C=metrics["chosen"]["C"], max_iter=2000, tol=1e-7)
    )
    vectors = (
        load_embedder(str(source), normalize=False, max_length=16, device="cpu").vectors(texts).astype(float)
    )
    predictor = load_predictor(str(tmp_path / "out"), device="cpu")
    found = predictor.probabilities(predictor.logits(texts))
    np.testing.assert_allclose(found, expected.fit(vectors, labels).predict_proba(vectors), atol=TOLERANCE)


def test_amounts_are_those_of_a_ridge(toy, tmp_path):
    generator = random.Random(3)
    rows = [(sentence(generator, animal), 2 * ANIMALS.index(animal)) for animal in ANIMALS * 12]
    table = write_table(tmp_path / "amounts.tsv", rows)
    flags = ["--train", table, "--dev", table, "--model", toy.pretrained, "--out", tmp_path / "out"]
    assert run(FIT + " --frozen --regression", *flags) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    texts, _ = columns(table)
    vectors = vectors_of(toy.pretrained, texts)
    model = make_pipeline(StandardScaler(), Ridge(alpha=metrics["chosen"]["alpha"]))
    expected = model.fit(vectors, [amount for _, amount in rows]).predict(vectors)
    found = load_predictor(str(tmp_path / "out"), device="cpu").logits(texts)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)  # measured 6e-6, of amounts up to 8


def test_several_labels_and_weights_of_classes():
    """One regression a label; a class of twice the weight counts as if its rows were there twice."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 4)).astype(np.float32)
    gold = (vectors[:, :2] + generator.normal(size=(60, 2)) > 0).astype(float)
    head = fit_head("multi-label", vectors, gold)
    logits = vectors @ head.weight.T + head.bias
    for label, strength in enumerate(head.chosen["C"]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, tol=1e-7))
        expected = model.fit(vectors.astype(float), gold[:, label]).predict_proba(vectors)[:, 1]
        np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, label])), expected, atol=1e-6)
    ids = gold[:, 0].astype(int)
    plain, weighted = (
        fit_head("classification", vectors, ids, weights) for weights in (None, np.array([1.0, 2.0]))
    )
    says_one = [(vectors @ head.weight.T + head.bias).argmax(1).sum() for head in (plain, weighted)]
    assert says_one[1] > says_one[0]


def test_one_row_of_a_class_is_not_cross_validated():
    vectors = np.eye(4, dtype=np.float32)
    assert fit_head("classification", vectors, np.array([0, 0, 0, 1])).chosen == {"C": 1.0}


def test_pair_loss_by_hand():
    """Cosines 1 (one class), 0 and 0.6 (of two): means 0 and (0 + 0.36 + ...) of the two sorts."""
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [3.0, 4.0]])
    # Pairs: (0, 1) cosine 0, (0, 2) 0.6, (1, 2) 0.8. Of one class is (0, 2) alone.
    found = pair_loss(vectors, torch.tensor([1, 0, 1]))
    assert found.item() == pytest.approx(((0.6 - 1) ** 2 + (0 + 0.8**2) / 2) / 2)
    assert pair_loss(vectors, torch.tensor([1, 1, 1])).item() == pytest.approx((1 + 0.16 + 0.04) / 3)


def test_couples_are_of_one_class():
    labels = np.array([0] * 5 + [1] * 4 + [2])
    couples = ClassCouples(labels, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        couples.set_epoch(epoch)
        order = list(couples)
        assert len(order) == len(couples) == 12
        assert set(order) == set(range(10))
        assert all(labels[a] == labels[b] for a, b in zip(order[::2], order[1::2], strict=True))
        orders.append(order)
    assert orders[0] == orders[2] != orders[1]


def test_few_shot_brings_classes_together(toy, tables, tmp_path, monkeypatch):
    """The encoder's vectors of one class are nearer than before, and the same command makes the same model."""

    def gap(folder):
        texts, labels = columns(tables["three-dev"])
        vectors = vectors_of(folder, texts)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        same = np.equal.outer(labels, labels)
        cosines = unit @ unit.T
        return cosines[same].mean() - cosines[~same].mean()

    few = write_table(tmp_path / "few.tsv", animal_rows(24, 5, CLASSES))
    flags = ["--train", few, "--dev", tables["three-dev"], "--model", toy.pretrained]
    flags += ["--contrastive-epochs", 6, "--learning-rate", 0.005, "--log-every", 1]
    for name in ("a", "b"):
        assert run(FIT + " --few-shot", *flags, "--out", tmp_path / name) == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert gap(tmp_path / "a") > gap(toy.pretrained) + 0.1  # measured 0.21, then 0.39
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["steps"] == 6 * 24 // 8
    assert metrics["chosen"]["learning_rate"] == 0.005
    assert metrics["dev_accuracy"] > 0.9
    losses = [
        entry["loss"]
        for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()
        if "loss" in (entry := json.loads(line))
    ]
    assert len(losses) == 18
    assert sum(losses[-6:]) < sum(losses[:6])
    assert (tmp_path / "a" / "curve.png").is_file()
    assert "contrastive epochs" in (tmp_path / "a" / "README.md").read_text()
    assert not list((tmp_path / "a" / "checkpoints").iterdir())


def test_resume(toy, runs, tables, capsys, tmp_path, monkeypatch):
    """A finished run is not made again; one that was interrupted has no checkpoint, and --auto-resume begins anew."""
    before = (runs["two"] / "metrics.json").read_text()
    flags = ["--train", tables["two"], "--dev", tables["two-dev"], "--model", toy.pretrained]
    assert run(FIT + " --frozen --resume", *flags, "--out", runs["two"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert (runs["two"] / "metrics.json").read_text() == before
    out = tmp_path / "out"

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vector_fit, "fit_head", interrupted)
        assert run(FIT + " --frozen", *flags, "--out", out) != 0
    assert "holds no complete checkpoint" in fails(capsys, FIT + " --frozen --resume", *flags, "--out", out)
    assert run(FIT + " --frozen --auto-resume", *flags, "--out", out) == 0
    assert (
        json.loads((out / "metrics.json").read_text())["dev_accuracy"] == json.loads(before)["dev_accuracy"]
    )


def test_what_cannot_be(toy, tables, capsys, tmp_path):
    out = tmp_path / "out"
    data = ["--train", tables["two"], "--dev", tables["two-dev"], "--out", out]
    flags = [*data, "--model", toy.pretrained]
    no_step = "--frozen trains no step, so {} would have no effect; leave it out"
    for options, message in (
        (
            "--frozen --few-shot",
            "--frozen and --few-shot exclude each other: one keeps the encoder, one trains it",
        ),
        ("--frozen --epochs 2", no_step.format("--epochs")),
        (
            "--frozen --learning-rate 1e-4",
            no_step.format("--learning-rate"),
        ),
        ("--contrastive-epochs 2", "--contrastive-epochs needs --few-shot"),
        (
            "--few-shot --early-stopping 2",
            "--few-shot trains on pairs and then fits the head, so --early-stopping would have no effect; leave it out",
        ),
        ("--few-shot --contrastive-epochs 0", "--contrastive-epochs is 0.0; allowed: more than 0"),
        (
            "--few-shot --batch-size 7",
            "--batch-size is 7; allowed with --few-shot: even numbers, because texts come in pairs",
        ),
        (
            "--few-shot --doc-stride 4",
            "--few-shot compares whole texts; leave out --doc-stride",
        ),
    ):
        assert fails(capsys, FIT, *flags, *options.split()) == message
    assert fails(capsys, FIT + " --frozen", *data, "--model", "B1-1H16", "--tokenizer", toy.tokenizer) == (
        "--frozen needs a pretrained --model; B1-1H16 starts from nothing"
    )
    amounts = write_table(tmp_path / "amounts.tsv", [(text, 1.5) for text, _ in animal_rows(4)])
    line = fails(capsys, FIT + " --few-shot --regression", *flags[2:], "--train", amounts, "--dev", amounts)
    assert line == ("--few-shot needs classes, and this is a task of regression; use --frozen")
    (tmp_path / "train.txt").write_text("the O\ncat B-x\n\nthe O\n")
    line = fails(
        capsys,
        FIT + " --frozen --task ner",
        "--train",
        tmp_path / "train.txt",
        "--dev",
        tmp_path / "train.txt",
        *flags[4:],
    )
    assert line == "--frozen gives each text or pair of texts one vector, so it cannot learn a task of tokens"
    every = write_table(
        tmp_path / "every.tsv", [(text, "a|b" if i else "a") for i, (text, _) in enumerate(animal_rows(6))]
    )
    line = fails(
        capsys,
        FIT + " --frozen --multi-label --label-separator |",
        "--train",
        every,
        "--dev",
        every,
        *flags[4:],
    )
    assert line == "every training row has the label 'a', so it cannot be learned"
    assert not out.exists()


def test_a_linear_head_has_no_place_in_other_forms(runs, capsys, tmp_path):
    line = fails(capsys, "convert", runs["two"], tmp_path / "out", "--to", "transformers")
    assert "classifier_head='linear'" in line


def test_a_linear_head_alone():
    """classifier_head="linear": logits are the layer on the pooled vector; its FLOPs are the layer's."""
    config = FunnelformerConfig.from_name("B1-1H16", vocab_size=30, classifier_head="linear", num_labels=3)
    model = FunnelformerForSequenceClassification(config).eval()
    ids = torch.arange(5, 14)[None]
    with torch.no_grad():
        vector = model.funnelformer.sequence_vectors(ids)
        expected = vector @ model.classifier.output.weight.T + model.classifier.output.bias
        assert torch.equal(model(ids).logits, expected) or torch.allclose(
            model(ids).logits, expected, atol=1e-7
        )
    dense = FunnelformerConfig.from_name("B1-1H16", vocab_size=30, num_labels=3)
    heads = [forward_flops(c, 9, head="classification").head for c in (config, dense)]
    assert heads[1] - heads[0] == 2 * 16 * 16
