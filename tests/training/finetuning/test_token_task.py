"""Fine-tuning on tags of tokens: learned, scored, said, and read by the pipeline of transformers."""

from __future__ import annotations

import json
import random

import pytest
import transformers

from funnelformer import FunnelformerForTokenClassification
from funnelformer.inference.evaluate import evaluate
from funnelformer.inference.predict import predict
from training.toy import FINETUNE, fails, run, sentence


def write_conll(path, num_sentences, seed):
    """Colour and animal are a thing of two words; a verb that begins with "s" is an act."""
    generator = random.Random(seed)
    lines = []
    for _ in range(num_sentences):
        the, colour, animal, verb, stop = sentence(generator).split()
        act = "B-act" if verb.startswith("s") else "O"
        tagged = ((the, "O"), (colour, "B-thing"), (animal, "I-thing"), (verb, act), (stop, "O"))
        lines += [f"{token} {tag}" for token, tag in tagged] + [""]
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def folder(toy):
    for name, number in (("train", 60), ("dev", 20), ("test", 20)):
        write_conll(toy.folder / f"{name}.txt", number, seed=number)
    return toy.folder


@pytest.fixture(scope="module")
def tagger(toy, folder):
    out = toy.folder / "tagger"
    flags = ["--task", "ner", "--data", folder, "--model", toy.pretrained, "--out", out]
    assert run(FINETUNE, *flags, "--epochs", 5, "--learning-rate", 0.02) == 0
    return out


def test_it_is_learned_and_scored(tagger, folder):
    metrics = json.loads((tagger / "metrics.json").read_text())
    assert (metrics["task"], metrics["kind"]) == ("ner", "tokens")
    assert (
        metrics["dev_f1"] == metrics["test_f1"] == metrics["test_precision"] == metrics["test_recall"] == 1.0
    )
    config = FunnelformerForTokenClassification.from_pretrained(tagger).config
    assert config.id2label == {0: "O", 1: "B-act", 2: "I-act", 3: "B-thing", 4: "I-thing"}
    scores = evaluate(str(tagger), str(folder), device="cpu")
    assert (scores["examples"], scores["f1"]) == (20, 1.0)
    file = evaluate(str(tagger), str(folder / "test.txt"), task="ner", device="cpu")
    assert file["f1"] == 1.0


def test_tags_of_texts(tagger, tmp_path):
    (tmp_path / "texts.txt").write_text("the red cat sleeps .\nthe blue cow runs .\n")
    assert predict(str(tagger), str(tmp_path / "texts.txt"), out=tmp_path / "p.jsonl", device="cpu") == 2
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "text": "the red cat sleeps .",
        "tokens": ["the", "red", "cat", "sleeps", "."],
        "prediction": ["O", "B-thing", "I-thing", "B-act", "O"],
    }
    assert rows[1]["prediction"] == ["O", "B-thing", "I-thing", "O", "O"]
    predict(str(tagger), str(tmp_path / "texts.txt"), out=tmp_path / "p.csv", device="cpu")
    assert (tmp_path / "p.csv").read_text().splitlines()[2] == (
        "the blue cow runs .,the blue cow runs .,O B-thing I-thing O O"
    )


def test_the_pipeline_says_the_same(tagger):
    pipe = transformers.pipeline(
        "token-classification", model=str(tagger), aggregation_strategy="simple", device="cpu"
    )
    entities = pipe("the red cat sleeps .")
    assert [(entity["entity_group"], entity["word"]) for entity in entities] == [
        ("thing", "red cat"),
        ("act", "sleeps"),
    ]


def test_what_cannot_be(toy, folder, tmp_path, capsys):
    flags = ["--task", "ner", "--data", folder, "--out", tmp_path / "out"]
    layout = ("--model", "B1-1H16", "--tokenizer", toy.tokenizer, "--set.decoder_layers=0")
    line = fails(capsys, FINETUNE, *flags, *layout)
    assert line == "--model B1-1H16: token classification needs a decoder: set decoder_layers >= 1"
    (tmp_path / "dev.txt").write_text("the O\ncat B-xyz\n")
    line = fails(capsys, FINETUNE, *flags, "--model", toy.pretrained, "--dev", tmp_path / "dev.txt")
    assert line == (
        f"{tmp_path / 'dev.txt'}: row 1 (line 1): column 'tags' has 'B-xyz', which is not one of the model's "
        "labels; known labels: O, B-act, I-act, B-thing, I-thing"
    )
