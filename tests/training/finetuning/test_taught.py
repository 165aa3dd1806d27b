"""`finetune --teacher`: what is learned of it, whose labels are whose, and that it is asked once."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from funnelformer import load_predictor
from funnelformer.data.tables import TaskColumns
from funnelformer.training.distillation import teacher_answers
from funnelformer.training.distillation.answering_teacher import AnsweringTeacher, task_of
from funnelformer.training.finetuning import finetune
from funnelformer.training.finetuning.config import FinetuneConfig
from funnelformer.training.finetuning.taught import learn_from
from sentence_folders import bert_tokenizer, save_bert
from training.children import finish, start
from training.finetuning.test_choice_task import write_race
from training.finetuning.test_squad_task import write_squad
from training.finetuning.test_token_task import write_conll
from training.toy import (
    FINETUNE,
    animal_rows,
    fails,
    interrupted_at,
    log_of,
    run,
    sentence,
    weights_equal,
    write_table,
)

# One step, with all rows in it and no dropout, at a rate that changes nothing yet.
ONE_STEP = (
    "--steps",
    1,
    "--evaluate-every",
    1,
    "--log-every",
    1,
    "--batch-size",
    64,
    "--set.hidden_dropout=0.0",
)
STILL = (*ONE_STEP, "--set.attention_dropout=0.0", "--learning-rate", 1e-9)


@pytest.fixture(scope="module")
def data(toy):
    train = write_table(toy.folder / "train.tsv", animal_rows(48))
    return train, write_table(toy.folder / "dev.tsv", animal_rows(16, seed=1))


@pytest.fixture(scope="module")
def command(toy, data):
    return (FINETUNE, "--model", toy.pretrained, "--train", data[0], "--dev", data[1])


@pytest.fixture(scope="module")
def teacher(toy, command):
    """A classifier that tells cats ("yes") from dogs ("no")."""
    out = toy.folder / "teacher"
    assert run(*command, "--epochs", 4, "--learning-rate", 0.02, "--out", out) == 0
    return out


def first_entry(out):
    return next(entry for entry in log_of(out) if "loss" in entry)


def rows_of(file):
    return [line.split("\t") for line in file.read_text().splitlines()[1:]]


def log_softmax(logits):
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def test_the_loss_is_what_it_is_by_hand(command, data, teacher, toy, tmp_path):
    """From the probabilities that `predict` has of both, computed apart from the training."""
    student = tmp_path / "student"
    assert run(*command, *ONE_STEP, "--out", student) == 0
    options = ("--teacher", teacher, "--temperature", 3, "--teacher-weight", 0.25, "--model", student)
    assert run(*command, *STILL, *options, "--out", tmp_path / "out") == 0
    texts, labels = zip(*rows_of(data[0]), strict=True)
    ours, theirs = (load_predictor(str(f), device="cpu").logits(texts) for f in (student, teacher))
    gold = np.array([["no", "yes"].index(label) for label in labels])
    of_labels = -log_softmax(ours)[np.arange(48), gold].mean()
    mine, other = log_softmax(ours / 3), log_softmax(theirs / 3)
    of_teacher = 9 * (np.exp(other) * (other - mine)).sum(-1).mean()
    entry = first_entry(tmp_path / "out")
    assert entry["teacher_loss"] == pytest.approx(of_teacher, rel=1e-4)
    assert entry["loss"] == pytest.approx(0.75 * of_labels + 0.25 * of_teacher, rel=1e-4)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["teacher"] == {"name": "teacher", "temperature": 3.0, "weight": 0.25}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "beside the answers of `teacher`" in card
    assert "teacher: temperature" in card


def test_the_teachers_labels_are_found_by_their_names(command, teacher, tmp_path):
    """The same teacher with its classes the other way around teaches the same."""
    turned = shutil.copytree(teacher, tmp_path / "turned", ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((turned / "config.json").read_text())
    config.update(id2label={"0": "yes", "1": "no"}, label2id={"yes": 0, "no": 1})
    (turned / "config.json").write_text(json.dumps(config))
    state = load_file(turned / "model.safetensors")
    for name in ("classifier.output.weight", "classifier.output.bias"):
        state[name] = state[name].flip(0).contiguous()
    save_file(state, turned / "model.safetensors", metadata={"format": "pt"})
    for name, folder in (("a", teacher), ("b", turned)):
        options = ("--teacher", folder, "--steps", 4, "--evaluate-every", 4)
        assert run(*command, *options, "--out", tmp_path / name) == 0
    assert weights_equal(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("lacking", [{"id2label": None}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}])
def test_the_teachers_labels_may_stand_in_label2id_alone(lacking, teacher, tmp_path):
    """As the rest of the package reads them."""
    other = shutil.copytree(teacher, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((other / "config.json").read_text())
    config.update(label2id={"yes": 0, "no": 1}, **lacking)
    (other / "config.json").write_text(json.dumps(config))
    assert task_of(str(other), TaskColumns("text")).labels == ("yes", "no")


def test_a_teacher_is_asked_once_and_a_resumed_run_repeats_it(
    command, teacher, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(teacher_answers, "ROWS_PER_PART", 16)
    taught = (*command, "--teacher", teacher, "--cache", tmp_path / "cache", "--epochs", 2, "--log-every", 2)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(*taught, "--out", whole) == 0
    printed = capsys.readouterr().out
    assert printed.count("teacher: ") == 1
    assert "reads 48 inputs; its answers are 0.0 MB" in printed
    assert len(list((tmp_path / "cache").glob("answers-*/*.answers.npy"))) == 3

    def load(self, device, precision):
        raise AssertionError("the teacher is loaded again")

    monkeypatch.setattr(AnsweringTeacher, "load", load)
    assert run(*taught, "--seed", 7, "--out", tmp_path / "seed") == 0
    with interrupted_at(9):
        assert run(*taught, "--out", out) == 130
    assert run(*taught, "--out", out, "--resume") == 0
    assert weights_equal(whole, out)
    logs = [[entry for entry in log_of(folder) if "train_loss" not in entry] for folder in (whole, out)]
    assert logs[0] == logs[1]
    assert all("teacher_loss" in entry for entry in logs[0] if "loss" in entry)


@pytest.mark.slow
def test_a_pass_goes_on_with_the_part_it_was_at(command, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_answers, "ROWS_PER_PART", 16)
    asked, original = [], teacher_answers._answers

    def answers(*arguments):
        asked.append(len(arguments[3]["input_ids"]))
        if interrupts and sum(asked) > 16:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(teacher_answers, "_answers", answers)
    taught = (
        *command,
        "--teacher",
        teacher,
        "--cache",
        tmp_path / "cache",
        "--steps",
        1,
        "--evaluate-every",
        1,
    )
    interrupts = True
    assert run(*taught, "--out", tmp_path / "out") == 130
    assert len(list((tmp_path / "cache").glob("answers-*/*.answers.npy"))) == 1
    asked.clear()
    interrupts = False
    assert not (tmp_path / "out").exists()
    assert run(*taught, "--out", tmp_path / "out") == 0
    assert sum(asked) == 32


def kinds(folder):
    """Of each kind of task its options."""
    generator = random.Random(4)
    write_conll(folder / "train.txt", 20, seed=0)
    write_conll(folder / "dev.txt", 8, seed=1)
    for name, number in (("train", 12), ("dev", 4)):
        write_squad(folder / f"{name}-v2.0.json", number, number, 1)
        write_race(folder / f"{name}.jsonl", 2 * number, seed=number)
    amounts = [(sentence(generator), number / 7) for number in range(30)]
    several = [(sentence(generator), ("a", "b", "a,b")[number % 3]) for number in range(30)]
    pairs = [(sentence(generator), sentence(generator), ("e", "c", "n")[number % 3]) for number in range(30)]
    tables = [
        write_table(folder / "amounts.tsv", amounts),
        write_table(folder / "several.tsv", several),
        write_table(folder / "pairs.tsv", pairs, ("premise", "hypothesis", "label")),
        write_table(folder / "long.tsv", [(f"{text} " * 5, label) for text, label in animal_rows(30)]),
    ]
    return {
        "regression": ("--train", tables[0], "--regression"),
        "multi-label": ("--train", tables[1], "--multi-label", "--label-separator", ","),
        "pairs": ("--train", tables[2]),
        "windows": ("--train", tables[3], "--doc-stride", 6),
        "tokens": ("--task", "ner", "--data", folder),
        "span": ("--task", "squad2", "--data", folder, "--doc-stride", 5),
        "choice": ("--task", "race", "--data", folder, "--max-length", 24),
    }


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "kind",
    [
        "windows",
        "tokens",
        "span",
        pytest.param("regression", marks=slow),
        pytest.param("multi-label", marks=slow),
        pytest.param("pairs", marks=slow),
        pytest.param("choice", marks=slow),
    ],
)
def test_who_copies_the_teacher_has_nothing_to_learn_of_it(toy, tmp_path, kind):
    """The student is the teacher, in every kind of task: each answer is compared with the one to the same question."""
    options = kinds(tmp_path)[kind]
    teacher = tmp_path / "teacher"
    steps = ("--steps", 4, "--evaluate-every", 4, "--log-every", 1, "--batch-size", 7)
    assert run(FINETUNE, "--model", toy.pretrained, *options, *steps, "--out", teacher) == 0
    taught = ("--teacher", teacher, "--teacher-weight", 1, "--out", tmp_path / "out")
    still = ("--set.hidden_dropout=0.0", "--set.attention_dropout=0.0", "--learning-rate", 1e-9)
    assert run(FINETUNE, "--model", teacher, *options, *steps, *taught, *still) == 0
    losses = [entry["teacher_loss"] for entry in log_of(tmp_path / "out") if "loss" in entry]
    assert len(losses) == 4
    # By rounding alone, because the teacher reads the rows in other batches. Measured: 1e-7.
    assert max(losses) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "tokens"])
def test_two_processes_learn_what_one_does(toy, tmp_path, kind):
    """Each asks for some of the parts; of tags the loss is a share of the mean over the tags of all processes."""
    options = kinds(tmp_path)[kind]
    teacher, one, two = (tmp_path / name for name in ("teacher", "one", "two"))
    assert run(FINETUNE, "--model", toy.pretrained, *options, "--out", teacher) == 0
    steps = (
        "--steps",
        2,
        "--evaluate-every",
        2,
        "--log-every",
        1,
        "--batch-size",
        4,
    )  # within the first epoch
    taught = ("--model", toy.pretrained, *options, *steps, "--teacher", teacher, "--set.hidden_dropout=0.0")
    taught = (*taught, "--set.attention_dropout=0.0")
    assert run(FINETUNE, *taught, "--gradient-accumulation", 2, "--out", one) == 0
    own = ("--cache", tmp_path / "cache", "--out", two)
    assert finish(start(FINETUNE, *taught, *own, output=tmp_path / "two.txt", num_processes=2)) == [0, 0]
    entries = [[entry for entry in log_of(out) if "loss" in entry] for out in (one, two)]
    for left, right in zip(*entries, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
    state, other = (load_file(folder / "model.safetensors") for folder in (one, two))
    for name, tensor in state.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=0)


def save_deberta(folder, labels=("yes", "no")):
    """A classifier of a kind that no funnelformer can be made from, with a tokenizer of its own."""
    tokenizer = bert_tokenizer()
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(3)
    transformers.DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_teacher_of_another_library_reads_by_its_own_tokenizer(command, data, tmp_path):
    teacher = save_deberta(tmp_path / "deberta")
    cache = ("--cache", tmp_path / "cache")
    assert run(*command, *STILL, "--teacher", teacher, *cache, "--out", tmp_path / "out") == 0
    (file,) = (tmp_path / "cache").glob("answers-*/*.npy")
    texts = [text for text, _ in rows_of(data[0])]
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    with torch.no_grad():
        wanted = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(np.load(file), wanted, atol=1e-5)


@pytest.mark.slow
def test_of_another_tokenizer_every_window_is_told_what_the_teacher_says_of_the_text(command, tmp_path):
    long = write_table(tmp_path / "long.tsv", [(f"{text} " * 5, label) for text, label in animal_rows(16)])
    config = FinetuneConfig(
        model=str(command[2]),
        train=str(long),
        dev=str(long),
        teacher=str(save_deberta(tmp_path / "deberta")),
        doc_stride=5,
        max_length=14,
        device="cpu",
        out=tmp_path / "out",
    )
    inputs = finetune._read(config)
    kind, tokenizer = inputs.data.kind, inputs.tokenizer
    train = kind.encode(inputs.data.train, tokenizer, 14)
    found = learn_from(inputs.teacher, config, kind, train, tokenizer, 14, None).answers.take(
        range(len(train.owners))
    )
    (file,) = (tmp_path / "teacher-outputs").glob("answers-*/*.npy")
    windows = kind.encode(inputs.data.train, inputs.teacher.tokenizer, 14)
    wanted = np.stack([np.load(file)[windows.owners == text].mean(0) for text in range(16)])[:, [1, 0]]
    np.testing.assert_allclose(found, wanted[train.owners], atol=1e-6)


@pytest.mark.slow
def test_a_bert_becomes_one_of_ours(command, data, tmp_path):
    teacher = save_bert(
        tmp_path / "bert",
        model_class="BertForSequenceClassification",
        id2label={0: "yes", 1: "no"},
        label2id={"yes": 0, "no": 1},
    )
    cache = ("--cache", tmp_path / "cache")
    assert run(*command, *STILL, "--teacher", teacher, *cache, "--out", tmp_path / "out") == 0
    (file,) = (tmp_path / "cache").glob("answers-*/*.npy")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher)
    with torch.no_grad():
        wanted = model(**tokenizer([rows_of(data[0])[0][0]], return_tensors="pt")).logits[0]
    np.testing.assert_allclose(np.load(file)[0], wanted, atol=1e-4)


def test_what_cannot_teach_is_said_in_a_line(toy, command, data, teacher, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    start = ("finetune --device cpu", *command[1:])

    def message(*options):
        return fails(capsys, *start, *out, *options)

    assert message("--temperature", 2) == "--temperature needs --teacher"
    assert message("--cache", tmp_path) == "--cache needs --teacher"
    assert "is a layout" in message("--teacher", "B2-2H16")
    assert "FunnelformerForMaskedLM; a task of classification needs" in message("--teacher", toy.pretrained)
    assert "--frozen fits the head to the labels alone" in message("--teacher", teacher, "--frozen")
    assert "--few-shot fits the head" in message("--teacher", teacher, "--few-shot")
    other = save_deberta(tmp_path / "other", ("yes", "maybe"))
    found = message("--teacher", other)
    assert "has the labels yes, maybe, and the data have no, yes" in found
    config = json.loads((other / "config.json").read_text())
    amounts = write_table(tmp_path / "amounts.tsv", [(text, 1.5) for text, _ in animal_rows(8)])
    regression = ("--train", amounts, "--dev", amounts, "--regression")
    assert "gives 2 numbers a text" in message("--teacher", other, *regression)
    for key, value in (("num_labels", 10**9), ("id2label", {"x": "a"}), ("max_position_embeddings", "many")):
        broken = {**config, "id2label": {"0": "yes", "1": "no"}, key: value}
        del broken["label2id"]
        if key == "num_labels":
            del broken["id2label"]
        (other / "config.json").write_text(json.dumps(broken))
        assert key in message("--teacher", other)
    for key, names in (("id2label", {0: "no", 1: "no"}), ("label2id", {"no": 0, "yes": 1})):
        broken = {**config, "id2label": {"0": "yes", "1": "no"}, key: names}
        (other / "config.json").write_text(json.dumps(broken))
        assert f"model config: {key}" in message("--teacher", other)
    (other / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "code.Model"}}))
    assert "names code to run" in message("--teacher", other)
    assert "its problem_type is single_label_classification" in message("--teacher", teacher, *regression)
    assert "--temperature is for classes" in message("--teacher", teacher, *regression, "--temperature", 2)
    headless = shutil.copytree(teacher, tmp_path / "headless", ignore=shutil.ignore_patterns("checkpoints"))
    state = load_file(headless / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in state.items() if "classifier" not in name},
        headless / "model.safetensors",
    )
    assert "the weights lack classifier." in message("--teacher", headless)
    state["classifier.output.bias"][:] = torch.nan
    save_file(state, headless / "model.safetensors", metadata={"format": "pt"})
    assert "gives NaN or infinity for training row" in message("--teacher", headless)
    assert not (tmp_path / "out").exists()


def test_tags_need_a_teacher_that_reads_the_same_tokens(toy, tmp_path, capsys):
    write_conll(tmp_path / "train.txt", 20, seed=0)
    write_conll(tmp_path / "dev.txt", 8, seed=1)
    names = ("O", "B-act", "I-act", "B-thing", "I-thing")
    teacher = save_bert(
        tmp_path / "bert",
        model_class="BertForTokenClassification",
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    options = ("--task", "ner", "--data", tmp_path, "--out", tmp_path / "out", "--teacher", teacher)
    assert "its tokenizer differs" in fails(capsys, FINETUNE, "--model", toy.pretrained, *options)
