"""A BERT that was shortened in everything else that the product does, by values."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForQuestionAnswering,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
    FunnelformerModel,
    prepack,
)
from funnelformer.checkpoints.convert import convert
from funnelformer.data.padding import pad_batch
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.export import command as export_command
from funnelformer.export.command import export
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.predictor import load_predictor
from funnelformer.inference.rank import scores
from models import enable_checkpointing
from sentence_folders import load_sentence_transformer, make_modules, save_bert
from training.children import finish, start
from training.finetuning.test_choice_task import write_race
from training.finetuning.test_squad_task import write_squad
from training.finetuning.test_token_task import write_conll
from training.toy import ANIMALS, animal_rows, fails, run, sentence, write_table

# One text alone, in a batch, in another library or as a graph; measured 3e-6.
TOLERANCE = 1e-5
TUNE = "finetune --steps 2 --batch-size 8 --device cpu --max-length 16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shortened")


@pytest.fixture(scope="module")
def short(folder: Path) -> Path:
    """Four layers of a mean-pooled BERT in blocks of 1, 1 and 2."""
    source = make_modules(save_bert(folder / "source"))
    convert(source, folder / "short", layout="B1-1-2H16")
    return folder / "short"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = random.Random(4)
    return [" ".join(sentence(generator) for _ in range(generator.randint(1, 6))) for _ in range(9)]


@pytest.fixture(scope="module")
def classifier(folder: Path, short: Path) -> Path:
    """Fine-tuned on texts that are read in windows of 16 tokens."""
    rows = [(f"{text} {text} {text} {text}", label) for text, label in animal_rows(24)]
    table = write_table(folder / "train.tsv", rows)
    arguments = ("--train", table, "--dev", table, "--model", short, "--out", folder / "classifier")
    assert run(TUNE, *arguments, "--doc-stride", 8) == 0
    return folder / "classifier"


def test_windows_of_long_texts(classifier: Path, texts: list[str]) -> None:
    """The logits of a text are the mean of its windows', each read alone by the model as it was saved."""
    predictor = load_predictor(str(classifier), device="cpu")
    assert predictor.task["doc_stride"] == 8
    found = predictor.logits(texts)
    model = FunnelformerForSequenceClassification.from_pretrained(classifier).eval()
    assert model.config.blocks == [1, 1, 2]
    assert model.config.classifier_pooling == "mean_tokens"
    assert model.config.made_from["layers"] == [0, 1, 2, 3]
    assert model.config.made_from["model_type"] == "bert"
    tokenizer = load_tokenizer(classifier)
    for row, text in zip(found, texts, strict=True):
        encoded = tokenizer(
            text, truncation=True, max_length=16, stride=16 - 2 - 8, return_overflowing_tokens=True
        )
        with torch.no_grad():
            logits = [model(torch.tensor([ids])).logits[0] for ids in encoded["input_ids"]]
        assert row == pytest.approx(torch.stack(logits).mean(0).numpy(), abs=TOLERANCE)


def test_report(classifier: Path, tmp_path: Path) -> None:
    assert run("report", classifier, "--out", tmp_path / "page.html") == 0
    assert "B1-1-2H16" in (tmp_path / "page.html").read_text()
    card = (classifier / "README.md").read_text()
    assert "made from `source` (bert, L4H16)" in card


def test_pipeline(classifier: Path, texts: list[str]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    pipe = pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(classifier),
        tokenizer=AutoTokenizer.from_pretrained(classifier),
        device="cpu",
    )
    predictor = load_predictor(str(classifier), device="cpu")
    one_window = [text for text in texts if len(text.split()) <= 14]
    assert one_window
    wanted = predictor.probabilities(predictor.logits(one_window)).max(1)
    assert [row["score"] for row in pipe(one_window)] == pytest.approx(wanted, abs=TOLERANCE)


def test_prepacked(classifier: Path, texts: list[str]) -> None:
    batch = load_tokenizer(classifier)(texts, truncation=True, padding=True, return_tensors="pt")
    model = FunnelformerForSequenceClassification.from_pretrained(classifier).eval()
    with torch.inference_mode():
        expected = model(**batch).logits
        assert torch.allclose(prepack(model)(**batch).logits, expected, atol=TOLERANCE)


def test_gradient_checkpointing(short: Path, texts: list[str]) -> None:
    batch = load_tokenizer(short)(texts, padding=True, return_tensors="pt")
    gradients = []
    for wanted in (False, True):
        model = FunnelformerForSequenceClassification.from_pretrained(
            short, hidden_dropout=0.0, attention_dropout=0.0
        ).train()
        torch.manual_seed(2)
        torch.nn.init.normal_(model.classifier.output.weight)
        torch.nn.init.eye_(model.classifier.dense.weight)
        if wanted:
            enable_checkpointing(model)
        model(**batch, labels=torch.arange(len(texts)) % 2).loss.backward()
        gradients.append([parameter.grad for parameter in model.funnelformer.parameters()])
    assert gradients[0][0].abs().sum() > 0
    for first, second in zip(*gradients, strict=True):
        assert (first is None) == (second is None)
        assert first is None or torch.allclose(first, second, atol=1e-6)


@pytest.fixture(scope="module")
def ranker(folder: Path, short: Path) -> Path:
    generator = random.Random(2)
    rows = []
    for _ in range(16):
        one, two = generator.choice(ANIMALS), generator.choice(ANIMALS)
        rows.append((sentence(generator, one), sentence(generator, two), float(one == two)))
    table = write_table(folder / "pairs.tsv", rows, ("premise", "hypothesis", "label"))
    arguments = ("--train", table, "--dev", table, "--model", short, "--out", folder / "ranker")
    assert run(TUNE, *arguments, "--regression") == 0
    return folder / "ranker"


def test_pairs_in_a_cross_encoder(ranker: Path, texts: list[str]) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs the extra `embeddings`")
    loaded = library.CrossEncoder(str(ranker), device="cpu", local_files_only=True)
    theirs = loaded.predict([("the red cat eats .", text) for text in texts])
    found = scores(load_predictor(str(ranker), device="cpu"), "the red cat eats .", texts)
    assert found == pytest.approx(theirs, abs=TOLERANCE)


def test_tasks_of_tokens_need_a_decoder_and_get_one(
    folder: Path, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, number in (("train", 16), ("dev", 8)):
        write_conll(tmp_path / f"{name}.txt", number, seed=number)
        write_squad(tmp_path / f"{name}-v1.1.json", number, number, 0)
    for task, model_class in (
        ("ner", FunnelformerForTokenClassification),
        ("squad", FunnelformerForQuestionAnswering),
    ):
        out = tmp_path / f"out-{task}"
        arguments = ("--task", task, "--data", tmp_path, "--model", short, "--out", out, "--max-length", 24)
        strides = ("--doc-stride", 8) if task == "squad" else ()
        what = "token classification" if task == "ner" else "question answering"
        line = fails(capsys, TUNE, *arguments, *strides)
        assert line == (
            f"{short}: no model could be loaded ({what} needs a decoder: set decoder_layers >= 1)"
        )
        assert not out.exists()
        assert run(TUNE, *arguments, *strides, "--set.decoder_layers=1") == 0
        assert "decoder: 1 new layers, their weights random" in capsys.readouterr().out
        tuned = model_class.from_pretrained(out)
        assert (tuned.config.decoder_layers, tuned.config.made_from["source"]) == (1, "source")
        ids = torch.tensor([[2, 5, 8, 14, 20, 7, 3]])
        output = tuned.eval()(ids)
        states = output.logits if task == "ner" else output.start_logits
        assert states.shape[:2] == (1, 7)


def test_choices(short: Path, tmp_path: Path) -> None:
    for name, number in (("train", 16), ("dev", 8)):
        write_race(tmp_path / f"{name}.jsonl", number, seed=number)
    out = tmp_path / "out"
    arguments = ("--task", "race", "--data", tmp_path, "--model", short, "--out", out)
    assert run(TUNE, *arguments, "--max-length", 24) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["dev_accuracy"] <= 1
    assert FunnelformerConfig.from_pretrained(out).made_from["source"] == "source"


@pytest.fixture(scope="module")
def graph(short: Path, folder: Path, no_shape_checks: None) -> tuple[Path, dict[str, Any]]:
    """The short model's export, and what is said of it."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    out = folder / "onnx"
    return out, export(str(short), out, check_to=33, say=lambda line: None)


@pytest.mark.parametrize("pooling", [None, "cls", "mean"])
def test_export_of_vectors(
    short: Path, texts: list[str], graph: tuple[Path, dict[str, Any]], pooling: Any
) -> None:
    """The graph's own output is the finished vector; with another pooling it is made of the graph's states."""
    out, report = graph
    assert report["task"] == "embeddings"
    assert report["checked"]["largest"]["relative"] < TOLERANCE
    embedder = load_embedder(str(short), pooling=pooling, device="cpu")
    exported = load_embedder(str(out), pooling=pooling)
    assert exported.settings == embedder.settings
    expected = embedder.vectors(texts)
    assert exported.vectors(texts, batch_size=4) == pytest.approx(expected, abs=TOLERANCE)
    if pooling is None:
        encoded = exported.tokenizer(texts, truncation=True, max_length=32)
        rows = [{name: values[i] for name, values in encoded.items()} for i in range(len(texts))]
        given = exported.model(**pad_batch(exported.tokenizer, rows))["sentence_embedding"]
        assert given == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.usefixtures("no_shape_checks")
def test_int8(
    short: Path,
    texts: list[str],
    graph: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the graph that was traced before."""

    def copy(model: Any, target: Any, file: Path, **options: Any) -> None:
        file.write_bytes((graph[0] / "model.onnx").read_bytes())

    monkeypatch.setattr(export_command, "export_graph", copy)
    export(str(short), tmp_path / "int8", int8="dynamic", check_to=33, say=lambda line: None)
    expected = load_embedder(str(short), device="cpu").vectors(texts)
    found = load_embedder(str(tmp_path / "int8")).vectors(texts)
    assert (found * expected).sum(1).min() > 0.98  # cosines; measured 0.9995
    assert not np.array_equal(found, expected)


def test_service(short: Path, classifier: Path, texts: list[str], tmp_path: Path) -> None:
    """/embed has the pooling, length and normalisation of the model itself; the page and /inspect are there."""
    from serve.running import running

    expected = load_embedder(str(short), device="cpu").vectors(texts)
    plain = load_embedder(str(short), pooling="mean", normalize=False, device="cpu").vectors(texts)
    with running(short) as client:
        found = client.results("/embed", texts=texts)
        assert np.array([row["vector"] for row in found]) == pytest.approx(expected, abs=TOLERANCE)
        found = client.results("/embed", texts=texts, pooling="mean", normalize=False)
        assert np.array([row["vector"] for row in found]) == pytest.approx(plain, abs=TOLERANCE)
        assert client.post("/embed", {"texts": ["x"], "pooling": "max"}).status == 422
        view = client.post("/inspect", {"text": "the red cat eats ."}).json
        # [CLS] stays; nothing is dropped at the end.
        assert [stage["members"] for stage in view["stages"]] == [
            [[0], [1], [2], [3], [4], [5], [6]],
            [[0], [1, 2], [3, 4], [5, 6]],
            [[0], [1, 2, 3, 4], [5, 6]],
        ]
        assert client.get("/").status == 200
    # A classifier that was tuned at 16 tokens still cuts at its encoder's own 32 for vectors.
    wanted = load_embedder(str(classifier), device="cpu")
    assert wanted.max_length == 32
    predictor = load_predictor(str(classifier), device="cpu")
    probabilities = predictor.probabilities(predictor.logits(texts))
    with running(classifier) as client:
        found = client.results("/embed", texts=texts)
        assert np.array([row["vector"] for row in found]) == pytest.approx(
            wanted.vectors(texts), abs=TOLERANCE
        )
        rows = client.results("/classify", texts=texts)
        labels = predictor.labels
        for row, mine in zip(rows, probabilities, strict=True):
            assert row["prediction"] == labels[int(mine.argmax())]


def test_in_sentence_transformers(short: Path, texts: list[str]) -> None:
    """The converted folder is one of that library, too."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `embeddings`")
    expected = load_embedder(str(short), device="cpu").vectors(texts)
    assert load_sentence_transformer(short).encode(texts) == pytest.approx(expected, abs=TOLERANCE)
    assert load_sentence_transformer(short).max_seq_length == 32
    # By hand: each state as often as the tokens it holds.
    batch = load_tokenizer(short)(texts[0], truncation=True, max_length=32, return_tensors="pt")
    model = FunnelformerModel.from_pretrained(short).eval()
    with torch.no_grad():
        states = model(batch["input_ids"]).last_hidden_state[0]
    rest = batch["input_ids"].shape[1] - 1
    counts = torch.tensor([1, *[min(4, rest - start) for start in range(0, rest, 4)]])
    vector = (states * counts[:, None]).sum(0) / counts.sum()
    assert expected[0] == pytest.approx((vector / vector.norm()).numpy(), abs=TOLERANCE)


@pytest.mark.slow
def test_two_processes(folder: Path, short: Path) -> None:
    """As one process with twice the accumulation."""
    table = write_table(folder / "two.tsv", animal_rows(32))
    losses = []
    for number in (1, 2):
        out = folder / f"processes-{number}"
        flags = ["--train", table, "--dev", table, "--model", short, "--out", out, "--log-every", 1]
        flags += ["--set.hidden_dropout=0.0", "--set.attention_dropout=0.0"]
        flags += ["--gradient-accumulation", 2 // number]
        children = start(TUNE, *flags, output=folder / f"{number}.txt", num_processes=number)
        assert finish(children) == [0] * number, (folder / f"{number}.txt").read_text()
        entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        losses.append([entry["loss"] for entry in entries if "loss" in entry])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE)
