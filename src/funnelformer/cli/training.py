"""Commands that make models: prepare, pretrain, distill, finetune, tokenizer."""

from __future__ import annotations

from ..base.hub import check_reachable
from ..base.kept_memory import bound_kernel_cache
from ..corpus.config import TokenizerConfig
from ..corpus.prepare_config import PrepareConfig
from ..training.distillation.config import DistillConfig
from ..training.finetuning.config import FinetuneConfig
from ..training.pretraining.config import PretrainConfig
from .app import app, print_metrics, show


@app.command(name="prepare")
def _prepare(settings: PrepareConfig) -> None:
    """Tokenise text once, in parallel, into files for pretraining; run it again to continue after an interruption."""
    from ..corpus.prepare import prepare

    print_metrics(prepare(settings), f"the data are in {settings.out}")


@app.command(name="pretrain")
def _pretrain(settings: PretrainConfig) -> None:
    """Pretrain a model on text or prepared data; torchrun -m funnelformer pretrain trains on several devices."""
    check_reachable(settings.model)
    from ..training.pretraining.pretrain import pretrain

    print_metrics(pretrain(settings), f"the model is in {settings.out}")


@app.command(name="distill")
def _distill(settings: DistillConfig) -> None:
    """Teach a small model to give the vectors, labels or scores of a larger one; the texts need no labels."""
    for source in (settings.teacher, settings.model):
        check_reachable(source)
    bound_kernel_cache()  # the batches of a teacher have ever new shapes
    from ..training.distillation.distill import distill

    print_metrics(distill(settings), f"the model is in {settings.out}")


@app.command(name="finetune")
def _finetune(settings: FinetuneConfig) -> None:
    """Fine-tune a model on a table of texts with classes, labels or amounts, or on a --task of the papers."""
    for source in (settings.model, *([settings.teacher] if settings.teacher else [])):
        check_reachable(source)
    if settings.teacher:
        bound_kernel_cache()
    from ..training.finetuning.finetune import finetune

    metrics = finetune(settings)
    what = "runs are" if "seeds" in metrics and "best_run" not in metrics else "model is"
    print_metrics(metrics, f"the {what} in {settings.out / metrics.get('best_run', '')}")


@app.command(name="tokenizer")
def _tokenizer(settings: TokenizerConfig) -> None:
    """Train a WordPiece tokenizer on text files."""
    from ..corpus.vocabulary import train_tokenizer

    tokenizer = train_tokenizer(**vars(settings))
    show(f"{len(tokenizer):,} entries; the tokenizer is in {settings.out}")
