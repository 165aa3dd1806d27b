"""Our folders in sentence_transformers: the same vectors and scores, training with its losses, its evaluation."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.data.tokenizer import load_tokenizer, model_ids
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.predictor import load_predictor
from funnelformer.inference.rank import rank, scores
from funnelformer.inference.sentence_folder import save_sentence_transformers
from inference.test_embedder import TOLERANCE, pretrained
from training.toy import ANIMALS, FINETUNE, fails, run, sentence, write_table

sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `embeddings`")

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def model(toy):
    return pretrained(toy.folder / "funnel", toy)


@pytest.fixture(scope="module")
def texts():
    generator = random.Random(1)
    return [" ".join(sentence(generator) for _ in range(generator.randint(1, 9))) for _ in range(9)]


def saved(model, out, **options):
    embedder = load_embedder(str(model), device="cpu", **options)
    save_sentence_transformers(embedder, out)
    return embedder


def load(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.mark.parametrize("options", [{}, {"pooling": "cls"}, {"normalize": True, "max_length": 20}], ids=str)
def test_the_vectors_are_ours(model, texts, tmp_path, options):
    embedder = saved(model, tmp_path / "out", **options)
    loaded = load(tmp_path / "out")
    assert loaded.get_embedding_dimension() == 16
    assert loaded.max_seq_length == embedder.max_length
    found = loaded.encode(texts, batch_size=4)
    assert found == pytest.approx(embedder.vectors(texts), abs=TOLERANCE)
    # Saved by that library and read by us.
    loaded.save_pretrained(str(tmp_path / "again"))
    again = load_embedder(str(tmp_path / "again"), device="cpu")
    assert (again.pooling, again.normalize, again.max_length) == (
        embedder.pooling,
        embedder.normalize,
        embedder.max_length,
    )
    assert again.vectors(texts) == pytest.approx(found, abs=TOLERANCE)


def test_lengths_beyond_that_of_the_tokenizer(model, tmp_path):
    """A relative encoder has no longest input; sentence_transformers would cut at max_position_embeddings, 512."""
    embedder = saved(model, tmp_path / "out", max_length=600)
    text = "the red cat eats . " * 110
    loaded = load(tmp_path / "out")
    assert loaded.encode(text) == pytest.approx(embedder.vectors([text])[0], abs=TOLERANCE)
    loaded.save_pretrained(str(tmp_path / "again"))
    assert load(tmp_path / "again").max_seq_length == 600


@pytest.mark.slow
def test_a_fresh_process_needs_the_import_alone(model, texts, tmp_path):
    embedder = saved(model, tmp_path / "out")
    code = (
        "import sys, json, funnelformer; from sentence_transformers import SentenceTransformer; "
        "model = SentenceTransformer(sys.argv[1], device='cpu'); "
        "print(json.dumps(model.encode(json.loads(sys.argv[2])).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out"), json.dumps(texts)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1"},
    )
    assert np.array(json.loads(done.stdout)) == pytest.approx(embedder.vectors(texts), abs=TOLERANCE)


def pairs(number, seed=0):
    """Two sentences with the same animal."""
    generator = random.Random(seed)
    animals = [ANIMALS[i % len(ANIMALS)] for i in range(number)]
    return [tuple(sentence(generator, animal) for _ in range(2)) for animal in animals]


def similar(number, seed):
    """Pairs of sentences, and whether their animals are the same."""
    generator = random.Random(seed)
    chosen = [(generator.choice(ANIMALS[:3]), generator.choice(ANIMALS[:3])) for _ in range(number)]
    return (
        [sentence(generator, first) for first, _ in chosen],
        [sentence(generator, second) for _, second in chosen],
        [float(first == second) for first, second in chosen],
    )


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_training_with_its_losses(toy, texts, tmp_path):
    """Multiple negatives: the loss falls, the evaluator sees it, and what was saved is what was trained."""
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    saved(pretrained(tmp_path / "start", toy, initializer_std=0.12), tmp_path / "before", normalize=True)
    loaded = load(tmp_path / "before")
    first, second, gold = similar(40, seed=5)
    evaluator = EmbeddingSimilarityEvaluator(first, second, gold, write_csv=False)
    before = evaluator(loaded)["spearman_cosine"]
    one, two = loaded.encode(first), loaded.encode(second)
    assert before == pytest.approx(spearmanr((one * two).sum(1), gold).statistic, abs=1e-6)

    columns = zip(*pairs(120), strict=True)
    data = datasets.Dataset.from_dict(dict(zip(("anchor", "positive"), map(list, columns), strict=True)))
    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=40,
        per_device_train_batch_size=10,
        learning_rate=0.01,
        logging_steps=5,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=1,
    )
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=loaded, args=arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(loaded)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # From 2.5 to 0.9; of 10 pairs with 5 animals it cannot be below ln 2 = 0.69.
    assert losses[-1] < 0.7 * losses[0]
    assert evaluator(loaded)["spearman_cosine"] > before + 0.05  # from 0.71 to 0.85

    expected = loaded.encode(texts)
    loaded.save_pretrained(str(tmp_path / "after"))
    assert load(tmp_path / "after").encode(texts) == pytest.approx(expected, abs=TOLERANCE)
    embedder = load_embedder(str(tmp_path / "after"), device="cpu")
    assert embedder.normalize
    assert embedder.vectors(texts) == pytest.approx(expected, abs=TOLERANCE)


def test_the_cli_writes_the_folder(model, texts, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("embed", model, "--save-sentence-transformers", out, "--normalize", "--device", "cpu") == 0
    assert capsys.readouterr().out == f"the sentence_transformers model is in {out}\n"
    assert sorted(path.name for path in out.iterdir()) == [
        "1_Normalize",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert np.linalg.norm(load(out).encode(texts), axis=1) == pytest.approx(1, abs=1e-6)


# ---- cross-encoders

HEADER = ("premise", "hypothesis", "label")


@pytest.fixture(scope="module")
def ranker(toy):
    """Pairs with an amount from 0 to 4: how many of five animals away the second one's is."""
    generator = random.Random(2)
    rows = []
    for _ in range(60):
        one, two = generator.choice(ANIMALS), generator.choice(ANIMALS)
        rows.append(
            (
                sentence(generator, one),
                sentence(generator, two),
                abs(ANIMALS.index(one) - ANIMALS.index(two)),
            )
        )
    table = write_table(toy.folder / "amounts.tsv", rows, HEADER)
    out = toy.folder / "ranker"
    flags = ["--train", table, "--dev", table, "--model", toy.pretrained, "--out", out, "--regression"]
    assert run(FINETUNE, *flags) == 0
    return out


def pair_classifier(folder, toy, labels):
    torch.manual_seed(6)
    tokenizer = load_tokenizer(toy.tokenizer)
    names = dict(enumerate(labels))
    config = FunnelformerConfig.from_name(
        "B1-1H16",
        initializer_std=0.4,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        **model_ids(tokenizer),
    )
    FunnelformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def cross_encoder(folder):
    return sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True)


def test_amounts_are_the_scores_of_a_cross_encoder(ranker, texts):
    """Long pairs too, which both cut at the 16 tokens of the training."""
    query = "the red cat eats . the blue dog runs ."
    found = scores(load_predictor(str(ranker), device="cpu"), query, texts)
    loaded = cross_encoder(ranker)
    assert loaded.max_seq_length == 16
    theirs = loaded.predict([(query, text) for text in texts])
    assert found == pytest.approx(theirs, abs=TOLERANCE)
    assert isinstance(loaded.activation_fn, torch.nn.Identity)
    order = [entry["corpus_id"] for entry in loaded.rank(query, texts)]
    assert [found[i] for i in order] == sorted(found, reverse=True)


def test_probabilities_are_the_scores_of_a_cross_encoder(toy, texts, tmp_path):
    folder = pair_classifier(tmp_path / "two", toy, ("no", "yes"))
    predictor = load_predictor(str(folder), device="cpu")
    theirs = cross_encoder(folder).predict([("the cat", text) for text in texts], apply_softmax=True)
    for label in (0, 1):
        found = scores(predictor, "the cat", texts, label)
        assert found == pytest.approx(theirs[:, label], abs=TOLERANCE)


def test_rank_orders_and_keeps_columns(toy, texts, tmp_path, capsys):
    folder = pair_classifier(tmp_path / "two", toy, ("no", "yes"))
    documents = write_table(
        tmp_path / "d.tsv", [(f"id{i}", text) for i, text in enumerate(texts)], ("id", "text")
    )
    out = tmp_path / "out.jsonl"
    flags = ("--query", "the cat", "--documents", documents, "--out", out, "--device", "cpu")
    assert run("rank", folder, *flags, "--top-k", 4) == 0
    assert f"4 documents are in {out}" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = scores(load_predictor(str(folder), device="cpu"), "the cat", texts, 1)
    best = sorted(range(len(texts)), key=lambda i: -found[i])[:4]
    assert rows == [
        {
            "rank": place,
            "row": i + 1,
            "score": pytest.approx(found[i], abs=1e-6),
            "id": f"id{i}",
            "text": texts[i],
        }
        for place, i in enumerate(best, start=1)
    ]
    assert rank(str(folder), str(documents), query="the cat", label="no", out=out, device="cpu") == len(texts)
    reverse = [json.loads(line)["row"] for line in out.read_text().splitlines()]
    assert reverse == [i + 1 for i in sorted(range(len(texts)), key=lambda i: found[i])]


def test_what_rank_cannot_use(toy, ranker, tmp_path, capsys):
    three = pair_classifier(tmp_path / "three", toy, ("no", "perhaps", "yes"))
    documents = tmp_path / "d.txt"
    documents.write_text("the cat\n")
    single = tmp_path / "single"
    pair_classifier(single, toy, ("no", "yes"))
    (single / "task.json").write_text('{"text": "text", "text_pair": null, "max_length": 16}')
    for arguments, message in (
        (
            (three, "--query", "x"),
            "use --label to name the label whose probability is the score: no, perhaps, yes",
        ),
        ((three, "--query", "x", "--label", "yess"), "no label of"),
        (
            (ranker, "--query", "x", "--label", "yes"),
            "gives amounts, which are the scores; leave --label out",
        ),
        ((ranker, "--query", " "), "--query is empty"),
        ((ranker, "--query", "x", "--top-k", 0), "--top-k is 0; allowed: 1 or more"),
        ((single, "--query", "x"), "was trained on single texts; ranking needs a model of pairs"),
    ):
        assert message in fails(capsys, "rank", *arguments, "--documents", documents)
