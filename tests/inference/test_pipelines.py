"""transformers' pipelines on folders of ours, loaded by the Auto classes: the values are those of our own commands."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from funnelformer import (
    FunnelformerConfig,
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
    FunnelformerModel,
)
from funnelformer.data.tokenizer import load_tokenizer, model_ids
from funnelformer.inference.predict import predict
from training.toy import sentence, write_table

# Largest difference of a probability between a pipeline and `predict`; measured 1.8e-7.
TOLERANCE = 2e-6  # `predict` writes six digits
LABELS = ("no", "perhaps", "yes")
TAGS = ("O", "B-animal", "I-animal")


def folder_of(toy, model_class, labels=None):
    """A funnel with random weights far from 0, saved with its tokenizer."""
    torch.manual_seed(6)
    tokenizer = load_tokenizer(toy.tokenizer)
    names = {} if labels is None else {"id2label": dict(enumerate(labels))}
    if labels is not None:
        names["label2id"] = {name: number for number, name in enumerate(labels)}
    config = FunnelformerConfig.from_name(
        "B1-1H16", initializer_std=0.4, decoder_layers=1, **model_ids(tokenizer), **names
    )
    folder = toy.folder / model_class.__name__
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make(task, auto_class, folder):
    return pipeline(
        task,
        model=auto_class.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )


@pytest.fixture(scope="module")
def texts():
    """Of several lengths, so that a batch of the pipeline is padded."""
    generator = random.Random(3)
    return [" ".join(sentence(generator) for _ in range(n)) for n in (1, 4, 2, 3)]


def answers(folder, table, tmp_path):
    predict(str(folder), str(table), out=tmp_path / "p.jsonl", device="cpu")
    return [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]


def test_text_classification(toy, texts, tmp_path):
    folder = folder_of(toy, FunnelformerForSequenceClassification, LABELS)
    pipe = make("text-classification", AutoModelForSequenceClassification, folder)
    table = write_table(tmp_path / "t.tsv", [(text,) for text in texts], ("text",))
    expected = answers(folder, table, tmp_path)
    for batch_size in (1, 4):
        found = pipe(texts, batch_size=batch_size, top_k=None)
        for scores, row in zip(found, expected, strict=True):
            assert {entry["label"]: entry["score"] for entry in scores} == pytest.approx(
                row["probabilities"], abs=TOLERANCE
            )
    best = pipe(texts)
    assert [entry["label"] for entry in best] == [row["prediction"] for row in expected]


def test_text_classification_of_pairs(toy, texts, tmp_path):
    folder = folder_of(toy, FunnelformerForSequenceClassification, LABELS)
    pipe = make("text-classification", AutoModelForSequenceClassification, folder)
    pairs = list(zip(texts, reversed(texts), strict=True))
    table = write_table(tmp_path / "t.tsv", pairs, ("premise", "hypothesis"))
    expected = answers(folder, table, tmp_path)
    found = pipe([{"text": one, "text_pair": two} for one, two in pairs], top_k=None)
    for scores, row in zip(found, expected, strict=True):
        assert {entry["label"]: entry["score"] for entry in scores} == pytest.approx(
            row["probabilities"], abs=TOLERANCE
        )


def test_token_classification(toy, texts, tmp_path):
    """The tag of every word, by its first piece, and its probability."""
    folder = folder_of(toy, FunnelformerForTokenClassification, TAGS)
    (folder / "task.json").write_text(json.dumps({"task": "ner", "max_length": 64}))
    pipe = make("token-classification", AutoModelForTokenClassification, folder)
    table = write_table(tmp_path / "t.tsv", [(text,) for text in texts], ("text",))
    model = FunnelformerForTokenClassification.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder)
    tags = set()
    for text, row in zip(texts, answers(folder, table, tmp_path), strict=True):
        found = pipe(text, ignore_labels=[])
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**batch).logits[0].softmax(-1)
        words = batch.word_ids(0)
        pieces = [place for place, word in enumerate(words) if word is not None]
        assert [entry["score"] for entry in found] == pytest.approx(
            probabilities.max(-1).values[pieces].tolist(), abs=TOLERANCE
        )
        starts = [
            entry for entry, place in zip(found, pieces, strict=True) if words[place - 1] != words[place]
        ]
        assert [entry["word"] for entry in starts] == text.split()
        assert [entry["entity"] for entry in starts] == row["prediction"]
        tags |= set(row["prediction"])
    assert len(tags) > 1


def test_fill_mask(toy, texts):
    folder = folder_of(toy, FunnelformerForMaskedLM)
    pipe = make("fill-mask", AutoModelForMaskedLM, folder)
    model = FunnelformerForMaskedLM.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder)
    for text in texts:
        words = text.split()
        words[2] = tokenizer.mask_token
        batch = tokenizer(" ".join(words), return_tensors="pt")
        place = batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            best = model(**batch).logits[0, place].softmax(-1).topk(5)
        found = pipe(" ".join(words))
        assert [entry["token"] for entry in found] == best.indices.tolist()
        assert [entry["score"] for entry in found] == pytest.approx(best.values.tolist(), abs=TOLERANCE)


def test_feature_extraction(toy, texts):
    """The decoder's states, at full length."""
    folder = folder_of(toy, FunnelformerForMaskedLM)
    pipe = make("feature-extraction", AutoModel, folder)
    model = FunnelformerModel.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder)
    for text, found in zip(texts, pipe(texts), strict=True):
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected = model(**batch).last_hidden_state
        assert expected.shape[1] == batch["input_ids"].shape[1]
        assert torch.allclose(torch.tensor(found), expected, atol=1e-5)
