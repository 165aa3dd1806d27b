"""Commands that make models: prepare, pretrain, finetune, tokenizer."""

from __future__ import annotations

from pathlib import Path

from ..data.prepare import PrepareConfig, prepare
from ..data.tokenizer import load_tokenizer, train_tokenizer
from ..training.finetune import FinetuneConfig, finetune
from ..training.pretrain import PretrainConfig, pretrain
from .app import Files, app, print_metrics, show


@app.command(name="prepare")
def _prepare(settings: PrepareConfig) -> None:
    """Tokenise text into files to pretrain from, once, in parallel; run again to go on."""
    print_metrics(prepare(settings), f"the data are in {settings.out}")


@app.command(name="pretrain")
def _pretrain(settings: PretrainConfig) -> None:
    """Pretrain a model on text or prepared data; torchrun -m funnelformer pretrain trains on several devices."""
    print_metrics(pretrain(settings), f"the model is in {settings.out}")


@app.command(name="finetune")
def _finetune(settings: FinetuneConfig) -> None:
    """Fine-tune a model: on a --task of the papers, or on a table of texts with classes, labels or amounts."""
    metrics = finetune(settings)
    what = "runs are" if "seeds" in metrics and "best_run" not in metrics else "model is"
    print_metrics(metrics, f"the {what} in {settings.out / metrics.get('best_run', '')}")


@app.command(name="tokenizer")
def _tokenizer(
    train: Files,
    out: Path,
    *,
    vocab_size: int = 30522,
    cased: bool = False,
    min_frequency: int = 2,
    text_column: str | None = None,
    max_length: int = 512,
    overwrite: bool = False,
) -> None:
    """Train a WordPiece tokenizer on text files.

    Parameters
    ----------
    train
        Text files or globs (txt, jsonl, csv, tsv, parquet; compressed or not).
    out
        Folder to write.
    vocab_size
        Most entries of the vocabulary.
    cased
        Keep capital letters and accents.
    min_frequency
        Pairs that occur less often are not merged.
    text_column
        Column of the text in tables.
    max_length
        Tokens at which truncation cuts by default.
    overwrite
        Replace the tokenizer in a folder that is not empty.
    """
    train_tokenizer(
        train,
        out,
        vocab_size=vocab_size,
        lowercase=not cased,
        min_frequency=min_frequency,
        text_column=text_column,
        model_max_length=max_length,
        overwrite=overwrite,
    )
    show(f"{len(load_tokenizer(out)):,} entries; the tokenizer is in {out}")
