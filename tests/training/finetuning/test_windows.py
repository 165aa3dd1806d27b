"""Long texts in windows: no token is lost, a window is a text of its own, and a text counts once."""

from __future__ import annotations

import json
import random
import shutil

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification, UserError
from funnelformer.data.tables import TaskColumns
from funnelformer.data.tokenizer import load_tokenizer, model_ids
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.predict import predict
from funnelformer.inference.predictor import load_predictor
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.task import Task
from funnelformer.tasks.windowing import Windowing, windowing_of
from funnelformer.tasks.windows import by_owner, encode_windows, mean_by_owner
from funnelformer.training.finetuning.window_weights import WEIGHT, row_losses, weighted_windows
from training.toy import FINETUNE, fails, run, sentence, write_table

LABELS = ("no", "yes")
# Largest difference of logits between a window in a batch and its text alone; measured 1.1e-6.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tokenizer(toy):
    return load_tokenizer(toy.tokenizer)


def task_of(kind="classification", labels=LABELS, pair=None):
    return Task("", kind, TaskColumns("text", pair, "label"), labels, ("accuracy",))


# ---- windows


@pytest.mark.parametrize(
    ("num_words", "spans"),
    [
        (3, [(0, 3)]),
        (4, [(0, 4)]),
        (5, [(0, 4), (3, 5)]),
        (7, [(0, 4), (3, 7)]),
        (10, [(0, 4), (3, 7), (6, 10)]),
        (11, [(0, 4), (3, 7), (6, 10), (9, 11)]),
    ],
)
def test_windows_by_hand(tokenizer, num_words, spans):
    """Of 6 tokens, 4 of them the text's, each 3 after the one before."""
    words = [("red", "blue", "cat", "dog", "cow")[i % 5] for i in range(num_words)]
    ids = tokenizer.convert_tokens_to_ids(words)
    encoded, owners = encode_windows(tokenizer, [" ".join(words), "cat"], 6, 3)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert encoded["input_ids"][:-1] == [[cls, *ids[start:stop], sep] for start, stop in spans]
    assert owners.tolist() == [0] * len(spans) + [1]
    assert encoded["token_type_ids"][0] == tokenizer(words[0])["token_type_ids"][:2] + [0] * len(
        encoded["input_ids"][0][2:]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(3, 12), st.data())
def test_every_token_is_in_a_window(tokenizer, lengths, max_length, data):
    """The windows of a text, less their overlaps, are the text; only the last may be short."""
    stride = data.draw(st.integers(1, max_length - 2))
    generator = random.Random(0)
    words = [[generator.choice(("red", "cat", "runs", "dog")) for _ in range(length)] for length in lengths]
    encoded, owners = encode_windows(tokenizer, [" ".join(text) for text in words], max_length, stride)
    assert sorted(set(owners.tolist())) == list(range(len(lengths)))
    for number, text in enumerate(words):
        windows = [
            ids[1:-1] for ids, owner in zip(encoded["input_ids"], owners, strict=True) if owner == number
        ]
        assert all(len(ids) == max_length - 2 for ids in windows[:-1])
        joined = [token for ids in windows[:-1] for token in ids[:stride]] + windows[-1]
        assert joined == tokenizer.convert_tokens_to_ids(text)
        if len(windows) > 1:  # the last one but one did not reach the end
            assert (len(windows) - 2) * stride + max_length - 2 < len(text)


def test_mean_by_owner_by_hand():
    values = np.array([[1, 2], [3, 6], [5, 5]], dtype=np.float32)
    found = mean_by_owner(values, np.array([0, 0, 1]))
    assert found.tolist() == [[2, 4], [5, 5]]
    assert found.dtype == np.float32
    assert mean_by_owner(values, None) is values


def test_max_and_first_by_hand(tokenizer):
    """Of classes the maximum is one of log-probabilities: adding 5 to a window's logits changes nothing."""
    logits = np.array([[2.0, 0.0, 0.0], [5.0, 6.0, 5.0], [1.0, 0.0, 3.0]])
    owners, largest = np.array([0, 0, 1]), Windowing(3, "max")
    shifted = logits + np.array([[0], [5], [0]])
    logs = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    expected = [logs[:2].max(0), logs[2]]
    np.testing.assert_allclose(by_owner(logits, owners, largest, "classification"), expected)
    np.testing.assert_allclose(by_owner(shifted, owners, largest, "classification"), expected)
    for kind in ("multi-label", "regression"):
        assert by_owner(logits, owners, largest, kind).tolist() == [[5, 6, 5], [1, 0, 3]]
    # A text of one window says what it says alone.
    one = by_owner(logits[:1], np.array([0]), largest, "classification")
    np.testing.assert_allclose(np.exp(one).sum(), 1)
    np.testing.assert_allclose(one - one[0, 1], logits[:1] - logits[0, 1])
    words = "red blue cat dog cow red blue cat dog cow"
    every, _ = encode_windows(tokenizer, [words, "cat"], 6, 3)
    some, own = encode_windows(tokenizer, [words, "cat"], 6, 3, most=2)
    assert own.tolist() == [0, 0, 1]
    assert some["input_ids"] == [every["input_ids"][i] for i in (0, 1, 3)]
    # Without a stride half of a window's four.
    assert encode_windows(tokenizer, [words], 6, None)[0] == encode_windows(tokenizer, [words], 6, 2)[0]
    assert [str(windowing_of(3, words)) for words in (None, "mean", "max", "first:12")] == [
        *("mean", "mean", "max", "first:12"),
    ]
    for wrong in ("median", "first", "first:0", "first:x", "max:2", "first:²"):
        with pytest.raises(UserError, match=f"--windows is '{wrong}'; allowed: mean, max, first:1 or more"):
            windowing_of(None, wrong)


def test_bad_strides(tokenizer):
    for stride in (0, 5):
        with pytest.raises(
            UserError, match=f"--doc-stride is {stride}; allowed: 1 to 4, the tokens of a text in"
        ):
            encode_windows(tokenizer, ["cat"], 6, stride)
    with pytest.raises(UserError, match="windows of single texts; this is a task of pairs of texts"):
        kind_of(task_of(pair="other"), Windowing(3))
    with pytest.raises(
        UserError, match="--windows combines the scores of a text's windows; a tag is taken from one window"
    ):
        kind_of(task_of("tokens", None), Windowing(3, "max"))
    with pytest.raises(
        UserError, match="--doc-stride makes windows of single texts; this is a task of choice"
    ):
        kind_of(task_of("choice", None), Windowing(3))


# ---- prediction


@pytest.fixture(scope="module")
def texts():
    generator = random.Random(4)
    return [" ".join(sentence(generator) for _ in range(generator.randint(1, 8))) for _ in range(11)]


@pytest.fixture(scope="module")
def model(toy, tokenizer):
    """A classifier that was fine-tuned on windows of 12 tokens, 7 apart, by its settings; its weights are random."""
    folder = toy.folder / "windows"
    torch.manual_seed(6)
    names = dict(enumerate(LABELS))
    config = FunnelformerConfig.from_name(
        "B1-1-1H16", initializer_std=0.4, id2label=names, label2id={"no": 0, "yes": 1}, **model_ids(tokenizer)
    )
    FunnelformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "task.json").write_text(json.dumps({"max_length": 12, "doc_stride": 7}))
    return folder


@pytest.fixture(scope="module")
def by_hand(model, tokenizer, texts):
    """Of each text the logits of its windows, each of whose words are a text of its own, by a direct call."""
    net = FunnelformerForSequenceClassification.from_pretrained(model).eval()
    found = []
    for text in texts:
        words = text.split()
        # The last window is the first whose 10 words reach the end.
        starts = [start for start in range(0, len(words), 7) if start == 0 or start + 3 < len(words)]
        parts = [" ".join(words[start : start + 10]) for start in starts]
        with torch.no_grad():
            logits = [net(**tokenizer(part, return_tensors="pt")).logits[0] for part in parts]
        found.append(torch.stack(logits).numpy())
    return found


def test_the_logits_of_a_text_are_the_mean_of_its_windows(model, texts, by_hand):
    assert max(map(len, by_hand)) >= 4
    assert min(map(len, by_hand)) == 1
    predictor = load_predictor(str(model), device="cpu")
    encoded, _ = encode_windows(predictor.tokenizer, texts, 12, 7)
    windows = predictor.outputs(datasets.Dataset.from_dict(encoded))
    assert np.stack(windows) == pytest.approx(np.concatenate(by_hand), abs=TOLERANCE)
    expected = np.stack([logits.mean(0) for logits in by_hand])
    for batch_size in (1, 3, 100):
        assert predictor.logits(texts, batch_size=batch_size) == pytest.approx(expected, abs=TOLERANCE)


def test_predict_and_evaluate_count_a_text_once(model, texts, by_hand, tmp_path):
    gold = [LABELS[i % 2] for i in range(len(texts))]
    table = write_table(tmp_path / "t.tsv", list(zip(texts, gold, strict=True)))
    assert predict(str(model), str(table), out=tmp_path / "p.jsonl", text="text", device="cpu") == len(texts)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    for row, text, logits in zip(rows, texts, by_hand, strict=True):
        assert row["text"] == text
        exponents = np.exp(logits.mean(0))
        assert list(row["probabilities"].values()) == pytest.approx(exponents / exponents.sum(), abs=1e-5)
    metrics = evaluate(str(model), str(table), device="cpu")
    assert metrics["examples"] == len(texts)
    assert metrics["accuracy"] == accuracy_score(gold, [row["prediction"] for row in rows])
    # Another length of window, with the stride of the training, which must fit in it.
    longer = load_predictor(str(model), max_length=64, device="cpu").logits(texts)
    assert not np.allclose(longer, load_predictor(str(model), device="cpu").logits(texts), atol=1e-3)
    with pytest.raises(UserError, match="--doc-stride is 7; allowed: 1 to 4"):
        evaluate(str(model), str(table), max_length=6, device="cpu")


# ---- training


def test_texts_weigh_alike(tokenizer):
    """Texts of 1, 3 and 2 windows: weights 2, 2/3 and 1, whose mean over the windows is 1."""
    kind = kind_of(task_of(), Windowing(4))
    words = ["red"] * 20
    examples = datasets.Dataset.from_dict(
        {"text": [" ".join(words[:n]) for n in (3, 12, 6)], "label": [0, 1, 1]}
    )
    encoded = kind.encode(examples, tokenizer, 6)
    assert encoded.owners.tolist() == [0, 1, 1, 1, 2, 2]
    assert encoded.features["labels"][:] == [0, 1, 1, 1, 1, 1]
    weights = weighted_windows(encoded)[WEIGHT][:]
    assert weights == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3, 1, 1])
    by_class = weighted_windows(encoded, np.array([3.0, 0.5]))[WEIGHT][:]
    assert by_class == pytest.approx([6, 1 / 3, 1 / 3, 1 / 3, 0.5, 0.5])
    line = "2 of 3 training texts exceed 6 tokens and are read in windows, 2.5 each, 3 at most"
    assert kind.remark(encoded, 6) == line
    short = kind.encode(examples.select([0]), tokenizer, 6)
    assert kind.remark(short, 6) == "all 1 training texts fit in 6 tokens"


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([2, 0, 1, 2])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
        ("regression", torch.tensor([0.5, -1.0, 2.0, 0.0])),
    ],
)
def test_row_losses_are_those_of_the_model(toy, problem_type, labels):
    """Their mean is its loss; the loss of mean logits is not above the mean of losses."""
    settings = {"num_labels": 1} if problem_type == "regression" else {"num_labels": 3}
    config = FunnelformerConfig.from_name(
        "L1H16", vocab_size=80, initializer_std=0.5, problem_type=problem_type, **settings
    )
    model = FunnelformerForSequenceClassification(config).eval()
    with torch.no_grad():
        output = model(torch.randint(5, 80, (4, 9)), labels=labels)
    rows = row_losses(output.logits, labels, problem_type)
    assert torch.allclose(rows.mean(), output.loss, atol=1e-6)
    same = labels[:1].expand(4, *labels.shape[1:])
    mean = row_losses(output.logits.mean(0, keepdim=True), labels[:1], problem_type)
    assert mean.item() <= row_losses(output.logits, same, problem_type).mean().item() + 1e-6


def documents(number, seed):
    """The animal of the fourth sentence, beyond the first window, is a cat ("yes") or a dog ("no")."""
    generator = random.Random(seed)
    rows = []
    for i in range(number):
        animal, label = (("cat", "yes"), ("dog", "no"))[i % 2]
        sentences = [sentence(generator, generator.choice(("cow", "fish"))) for _ in range(4 + i % 3)]
        sentences[3] = sentence(generator, animal)
        rows.append((" ".join(sentences), label))
    return rows


def test_what_lies_beyond_the_first_window_is_learnt(toy, tmp_path, capsys):
    """Cut at 12 tokens the label cannot be told; in windows it can, and the folder says so to `evaluate`."""
    train = write_table(tmp_path / "train.tsv", documents(90, 0))
    dev = write_table(tmp_path / "dev.tsv", documents(31, 1))
    out = tmp_path / "out"
    flags = ["--train", train, "--dev", dev, "--model", toy.pretrained, "--out", out]
    flags += ["--max-length", 12, "--doc-stride", 8, "--epochs", 5, "--learning-rate", 0.02]
    assert run(FINETUNE, *flags, "--class-weights", "balanced") == 0
    printed = capsys.readouterr().out
    assert "90 of 90 training texts exceed 12 tokens and are read in windows, 3.3 each, 4 at most" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["dev_accuracy"] > 0.95
    # Texts of 20, 25 and 30 tokens are 3, 3 and 4 windows.
    assert metrics["steps"] == 5 * -(-300 // 8)
    assert json.loads((out / "task.json").read_text())["doc_stride"] == 8
    found = evaluate(str(out), str(dev), device="cpu")
    assert found["examples"] == 31
    assert found["accuracy"] == metrics["dev_accuracy"]
    # Without its windows the same model guesses.
    task = json.loads((out / "task.json").read_text())
    del task["doc_stride"], task["windows"]
    (out / "task.json").write_text(json.dumps(task))
    assert evaluate(str(out), str(dev), device="cpu")["accuracy"] < 0.7


@pytest.mark.parametrize("windows", ["max", "first:2"])
def test_how_windows_combine_is_kept(model, texts, tmp_path, windows):
    """task.json says it to `predict`, which says what the windows do when each is asked for by itself."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "task.json").write_text(json.dumps({"max_length": 12, "doc_stride": 7, "windows": windows}))
    predictor = load_predictor(str(folder), device="cpu")
    found = predictor.logits(texts)
    single = load_predictor(str(model), device="cpu")
    del single.task["doc_stride"]
    for row, text in zip(found, texts, strict=True):
        words = text.split()
        starts = range(0, max(1, len(words) - 10 + 7), 7)
        alone = single.logits([" ".join(words[start : start + 10]) for start in starts])
        if windows == "max":
            expected = (alone - np.logaddexp.reduce(alone, axis=1, keepdims=True)).max(0)
        else:
            expected = alone[:2].mean(0)
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)


def test_options_that_do_not_go_together(toy, tmp_path, capsys):
    train = write_table(tmp_path / "train.tsv", documents(8, 0))
    flags = ["--train", train, "--dev", train, "--model", toy.pretrained, "--out", tmp_path / "out"]
    for more, message in (
        (
            ("--doc-stride", 4, "--max-length", "auto"),
            "--doc-stride needs --max-length as a number: the tokens of a window",
        ),
        (("--doc-stride", 0), "--doc-stride is 0; allowed: 1 or more"),
        (("--windows", "last"), "--windows is 'last'; allowed: mean, max, first:1 or more"),
        (
            ("--windows", "max", "--max-length", "auto"),
            "--windows needs --max-length as a number: the tokens of a window",
        ),
        (
            ("--doc-stride", 15),
            "--doc-stride is 15; allowed: 1 to 14, the tokens of a text in a window of 16",
        ),
    ):
        assert message in fails(capsys, FINETUNE, *flags, *more)
    assert not (tmp_path / "out").exists()
