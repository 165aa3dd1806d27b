"""Vectors of texts: what they are by hand, that no batch changes them, and the files of `embed`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from funnelformer import FunnelformerConfig, FunnelformerForMaskedLM, FunnelformerModel, UserError
from funnelformer.data.tokenizer import load_tokenizer, model_ids
from funnelformer.inference import embed as embed_module
from funnelformer.inference.embed import embed
from funnelformer.inference.embedder import Embedder, load_embedder
from funnelformer.inference.sentence_folder import save_sentence_transformers
from inference.test_predictor import Stdin
from training.toy import fails, run, sentence, tree, write_table

# Largest difference of a text's vector alone and in a batch; measured 1.8e-6 at entries up to 2.8.
TOLERANCE = 1e-5


def pretrained(folder, toy, **settings):
    """A funnel of three blocks with a decoder, its weights far from 0."""
    torch.manual_seed(3)
    tokenizer = load_tokenizer(toy.tokenizer)
    settings = {"initializer_std": 0.4, "decoder_layers": 1, **model_ids(tokenizer), **settings}
    config = FunnelformerConfig.from_name("B1-1-1H16", **settings)
    FunnelformerForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(toy):
    return pretrained(toy.folder / "funnel", toy)


@pytest.fixture(scope="module")
def texts():
    """Texts of 5 to 45 tokens, the lengths mixed, and one of a single token."""
    generator = random.Random(1)
    long = [" ".join(sentence(generator) for _ in range(generator.randint(1, 9))) for _ in range(14)]
    return [*long, "cat", *long[:3]]


def by_hand(folder, texts):
    """Means, and firsts, of the encoder's states of each text alone, by the model as it was saved; no mask."""
    whole = FunnelformerModel.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder)
    vectors = {"mean": [], "cls": []}
    for text in texts:
        batch = tokenizer(text, return_tensors="pt")
        del batch["attention_mask"]
        with torch.no_grad():
            states = whole(**batch).encoder_last_hidden_state[0]
        vectors["mean"].append(states.mean(0))
        vectors["cls"].append(states[0])
    return {pooling: torch.stack(entries).numpy() for pooling, entries in vectors.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "max"},
        {"truncate_seq": False},
        {"separate_cls": False},
        {"mixer": "ponet", "initializer_std": 0.2},  # its maxima and products double the error at 0.4
        {"mixer": "fourier"},
        {"mixer": ["ponet", "attention", "fourier"]},
        {"padding": "original"},
        {"padding": "transformers", "default_token_type_id": 0},
    ],
    ids=str,
)
def test_vectors_are_those_of_each_text_alone(toy, texts, tmp_path, settings):
    folder = pretrained(tmp_path, toy, **settings)
    texts = texts[-9:]
    for pooling, expected in by_hand(folder, texts).items():
        embedder = load_embedder(str(folder), pooling=pooling, device="cpu")
        assert embedder.model.decoder is None
        for batch_size in (1, 4, 100):
            found = embedder.vectors(texts, batch_size)
            assert found.dtype == np.float32
            assert found == pytest.approx(expected, abs=TOLERANCE)


def test_a_padded_batch_has_one_mask_of_the_pooled_length(model):
    """By hand: [CLS] stays and the last token is dropped, twice.

    8 tokens: 6 make 3 windows, of which 2 make 1: 2 states. 5 tokens: 3 make 2, of which 1 is 1: 2 states.
    """
    net = load_embedder(str(model), device="cpu").model
    ids = torch.tensor([[2, 9, 10, 11, 12, 13, 14, 3], [2, 9, 10, 11, 3, 0, 0, 0]])
    mask = (ids > 0).long()
    with torch.no_grad():
        output = net(ids, mask)
        pooled = net.sequence_vectors(ids, mask)
    assert output.encoder_attention_mask.tolist() == [[1, 1], [1, 1]]
    states = output.encoder_last_hidden_state
    assert torch.allclose(pooled, states.mean(1), atol=1e-6)
    # 12 tokens: 10 make 5 windows, of which 4 make 2: 3 states, so that the other text's third is padding.
    ids = torch.nn.functional.pad(ids, (0, 4))
    ids[0, 8:] = 9
    with torch.no_grad():
        output = net(ids, (ids > 0).long())
        pooled = net.sequence_vectors(ids, (ids > 0).long())
    assert output.encoder_attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    expected = torch.stack(
        [
            output.encoder_last_hidden_state[0].mean(0),
            output.encoder_last_hidden_state[1, :2].mean(0),
        ]
    )
    assert torch.allclose(pooled, expected, atol=1e-6)


def test_normalised(model, texts):
    plain = load_embedder(str(model), device="cpu").vectors(texts)
    unit = load_embedder(str(model), normalize=True, device="cpu").vectors(texts)
    assert unit == pytest.approx(plain / np.linalg.norm(plain, axis=1, keepdims=True), abs=1e-6)
    assert load_embedder(str(model), device="cpu").vectors([]).shape == (0, 16)


def test_long_texts_are_cut(model):
    embedder = load_embedder(str(model), max_length=12, device="cpu")
    assert embedder.vectors(["red " * 30]) == pytest.approx(embedder.vectors(["red " * 10]), abs=TOLERANCE)
    assert load_embedder(str(model), device="cpu").max_length == 512


@pytest.mark.parametrize("stride", [4, 10])
def test_long_texts_in_windows(model, texts, tmp_path, stride):
    """The vector of a text is the mean of its windows', which are cut here by hand, by their tokens."""
    embedder = load_embedder(str(model), max_length=12, normalize=True)  # ten tokens of a text in each window
    tokenizer = embedder.tokenizer
    wanted = []
    for text in texts:
        ids, windows = tokenizer(text)["input_ids"][1:-1], []
        for begin in range(0, len(ids), stride):
            windows.append(ids[begin : begin + 10])
            if begin + 10 >= len(ids):
                break
        rows = [[tokenizer.cls_token_id, *window, tokenizer.sep_token_id] for window in windows]
        types = tokenizer(text)["token_type_ids"]
        alone = [
            embedder.model.sequence_vectors(
                torch.tensor([row]),
                token_type_ids=torch.tensor([[types[0], *types[1 : len(row) - 1], types[-1]]]),
            )
            for row in rows
        ]
        states = torch.nn.functional.normalize(torch.cat(alone), dim=-1).detach().numpy()
        mean = np.average(states, axis=0, weights=[len(row) for row in rows])
        wanted.append(mean / np.linalg.norm(mean))
    told = []
    reading = load_embedder(str(model), max_length=12, normalize=True, doc_stride=stride)
    found = reading.vectors(texts, batch_size=4, advance=told.append)
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    assert sum(told) == len(texts)
    assert (
        np.abs(found[0] - embedder.vectors(texts)[0]).max() > 0.01
    )  # the first text is longer than a window
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts))
    out = tmp_path / "vectors.npy"
    arguments = [
        "embed",
        model,
        file,
        "--out",
        out,
        "--max-length",
        12,
        "--doc-stride",
        stride,
        "--normalize",
    ]
    assert run(*arguments) == 0
    np.testing.assert_allclose(np.load(out), wanted, atol=TOLERANCE)


def test_windows_that_cannot_be(model, tmp_path, capsys):
    with pytest.raises(UserError, match="--doc-stride is 11; allowed: 1 to 10"):
        load_embedder(str(model), max_length=12, doc_stride=11)
    message = fails(
        capsys, "embed", model, "--save-sentence-transformers", tmp_path / "folder", "--doc-stride", 4
    )
    assert "sentence_transformers reads no windows" in message
    assert not (tmp_path / "folder").exists()


def test_a_released_checkpoint(tmp_path):
    """The authors' PyTorch form, whose padding would change a vector in a padded batch; saved, it is our own form."""
    release = Path(__file__).parents[1] / "golden" / "pt_b222_sep_qonly_mean"
    words = [token for token in (release / "vocab.uncased.txt").read_text().split() if token.isalpha()]
    texts = [" ".join(words[:length]) for length in (9, 3, 7, 9, 4)]
    embedder = load_embedder(str(release), device="cpu")
    assert embedder.model.config.padding == "original"
    assert embedder.vectors(texts) == pytest.approx(by_hand(release, texts)["mean"], abs=TOLERANCE)
    save_sentence_transformers(embedder, tmp_path / "out")
    read = load_embedder(str(tmp_path / "out"), device="cpu")
    assert np.array_equal(read.vectors(texts), embedder.vectors(texts))


# ---- files


@pytest.fixture(scope="module")
def table(toy, texts):
    rows = [(f"id{i}", text, i) for i, text in enumerate(texts)]
    return write_table(toy.folder / "table.tsv", rows, ("id", "text", "note"))


@pytest.fixture(scope="module")
def vectors(model, texts):
    return load_embedder(str(model), device="cpu").vectors(texts)


def test_the_three_forms_hold_the_same(model, table, texts, vectors, tmp_path, monkeypatch):
    """In parts of 5 rows, of which no more are in memory."""
    monkeypatch.setattr(embed_module, "_CHUNK", 5)
    lengths = []
    original = Embedder.vectors

    def watched(self, texts, *arguments):
        lengths.append(len(texts))
        return original(self, texts, *arguments)

    monkeypatch.setattr(Embedder, "vectors", watched)
    for suffix in (".npy", ".jsonl", ".parquet"):
        out = tmp_path / f"out{suffix}"
        assert embed(str(model), str(table), out=out, batch_size=3, device="cpu") == len(texts) == 18
    assert lengths == [5, 5, 5, 3] * 3
    found = np.load(tmp_path / "out.npy")
    assert found.dtype == np.float32
    assert found == pytest.approx(vectors, abs=TOLERANCE)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"], row["note"]) for row in rows] == [
        (f"id{i}", text, str(i)) for i, text in enumerate(texts)
    ]
    # The decimals give every float32 back.
    assert np.array_equal(np.array([row["embedding"] for row in rows], dtype=np.float32), found)
    read = pq.read_table(tmp_path / "out.parquet")
    assert read.column_names == ["id", "text", "note", "embedding"]
    assert np.array_equal(np.array(read["embedding"].to_pylist(), dtype=np.float32), found)
    assert read["text"].to_pylist() == texts


def test_stdin_and_the_cli(model, texts, vectors, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.stdin", Stdin("".join(f"{text}\n" for text in texts)))
    assert run("embed", model, "-", "--out", tmp_path / "a.npy", "--device", "cpu") == 0
    assert capsys.readouterr().out == f"18 vectors are in {tmp_path / 'a.npy'}\n"
    assert np.load(tmp_path / "a.npy") == pytest.approx(vectors, abs=TOLERANCE)
    lines = "\n" + "".join(json.dumps({"text": text, "n": i / 2}) + "\n" for i, text in enumerate(texts))
    monkeypatch.setattr("sys.stdin", Stdin(lines))
    assert run("embed", model, "--out", tmp_path / "b.parquet", "--device", "cpu", "--normalize") == 0
    read = pq.read_table(tmp_path / "b.parquet")
    assert read["n"].to_pylist() == [i / 2 for i in range(18)]
    assert np.linalg.norm(np.array(read["embedding"].to_pylist()), axis=1) == pytest.approx(1, abs=1e-6)


def test_types_of_parquet_are_those_of_all_rows(model, tmp_path, monkeypatch, capsys):
    """Whole numbers and fractions, in other parts; a column that comes late; but no text among numbers."""
    monkeypatch.setattr(embed_module, "_CHUNK", 2)
    rows = [
        {"text": "the cat", "n": 1},
        {"text": "the dog", "n": None},
        {"text": "cow", "n": 2.5, "late": "x"},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed(str(model), str(file), out=tmp_path / "a.parquet", device="cpu")
    read = pq.read_table(tmp_path / "a.parquet")
    assert read.select(["text", "n", "late"]).to_pylist() == [
        {"text": "the cat", "n": 1.0, "late": None},
        {"text": "the dog", "n": None, "late": None},
        {"text": "cow", "n": 2.5, "late": "x"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "cow", "n": "many"}]))
    line = fails(capsys, "embed", model, file, "--out", tmp_path / "b.parquet")
    assert line.startswith(f"{file}: column 'n' has values of several types, which parquet cannot hold")


def test_what_cannot_be_used_is_said_before_work(model, table, tmp_path, capsys, monkeypatch):
    bad = write_table(tmp_path / "bad.tsv", [("the cat",), ("the dog",), (" ",)], ("text",))
    pairs = write_table(tmp_path / "pairs.tsv", [("the cat", "the dog")], ("premise", "hypothesis"))
    named = tmp_path / "named.jsonl"
    named.write_text('{"text": "the cat", "embedding": 1}\n{"other": "x"}\n')
    before = tree(tmp_path)
    monkeypatch.setattr(Embedder, "vectors", None)
    out = tmp_path / "out.npy"
    for arguments, message in (
        ((bad, "--out", out), f"{bad}: row 3 (line 4): column 'text' is empty"),
        (
            (pairs, "--out", out),
            "has two columns of texts, 'premise' and 'hypothesis'; choose one with --text",
        ),
        ((named, "--out", out), "row 2 (line 2): no column 'text'; it has 'other'"),
        ((named, "--out", tmp_path / "out.jsonl", "--text", "text"), "row 2 (line 2): no column 'text'"),
        ((table, "--out", tmp_path / "out.csv"), "'.csv'; allowed: .npy, .parquet, .jsonl"),
        ((table,), "embed needs --out, a .npy, .parquet or .jsonl file, or --save-sentence-transformers"),
        ((table, "--out", out, "--text", "txt"), "no column 'txt'; did you mean 'text'?"),
        ((table, "--out", out, "--batch-size", 0), "--batch-size is 0; allowed: 1 or more"),
        ((table, "--out", out, "--max-length", 2), "--max-length is 2; allowed: 3 or more"),
    ):
        assert message in fails(capsys, "embed", model, *arguments)
    named.write_text('{"text": "the cat", "embedding": 1}\n')
    message = fails(capsys, "embed", model, named, "--out", tmp_path / "out.jsonl")
    assert message == f"{named}: has a column 'embedding', which the results need; rename it"
    named.write_text('{"text": "the cat", "embedding": 1}\n{"other": "x"}\n')
    assert tree(tmp_path) == before


def test_a_file_that_grows_meanwhile_is_refused(model, tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("the cat\n")
    original = Embedder.vectors

    def vectors(self, *arguments):
        file.write_text("the cat\nthe dog\n")
        return original(self, *arguments)

    monkeypatch.setattr(Embedder, "vectors", vectors)
    monkeypatch.setattr(embed_module, "_CHUNK", 1)
    file.write_text("the cat\nthe cow\n")
    embed(str(model), str(file), out=tmp_path / "a.npy", device="cpu")
    monkeypatch.setattr(Embedder, "vectors", original)
    check = embed_module._check
    monkeypatch.setattr(embed_module, "_check", lambda *a: (check(*a), file.write_text("the cat\n"))[0])
    with pytest.raises(UserError, match="changed while it was read"):
        embed(str(model), str(file), out=tmp_path / "b.npy", device="cpu")
    assert not (tmp_path / "b.npy").exists()


def test_a_saved_embedder_is_read_with_its_options(model, texts, tmp_path):
    embedder = load_embedder(str(model), pooling="cls", normalize=True, max_length=20, device="cpu")
    save_sentence_transformers(embedder, tmp_path / "out")
    read = load_embedder(str(tmp_path / "out"), device="cpu")
    assert (read.pooling, read.normalize, read.max_length) == ("cls", True, 20)
    assert np.array_equal(read.vectors(texts), embedder.vectors(texts))
    other = load_embedder(str(tmp_path / "out"), pooling="mean", normalize=False, device="cpu")
    assert (other.pooling, other.normalize) == ("mean", False)
    # Over itself; and a folder with modules of another kind is not guessed at.
    with pytest.raises(UserError, match="is not empty"):
        save_sentence_transformers(read, tmp_path / "out")
    save_sentence_transformers(read, tmp_path / "out", overwrite=True)
    file = tmp_path / "out" / "modules.json"
    modules = json.loads(file.read_text())
    modules[1]["type"] = "sentence_transformers.base.modules.dense.Dense"
    file.write_text(json.dumps(modules))
    with pytest.raises(
        UserError, match=r"the module sentence_transformers.base.modules.dense.Dense is not supported"
    ):
        load_embedder(str(tmp_path / "out"))
    file.write_text("{")
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        load_embedder(str(tmp_path / "out"))
