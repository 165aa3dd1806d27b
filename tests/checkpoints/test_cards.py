"""The README.md of every kind of folder: what the Hub reads of it, and code that runs where it lies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from training.toy import PRETRAIN, Toy, run, write_table

ROWS = [(f"the red {animal} runs .", animal) for animal in ("cat", "dog")] * 8
SOURCE_CARD = "---\nlicense: mit\nlanguage: en\nbase_model: someone/small\n---\n# A model\n"


@pytest.fixture(scope="module")
def source(toy: Toy) -> Path:
    (toy.pretrained / "README.md").write_text(SOURCE_CARD)
    return toy.pretrained


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def run_snippet(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the code of a card prints, run where the card lies."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    return capsys.readouterr().out


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("command", "library", "pipeline", "printed"),
    [
        ("finetune", "transformers", "text-classification", "[[0."),
        ("embed", "sentence-transformers", "sentence-similarity", "(2, 16)"),
        ("export", "onnx", "fill-mask", "(1, "),
        ("convert", "transformers", None, "torch.Size([1, "),
        ("pretrain", "transformers", "fill-mask", "torch.Size([1, "),
    ],
)
def test_a_card_of_each_kind(
    command: str,
    library: str,
    pipeline: str | None,
    printed: str,
    toy: Toy,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    if command == "finetune":
        table = write_table(tmp_path / "train.tsv", ROWS)
        arguments = f"finetune --model {source} --train {table} --steps 2 --batch-size 4 --max-length 16"
        assert run(f"{arguments} --out {out}") == 0
    elif command == "embed":
        assert run(f"embed {source} --save-sentence-transformers {out}") == 0
    elif command == "export":
        assert run(f"export {source} {out} --check-to 8") == 0
    elif command == "convert":
        assert run(f"convert {source} {out} --layout B1H16") == 0
    else:
        flags = ("--train", toy.corpus, "--tokenizer", toy.tokenizer, "--model", source, "--steps", 2)
        assert run(PRETRAIN, *flags, "--out", out) == 0
    data = card_of(out).data
    assert (data.library_name, data.pipeline_tag) == (library, pipeline)
    assert (data.license, data.language, data.base_model) == ("mit", "en", "someone/small")
    assert "funnelformer" in data.tags
    assert printed in run_snippet(out, monkeypatch, capsys)
