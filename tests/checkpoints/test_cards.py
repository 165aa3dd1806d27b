"""The README.md of every kind of folder: what the Hub reads of it, and code that runs where it lies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from checkpoints.encoders import save_stock
from funnelformer import FunnelformerForMaskedLM, FunnelformerModel, load_embedder
from funnelformer.base.bundled import located
from funnelformer.checkpoints.card import pipeline_of
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.forms import ENCODERS
from funnelformer.modeling import HEADS
from golden_cases import released
from models import build, small_config
from sentence_folders import make_modules, save_bert
from training.toy import PRETRAIN, Toy, run, save_model, write_table

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = [(f"the red {animal} runs .", animal) for animal in ("cat", "dog")] * 8
SOURCE_CARD = "---\nlicense: mit\nlanguage: en\nbase_model: someone/small\n---\n# A model\n"
# The Hub's own: of these a card names one, or none.
LIBRARIES = {"funnelformer", "transformers", "sentence-transformers", "onnx"}
PIPELINES = {
    *("text-classification", "token-classification", "question-answering", "multiple-choice", "fill-mask"),
    *("feature-extraction", "sentence-similarity"),
}
FIELDS = {
    *("license", "language", "base_model", "library_name", "pipeline_tag", "tags", "datasets", "metrics"),
    "model-index",
}


@pytest.fixture(scope="module")
def source(toy: Toy) -> Path:
    (toy.pretrained / "README.md").write_text(SOURCE_CARD)
    return toy.pretrained


@pytest.fixture(scope="module")
def held(toy: Toy) -> dict[str, Path]:
    """Models that other forms hold as they are; without a tokenizer, whose segment of [CLS] BERT lacks."""
    options: dict[str, dict[str, Any]] = {
        "bert": {"name": "L2H16", "position": "absolute", "default_token_type_id": 0, "cls_token_type_id": 0},
        "transformers": {
            "name": "B1-1H16",
            "padding": "transformers",
            "mlm_head": "linear",
            "default_token_type_id": 0,
        },
        "original-torch": {"name": "B1-1H16", "padding": "original"},
    }
    for form, settings in options.items():
        save_model(toy.folder / form, 80, **settings)
        model = FunnelformerForMaskedLM.from_pretrained(toy.folder / form)
        with torch.no_grad():  # as transformers' Funnel has it: it empties the row of [PAD] when it loads
            model.get_input_embeddings().weight[0] = 0
        model.save_pretrained(toy.folder / form)
        (toy.folder / form / "README.md").write_text(SOURCE_CARD)
    return {form: toy.folder / form for form in options}


def card_of(folder: Path) -> ModelCard:
    """The card, of which every field is one that the Hub reads, with a value that it takes."""
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data.keys() <= FIELDS
    assert data["library_name"] in LIBRARIES
    assert data.get("pipeline_tag") in {*PIPELINES, None}
    assert "funnelformer" in data["tags"]
    for result in card.data.eval_results or []:
        assert result.task_type in PIPELINES
        assert result.metric_type in data["metrics"]
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)?", result.dataset_type)
        assert isinstance(result.metric_value, float)
    return card


def code_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(code)


def run_snippet(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, dict[str, Any]]:
    """What the code of a card prints, run where the card lies, and the names that it leaves."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(compile(code_of(folder), "README.md", "exec"), names)
    return capsys.readouterr().out, names


def trained(arguments: str, source: Path, tmp_path: Path) -> Path:
    table = write_table(tmp_path / "train.tsv", ROWS)
    out = tmp_path / "out"
    assert run(f"finetune --model {source} --train {table} --max-length 16 {arguments} --out {out}") == 0
    return out


KINDS = {
    "fine-tuned": ("funnelformer", "text-classification", "[["),
    "frozen": ("funnelformer", "text-classification", "[["),
    "few-shot": ("funnelformer", "text-classification", "[["),
    "pretrained": ("funnelformer", "fill-mask", "torch.Size([1, "),
    "distilled": ("funnelformer", "sentence-similarity", "(2, 16)"),
    "embedder": ("sentence-transformers", "sentence-similarity", "(2, 16)"),
    "exported": ("onnx", "fill-mask", "(1, "),
    "int8": ("onnx", "fill-mask", "(1, "),
    "shortened": ("funnelformer", "fill-mask", "torch.Size([1, "),
    "copied": ("funnelformer", "fill-mask", "torch.Size([1, "),
    "transformers": ("transformers", "fill-mask", "torch.Size([1, "),
    "bert": ("transformers", "fill-mask", "torch.Size([1, "),
    "original-torch": ("funnelformer", "feature-extraction", "torch.Size([1, "),
}

# The others are of the same code.
SLOW = {"few-shot", "frozen", "distilled", "int8", "copied"}


def make(kind: str, toy: Toy, source: Path, held: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of that kind, from `source`, or from what its form holds."""
    out = tmp_path / "out"
    if kind == "fine-tuned":
        return trained("--steps 2 --batch-size 4", source, tmp_path)
    if kind == "frozen":
        return trained("--frozen", source, tmp_path)
    if kind == "few-shot":
        return trained("--few-shot --contrastive-epochs 1 --batch-size 4", source, tmp_path)
    if kind == "pretrained":
        flags = ("--train", toy.corpus, "--tokenizer", toy.tokenizer, "--model", source, "--steps", 2)
        assert run(PRETRAIN, *flags, "--out", out) == 0
    elif kind == "distilled":
        texts = tmp_path / "texts.txt"
        texts.write_text("\n".join(toy.corpus.read_text().split("\n\n")[:24]).replace("\n\n", "\n"))
        flags = ("--teacher", source, "--model", source, "--train", texts, "--steps", 2, "--batch-size", 8)
        assert run("distill", *flags, "--evaluate-every", 2, "--device", "cpu", "--out", out) == 0
    elif kind == "embedder":
        assert run("embed", source, "--save-sentence-transformers", out) == 0
    elif kind == "exported":
        assert run("export", source, out, "--check-to", 8) == 0
    elif kind == "int8":
        assert run("export", source, out, "--check-to", 8, "--int8", "dynamic") == 0
    elif kind == "shortened":
        assert run("convert", source, out, "--layout", "B1H16") == 0
    elif kind == "copied":
        assert run("convert", source, out) == 0
    else:
        assert run("convert", held[kind], out, "--to", kind) == 0
    return out


@pytest.mark.usefixtures("no_shape_checks", "traced_once")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in KINDS]
)
def test_a_card_of_each_kind(
    kind: str,
    toy: Toy,
    source: Path,
    held: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = make(kind, toy, source, held, tmp_path)
    library, pipeline, printed = KINDS[kind]
    data = card_of(out).data
    assert (data.library_name, data.pipeline_tag) == (library, pipeline)
    assert (data.license, data.language, data.base_model) == ("mit", "en", "someone/small")
    said, names = run_snippet(out, monkeypatch, capsys)
    assert printed in said
    code = (out / "README.md").read_text()
    needs_us = library in ("funnelformer", "sentence-transformers")
    assert bool(re.search(r"^(from|import) funnelformer", code, re.MULTILINE)) == needs_us
    if kind in ("copied", "exported", *held):
        # What the snippet computes is what the source says.
        is_encoder = kind == "original-torch"  # which has neither a decoder nor a masked-LM head
        model_class, options = (
            (FunnelformerModel, {"decoder_layers": 0}) if is_encoder else (FunnelformerForMaskedLM, {})
        )
        whole = model_class.from_pretrained(held.get(kind, source), **options).eval()
        batch = names.get("batch")
        given = (
            {"input_ids": names["ids"]}
            if batch is None
            else {k: torch.as_tensor(v) for k, v in batch.items()}
        )
        with torch.no_grad():
            expected = whole(**given)[0]
        found = names["outputs"][0] if kind == "exported" else names["output"][0]
        assert torch.allclose(torch.as_tensor(found), expected, atol=1e-5)
    if "predictor" in names:
        shares = names["predictor"].probabilities(names["predictor"].logits(["a text"]))
        assert shares.sum() == pytest.approx(1)
    if kind == "distilled":
        assert {result.metric_type for result in data.eval_results} >= {"cosine"}
    if kind == "pretrained":
        assert {result.metric_type for result in data.eval_results} == {"accuracy", "perplexity"}


def save_source(kind: str, folder: Path) -> Path:
    """A model that others published, in their form, with its card."""
    if kind in ENCODERS:
        save_stock(folder, kind, "masked_lm")
    elif kind == "sentence-transformers":
        make_modules(save_bert(folder))
    elif kind == "original-tf":
        released(GOLDEN / "tf_full_e16_b1_1x2_d1", folder)
    elif kind == "ponet":
        shutil.copytree(GOLDEN / "ponet_clsgsepg", folder)
    else:
        shutil.copytree(GOLDEN / "pt_finetuned_form", folder)
    (folder / "README.md").write_text(SOURCE_CARD)
    return folder


SOURCES = (*ENCODERS, "sentence-transformers", "original-tf", "original-torch", "ponet")
# One that another library reads, and one that it does not.
FAST_SOURCES = ("fnet", "original-tf")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in FAST_SOURCES)) for kind in SOURCES]
)
def test_a_card_of_what_was_made_of_each_form(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ours, and written back in its own form: complete, with code whose output is the source's."""
    source = save_source(kind, tmp_path / "source")
    head = HEADS[load_folder(source).architecture]
    whole = head.model_class.from_pretrained(source).eval()
    theirs = {"sentence-transformers": "bert"}.get(kind, kind)
    for to in ("funnelformer", theirs)[: 1 if kind == "ponet" else 2]:  # a PoNet can only be read
        out = tmp_path / to
        assert run("convert", source, out, "--to", to) == 0
        data = card_of(out).data
        assert (data.license, data.language, data.base_model) == ("mit", "en", "someone/small")
        said, names = run_snippet(out, monkeypatch, capsys)
        if kind == "sentence-transformers":
            library = "funnelformer" if to == "funnelformer" else "sentence-transformers"
            assert (data.library_name, data.pipeline_tag) == (library, "sentence-similarity")
            assert "(2, 16)" in said
            assert ("funnelformer" in code_of(out)) == (to == "funnelformer")
            continue
        assert data.library_name == ("transformers" if to in ENCODERS else "funnelformer")
        assert data.pipeline_tag == (None if head.export_task is None else pipeline_of(head.export_task))
        given = names.get("batch") or {"input_ids": names["ids"]}
        with torch.no_grad():
            expected = whole(**given)[0]
        assert torch.allclose(names["output"][0], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks", "traced_once")
def test_the_code_of_a_card_calls_every_head(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of our own form in this process, of folders with their code in one that does not have this package."""
    ids, expected = torch.arange(4, 12)[None], {}
    codes = [
        "import importlib.util, os, torch",
        "assert importlib.util.find_spec('funnelformer') is None",
    ]
    for head in HEADS:
        model = build(HEADS[head].model_class, small_config("B1-1H16"))
        model.save_pretrained(tmp_path / "source")
        with torch.no_grad():
            expected[head] = model.eval()(ids[None] if HEADS[head].has_choices else ids)
        pipeline = None if head == "token_detection" else HEADS[head].export_task
        for to in ("funnelformer", "remote-code"):
            out = tmp_path / to / head
            convert(tmp_path / "source", out, to=to)
            assert card_of(out).data.pipeline_tag == pipeline
        shutil.rmtree(tmp_path / "source")
        _, names = run_snippet(tmp_path / "funnelformer" / head, monkeypatch, capsys)
        equal(names["output"], expected[head], head)
        codes += [f"os.chdir({str(out)!r})", code_of(out)]
        codes += [f"torch.save({{k: output[k] for k in {HEADS[head].outputs!r}}}, '../{head}.pt')"]
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([str(elsewhere), "-c", "\n".join(codes)], check=True, env=environment)
    for head in HEADS:
        equal(torch.load(tmp_path / "remote-code" / f"{head}.pt", weights_only=True), expected[head], head)


def equal(found: Any, expected: Any, head: str) -> None:
    for output in HEADS[head].outputs:
        assert torch.allclose(found[output], expected[output], atol=1e-6), (head, output)


@pytest.mark.slow
def test_measurements_go_where_the_outputs_are_the_same(source: Path, tmp_path: Path) -> None:
    """A conversion and a graph keep a model's scores; a shortened model, int8 and the encoder alone have none."""
    run_folder = trained("--steps 2 --batch-size 4", source, tmp_path)
    (expected,) = [r for r in card_of(run_folder).data.eval_results if r.metric_type == "accuracy"]

    def scores(name: str) -> dict[str, float]:
        found = card_of(tmp_path / name).data.eval_results or []
        return {result.metric_type: result.metric_value for result in found}

    for name, command in {
        "same": f"convert {run_folder} {tmp_path / 'same'}",
        "code": f"convert {run_folder} {tmp_path / 'code'} --to remote-code",
        "graph": f"export {run_folder} {tmp_path / 'graph'} --check-to 8",
        "int8": f"export {run_folder} {tmp_path / 'int8'} --check-to 8 --int8 dynamic",
        "vectors": f"export {run_folder} {tmp_path / 'vectors'} --check-to 8 --task embeddings",
        "short": f"convert {run_folder} {tmp_path / 'short'} --layout B1H16",
        "folder": f"embed {run_folder} --save-sentence-transformers {tmp_path / 'folder'}",
    }.items():
        assert run(command) == 0
        assert scores(name).get("accuracy") == (
            expected.metric_value if name in ("same", "code", "graph") else None
        )
    table = tmp_path / "train.tsv"
    assert (
        run(f"export {run_folder} {tmp_path / 'measured'} --check-to 8 --int8 dynamic --calibration {table}")
        == 0
    )
    assert 0 <= scores("measured")["accuracy"] <= 1
    assert card_of(tmp_path / "measured").data.eval_results[0].dataset_name == "train.tsv"


@pytest.mark.usefixtures("no_shape_checks", "traced_once")
def test_a_licence_and_languages_can_be_stated(source: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    assert run(f"convert {source} {named}") == 0
    (named / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n")
    for number, command in enumerate(
        (
            f"convert {named} {tmp_path / '0'}",
            f"export {named} {tmp_path / '1'} --check-to 8",
            f"embed {named} --save-sentence-transformers {tmp_path / '2'}",
        )
    ):
        assert run(f"{command} --license cc-by-4.0 --language en de") == 0
        data = ModelCard.load(tmp_path / str(number) / "README.md").data.to_dict()
        assert (data["license"], data["language"]) == ("cc-by-4.0", ["en", "de"])
        assert not {"license_name", "license_link"} & data.keys()
    out = trained("--frozen --license gpl-3.0 --language zh-Hant", named, tmp_path)
    card = card_of(out)
    assert (card.data.license, card.data.language) == ("gpl-3.0", ["zh-Hant"])
    assert "--license gpl-3.0 --language zh-Hant" in card.text
    # Nothing is made up.
    assert run(f"convert {located('mini')} {tmp_path / 'mini'} --layers 0,1") == 0
    assert ModelCard.load(tmp_path / "mini" / "README.md").data.license == "apache-2.0"
    (named / "README.md").unlink()
    assert run(f"convert {named} {tmp_path / 'none'}") == 0
    assert not {"license", "language", "base_model"} & card_of(tmp_path / "none").data.to_dict().keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--license Apache", "--license is 'Apache'; allowed: an identifier of the Hub, such as apache-2.0"),
        ("--language english", "--language is 'english'; allowed: codes of languages, such as en, de"),
    ],
)
def test_words_that_the_hub_refuses_are_refused(
    flags: str, message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"convert {source} {tmp_path / 'out'} {flags}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(f"embed {source} texts.txt --out vectors.npy --license mit") == 2
    assert "--license is for the card of --save-sentence-transformers" in capsys.readouterr().err


def test_the_bundled_model_has_a_card_that_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(located("mini"))
    data = card_of(folder).data
    assert (data.license, data.language, data.library_name) == ("apache-2.0", "en", "funnelformer")
    said, names = run_snippet(folder, monkeypatch, capsys)
    first, second = load_embedder(str(folder)).vectors(
        ["a cat sleeps on the sofa", "a kitten naps on the couch"]
    )
    assert float(said) == pytest.approx(float(first @ second), abs=1e-5)
    np.testing.assert_allclose(names["vectors"], [first, second], atol=1e-6)
