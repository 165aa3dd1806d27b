"""Commands that use a model: evaluate, predict, embed, rank, serve."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from cyclopts import Parameter

from ..base.errors import UserError
from ..base.hub import check_reachable
from ..base.kept_memory import bound_kernel_cache
from ..base.options import MOST_USED
from ..inference.config import EmbedConfig, EvaluateConfig, PredictConfig, RankConfig
from ..serve.config import ServeConfig, name_models
from ..spread.storage import as_url
from .app import app, print_metrics, process_rank, show


@app.command(name="evaluate")
def _evaluate(settings: EvaluateConfig) -> None:
    """Score a fine-tuned model on labelled data."""
    check_reachable(settings.model)
    from ..inference.evaluate import evaluate

    print_metrics(evaluate(**vars(settings)))


@app.command(name="predict")
def _predict(settings: PredictConfig) -> None:
    """Label the texts in a file or from stdin."""
    check_reachable(settings.model)
    from ..inference.predict import predict

    number = predict(**vars(settings))
    if process_rank() == 0 and (settings.submit_to is not None or settings.out is not None):
        show(f"{number:,} predictions are in {settings.submit_to or _shown(settings)}")


def _shown(settings: EmbedConfig | PredictConfig) -> str:
    """Where the results are, as the user named it: a URL is no path."""
    return as_url(settings.out) if settings.engine == "ray" and settings.out else str(settings.out)


@app.command(name="serve")
def _serve(
    models: Annotated[
        list[str],
        Parameter(
            name="MODEL",
            help="Folder of the model, or of several, each as NAME=FOLDER.",
            negative="",
            group=MOST_USED,
        ),
    ],
    /,
    *,
    settings: ServeConfig | None = None,
) -> None:
    """Serve models over HTTP: /classify, /embed, /fill, /answer, /rank, a page to try them, and the routes of
    OpenAI and text-embeddings-inference.
    """
    sources = name_models(models)
    for source in sources.values():
        check_reachable(source)
    bound_kernel_cache()
    try:
        from ..serve.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client"):
            raise
        raise UserError(
            f"serve needs {error.name}, which is not installed: pip install 'funnelformer[serve]'"
        ) from None
    serve(dataclasses.replace(settings or ServeConfig(), models=sources))


@app.command(name="embed")
def _embed(settings: EmbedConfig) -> None:
    """Write a vector for each text in a file or from stdin, or a folder that sentence_transformers loads."""
    check_reachable(settings.model)
    from ..inference.embed import embed

    number = embed(**vars(settings))
    if settings.out is not None:
        show(f"{number:,} vectors are in {_shown(settings)}")
    if settings.save_to is not None:
        show(f"the sentence_transformers model is in {settings.save_to}")


@app.command(name="rank")
def _rank(settings: RankConfig) -> None:
    """Order documents by how a model of text pairs scores each one with a query."""
    check_reachable(settings.model)
    from ..inference.rank import rank

    number = rank(**vars(settings))
    if settings.out is not None:
        show(f"{number:,} documents are in {settings.out}")
