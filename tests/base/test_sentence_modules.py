"""Folders of sentence-transformers as sources: their vectors, what stays with the model, and what is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from funnelformer import FunnelformerConfig, FunnelformerModel, UserError
from funnelformer.base.sentence_modules import SentenceEmbedding
from funnelformer.checkpoints.convert import convert
from funnelformer.data.tokenizer import load_tokenizer
from funnelformer.inference.embedder import load_embedder
from funnelformer.inference.sentence_folder import save_sentence_transformers
from sentence_folders import bert_tokenizer, load_sentence_transformer, make_modules, save_bert, write
from training.toy import Toy, animal_rows, fails, run, sentence, tree, write_table

pytest.importorskip("sentence_transformers", reason="needs the extra `embeddings`")

# Largest difference of an entry, of vectors of size 1 to 4; measured 2e-6.
TOLERANCE = 1e-5
PROMPTS = {"prompts": {"query": "query : ", "document": ""}, "default_prompt_name": None}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of 5 to 45 tokens; the longer ones are cut at 32."""
    generator = random.Random(1)
    long = [" ".join(sentence(generator) for _ in range(generator.randint(1, 9))) for _ in range(9)]
    return [*long, "cat", "The Cat sleeps ."]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mean, normalised, cut at 32 tokens, with a prompt."""
    folder = tmp_path_factory.mktemp("sentence") / "small-sentences"
    return make_modules(save_bert(folder), prompts=PROMPTS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "cls", "normalize": False},
        {"pooling": {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}},
        {"inner": "0_Transformer", "max_length": None},
        {"prompts": {**PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot"}},
    ],
    ids=str,
)
def test_the_vectors_are_those_of_the_library(
    tmp_path: Path, texts: list[str], options: dict[str, object]
) -> None:
    """Read as it is, written by us and read by that library, and converted."""
    inner = str(options.get("inner", ""))
    save_bert(tmp_path / "source" / inner)
    make_modules(tmp_path / "source", **options)  # type: ignore[arg-type]
    expected = load_sentence_transformer(tmp_path / "source").encode(texts)
    embedder = load_embedder(str(tmp_path / "source"), device="cpu")
    assert embedder.vectors(texts, batch_size=4) == pytest.approx(expected, abs=TOLERANCE)
    assert embedder.max_length == (48 if options.get("max_length", 0) is None else 32)
    embedder = load_embedder(str(tmp_path / "source"), device="cpu", only_runs=False)
    save_sentence_transformers(embedder, tmp_path / "written")
    convert(tmp_path / "source", tmp_path / "converted")
    for name in ("written", "converted"):
        loaded = load_sentence_transformer(tmp_path / name)
        assert loaded.encode(texts) == pytest.approx(expected, abs=TOLERANCE)
        again = load_embedder(str(tmp_path / name), device="cpu")
        assert again.vectors(texts) == pytest.approx(expected, abs=TOLERANCE)
        assert again.settings == embedder.settings
    assert loaded.similarity_fn_name == embedder.origin.similarity
    # In the form of its source again, which needs nothing of ours.
    convert(tmp_path / "converted", tmp_path / "bert", "bert")
    stock = load_sentence_transformer(tmp_path / "bert")
    assert type(stock[0].model).__name__ == "BertModel"
    assert stock.encode(texts) == pytest.approx(expected, abs=TOLERANCE)
    # Saved once more by that library.
    loaded.save_pretrained(str(tmp_path / "again"))
    again = load_embedder(str(tmp_path / "again"), device="cpu")
    assert again.vectors(texts) == pytest.approx(expected, abs=TOLERANCE)


def test_the_real_model(minilm: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2, through `embed`, the library that publishes it, and a folder that we write; measured 2e-7."""
    texts = [
        "A cat sits on the mat.",
        "Dogs run fast, far beyond the hills!",
        "x",
        "The weather is " + "nice and warm " * 150,
    ]
    expected = load_sentence_transformer(minilm).encode(texts)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out, folder = tmp_path / "out.npy", tmp_path / "folder"
    arguments = ("--out", out, "--save-sentence-transformers", folder, "--device", "cpu")
    assert run("embed", minilm, tmp_path / "texts.jsonl", *arguments) == 0
    assert np.load(out) == pytest.approx(expected, abs=TOLERANCE)
    written = load_sentence_transformer(folder)
    assert written.max_seq_length == 256
    assert written.encode(texts) == pytest.approx(expected, abs=TOLERANCE)
    # Shortened, before any training, the vectors are still near to what they were.
    short = load_embedder(str(minilm), device="cpu")
    model = FunnelformerModel.from_pretrained(minilm, blocks=[2, 2, 2]).eval()
    cosines = (replace(short, model=model).vectors(texts) * expected).sum(1)
    assert cosines.min() > 0.4  # measured 0.48 to 0.85


def test_prompts(source: Path, texts: list[str]) -> None:
    expected = load_sentence_transformer(source).encode(texts, prompt_name="query")
    found = load_embedder(str(source), prompt="query", device="cpu").vectors(texts)
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert not np.allclose(found, load_embedder(str(source), device="cpu").vectors(texts), atol=1e-2)
    with pytest.raises(UserError, match="has no prompt 'passage'; it has: query"):
        load_embedder(str(source), prompt="passage", device="cpu")


def test_texts_are_lower_cased_where_the_modules_do(tmp_path: Path, texts: list[str]) -> None:
    """By the folder's tokenizer, and by that of a converted one, whose file has it then."""
    folder = make_modules(save_bert(tmp_path / "source"), settings={"do_lower_case": True})
    bert_tokenizer(lowercase=False).save_pretrained(folder)
    convert(folder, tmp_path / "out")
    upper, lower = "The Cat Sleeps .", "the cat sleeps ."
    for name in ("source", "out"):
        tokenizer = load_tokenizer(tmp_path / name)
        assert tokenizer(upper)["input_ids"] == tokenizer(lower)["input_ids"]
    expected = load_sentence_transformer(folder).encode([upper])
    assert load_embedder(str(tmp_path / "out"), device="cpu").vectors([upper]) == pytest.approx(
        expected, abs=TOLERANCE
    )
    write(folder / "sentence_bert_config.json", {"do_lower_case": False})
    assert load_tokenizer(folder)(upper)["input_ids"] != load_tokenizer(folder)(lower)["input_ids"]


def test_what_the_modules_say_stays_through_fine_tuning(source: Path, toy: Toy, tmp_path: Path) -> None:
    """The head learns from the vector; afterwards the encoder still gives vectors as it did."""
    train = write_table(tmp_path / "train.tsv", animal_rows(16))
    arguments = ("--model", source, "--train", train, "--out", tmp_path / "run", "--steps", 2)
    assert run("finetune --batch-size 8 --device cpu --max-length 16", *arguments) == 0
    config = FunnelformerConfig.from_pretrained(tmp_path / "run")
    assert config.classifier_pooling == "mean_tokens"
    assert config.vectors == SentenceEmbedding("mean_tokens", True, 32, {"query": "query : "})
    embedder = load_embedder(str(tmp_path / "run"), device="cpu")
    assert (embedder.pooling, embedder.normalize, embedder.max_length) == ("mean_tokens", True, 32)
    assert embedder.origin == config.vectors


def test_options_go_before_what_the_modules_say(source: Path, texts: list[str]) -> None:
    embedder = load_embedder(str(source), pooling="cls", normalize=False, max_length=8, device="cpu")
    assert (embedder.pooling, embedder.normalize, embedder.max_length) == ("cls", False, 8)
    batch = embedder.tokenizer(texts[0], truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        expected = FunnelformerModel.from_pretrained(source).eval()(**batch).last_hidden_state[0, 0]
    assert embedder.vectors(texts[:1])[0] == pytest.approx(expected.numpy(), abs=TOLERANCE)


def test_a_pooling_module_about_our_own_funnel_is_refused(
    source: Path, tmp_path: Path, texts: list[str]
) -> None:
    """The library adds one where there is no modules.json; of one block it averages what there is."""
    for layout in ("L4", "B2-2"):
        FunnelformerModel.from_pretrained(source, layout=layout).save_pretrained(tmp_path / layout)
        load_tokenizer(source).save_pretrained(tmp_path / layout)
        make_modules(tmp_path / layout)
    expected = load_embedder(str(source), device="cpu").vectors(texts)
    assert load_embedder(str(tmp_path / "L4"), device="cpu").vectors(texts) == pytest.approx(
        expected, abs=TOLERANCE
    )
    with pytest.raises(UserError, match="Pooling cannot average the states of a model that shortens"):
        load_embedder(str(tmp_path / "B2-2"), device="cpu")


def entry(kind: str, path: str = "") -> dict[str, object]:
    return {"idx": 0, "name": "0", "path": path, "type": kind}


TRANSFORMER = entry("sentence_transformers.models.Transformer")
POOLING = entry("sentence_transformers.models.Pooling", "1_Pooling")
WIDTH = {"word_embedding_dimension": 16}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", "[{", "modules.json: line 1: not valid JSON"),
        ("modules.json", {"type": "x"}, "modules.json: is not a list of modules with types and paths"),
        ("modules.json", ["x"], "modules.json: is not a list of modules with types and paths"),
        ("modules.json", [], "modules.json: the first module is missing; allowed: Transformer"),
        ("modules.json", [POOLING], "modules.json: the first module is Pooling; allowed: Transformer"),
        (
            "modules.json",
            [TRANSFORMER, POOLING, entry("sentence_transformers.models.Dense", "2_Dense")],
            "modules.json: the module sentence_transformers.models.Dense is not supported",
        ),
        (
            "modules.json",
            [TRANSFORMER, entry("custom.Pooling", "1_Pooling")],
            "modules.json: 'type' names code to run ('custom.Pooling')",
        ),
        (
            "modules.json",
            [TRANSFORMER],
            "modules.json: the modules are Transformer; allowed: Transformer, Pooling",
        ),
        (
            "modules.json",
            [entry("sentence_transformers.models.Transformer", "../other"), POOLING],
            "modules.json: the path '../other' leads out of the folder",
        ),
        (
            "1_Pooling/config.json",
            {**WIDTH, "pooling_mode_max_tokens": True},
            "the pooling is max; allowed: cls or mean",
        ),
        (
            "1_Pooling/config.json",
            {**WIDTH, "pooling_mode": "lasttoken"},
            "the pooling is lasttoken; allowed",
        ),
        (
            "1_Pooling/config.json",
            {**WIDTH, "pooling_mode": ["cls", "mean"]},
            "the pooling is cls and mean; allowed",
        ),
        (
            "1_Pooling/config.json",
            {"word_embedding_dimension": 32, "pooling_mode": "mean"},
            "the states are 16 wide, and the pooling's config says 32",
        ),
        ("1_Pooling/config.json", {**WIDTH, "include_prompt": False}, "include_prompt is false"),
        ("1_Pooling/config.json", "", "config.json: the file is empty"),
        ("1_Pooling/config.json", None, "config.json: no such file"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "many"},
            "max_seq_length is 'many'; allowed: a whole",
        ),
        (
            "sentence_bert_config.json",
            {"do_lower_case": "yes"},
            "do_lower_case is 'yes'; allowed: true, false",
        ),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
        (
            "config_sentence_transformers.json",
            {"prompts": ["x"]},
            "prompts is ['x']; allowed: texts by their names",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {}, "default_prompt_name": "query"},
            "the default prompt is 'query', which is not among the prompts",
        ),
        ("tokenizer.json", None, "no tokenizer in this folder"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: object, message: str
) -> None:
    folder = tmp_path / "folder"
    for name, data in tree(source).items():
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    if content is None:
        (folder / file).unlink()
        for other in ("tokenizer_config.json",) if file == "tokenizer.json" else ():
            (folder / other).unlink()
    else:
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    data = tmp_path / "texts.txt"
    data.write_text("the cat\n")
    out = tmp_path / "out"
    assert message in fails(capsys, "embed", folder, data, "--out", f"{out}.npy", "--device", "cpu")
    if "tokenizer" not in message:
        assert message in fails(capsys, "convert", folder, out, "--layout", "B2-2")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["mean"], "sentence_embedding: is ['mean']"),
        ({"poolin": "mean"}, "unknown key 'poolin'; did you mean 'pooling'?"),
        ({"pooling": "max"}, "pooling is 'max'; allowed: cls, mean, mean_tokens"),
        ({"normalize": 1}, "normalize is 1; allowed: true, false"),
        ({"max_length": 2}, "max_length is 2; allowed: a whole number of tokens, 3 or more"),
        ({"prompts": {"query": 1}}, "prompts is {'query': 1}; allowed: texts by their names"),
        ({"default_prompt": "query"}, "the default prompt is 'query', which is not among the prompts"),
        ({"similarity": 1}, "similarity is 1; allowed: a name"),
    ],
)
def test_a_config_that_says_nonsense(values: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        FunnelformerConfig(sentence_embedding=values)
    assert message in str(caught.value)
