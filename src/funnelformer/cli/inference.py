"""Commands that use a model: evaluate, predict, embed, rank, serve."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..embed import embed
from ..errors import UserError
from ..inference import Backend
from ..rank import rank as rank_documents
from ..serve.settings import ServeConfig
from ..training.processes import rank
from ..use import evaluate, predict
from .app import Device, app, print_metrics, show


@app.command(name="evaluate")
def _evaluate(
    model: str,
    data: str,
    *,
    task: str | None = None,
    part: str | None = None,
    out: Path | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    skip_bad_rows: bool = False,
    max_length: int | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    backend: Backend = "auto",
) -> None:
    """Score a fine-tuned model on labelled data.

    Parameters
    ----------
    model
        Folder of the model.
    data
        csv, tsv, jsonl, parquet (compressed or not), a folder, or a `datasets` name.
    task
        Task whose official files the data are; of a folder, and of its name on the Hub, by default the one learned.
    part
        Part of these, as dev-matched; by default what has labels and was not trained on. Of other folders and names a
        split; by default test.
    out
        File for the metrics (JSON).
    text
        Column of the text.
    text_pair
        Column of the second text.
    label
        Column of the label.
    skip_bad_rows
        Leave out rows that cannot be used, and count them.
    max_length
        Tokens at which a text is cut; by default as in training.
    batch_size
        Texts a batch.
    device
        auto takes an accelerator when there is one.
    backend
        onnx runs an export in ONNX Runtime; auto does where the folder has one and no weights.
    """
    metrics = evaluate(
        model,
        data,
        task=task,
        part=part,
        out=out,
        text=text,
        text_pair=text_pair,
        label=label,
        skip_bad_rows=skip_bad_rows,
        max_length=max_length,
        batch_size=batch_size,
        device=device,
        backend=backend,
    )
    print_metrics(metrics)


@app.command(name="predict")
def _predict(
    model: str,
    data: str = "-",
    *,
    task: str | None = None,
    part: str | None = None,
    submit: Path | None = None,
    out: Path | None = None,
    format: Literal["jsonl", "csv"] | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    backend: Backend = "auto",
) -> None:
    """Label the texts of a file or of stdin.

    Parameters
    ----------
    model
        Folder of the model.
    data
        txt (one text a line), csv, tsv, jsonl, parquet; "-" is stdin; a folder, or a `datasets` name.
    task
        Task whose official files the data are; of a folder, and of its name on the Hub, by default the one learned.
    part
        Part of these, as dev-matched; by default the first test part. Of other folders and names a split.
    submit
        Zip for the leaderboard of GLUE, to which the predictions for the task's test parts are added; of squad and
        squad2 a folder for predictions.json, nbest_predictions.json and null_odds.json.
    out
        File to write; by default stdout.
    format
        Form of the output; by default that of the file's suffix, else jsonl.
    text
        Column of the text.
    text_pair
        Column of the second text.
    max_length
        Tokens at which a text is cut; by default as in training.
    batch_size
        Texts a batch.
    device
        auto takes an accelerator when there is one.
    backend
        onnx runs an export in ONNX Runtime; auto does where the folder has one and no weights.
    """
    number = predict(
        model,
        data,
        task=task,
        part=part,
        submit_to=submit,
        out=out,
        format=format,
        text=text,
        text_pair=text_pair,
        max_length=max_length,
        batch_size=batch_size,
        device=device,
        backend=backend,
    )
    if rank() == 0 and (submit is not None or out is not None):
        show(f"{number:,} predictions are in {submit or out}")


@app.command(name="serve")
def _serve(
    model: Annotated[str, Parameter(help="Folder of the model.")],
    /,
    *,
    settings: ServeConfig | None = None,
) -> None:
    """Answer HTTP requests with a model: /classify, /embed, /fill, /answer, and a page to try it."""
    try:
        from ..serve.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client"):
            raise
        raise UserError(
            f"serve needs {error.name}, which is not installed: pip install 'funnelformer[serve]'"
        ) from None
    serve(dataclasses.replace(settings or ServeConfig(), model=model))


@app.command(name="embed")
def _embed(
    model: str,
    data: str | None = None,
    *,
    out: Path | None = None,
    text: str | None = None,
    pooling: Literal["mean", "cls"] | None = None,
    normalize: Annotated[bool | None, Parameter(negative="--no-normalize")] = None,
    max_length: int | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    save_sentence_transformers: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the vectors of the texts of a file or of stdin, or a folder for sentence_transformers.

    Parameters
    ----------
    model
        Folder of a model, pretrained or fine-tuned, of any known format; or a name on the Hub.
    data
        txt (one text a line), csv, tsv, jsonl, parquet; "-" is stdin.
    out
        File to write: .npy (the vectors alone), .parquet or .jsonl (with the columns of the input).
    text
        Column of the text.
    pooling
        mean of the encoder's states, or the first of them; by default the mean.
    normalize
        Give every vector the length 1.
    max_length
        Tokens at which a text is cut; by default as in fine-tuning, or 512.
    batch_size
        Texts a batch.
    device
        auto takes an accelerator when there is one.
    backend
        onnx runs an export in ONNX Runtime; auto does where the folder has one and no weights.
    save_sentence_transformers
        Folder to write that SentenceTransformer loads, with this pooling, length and normalisation.
    overwrite
        Replace the files of such a folder that is not empty.
    """
    number = embed(
        model,
        data,
        out=out,
        text=text,
        pooling=pooling,
        normalize=normalize,
        max_length=max_length,
        batch_size=batch_size,
        device=device,
        backend=backend,
        save_to=save_sentence_transformers,
        overwrite=overwrite,
    )
    if out is not None:
        show(f"{number:,} vectors are in {out}")
    if save_sentence_transformers is not None:
        show(f"the sentence_transformers model is in {save_sentence_transformers}")


@app.command(name="rank")
def _rank(
    model: str,
    documents: str = "-",
    *,
    query: str,
    top_k: int | None = None,
    label: str | None = None,
    out: Path | None = None,
    text: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    device: Device = "auto",
) -> None:
    """Order documents by what a model of pairs makes of a query and each of them.

    Parameters
    ----------
    model
        Folder of a model fine-tuned on pairs of texts, with classes or amounts.
    documents
        txt (one a line), csv, tsv, jsonl, parquet; "-" is stdin.
    query
        First text of every pair.
    top_k
        Number of documents to write; by default all.
    label
        Class whose probability is the score; by default the second of two.
    out
        File to write (JSON lines); by default stdout.
    text
        Column of the document.
    max_length
        Tokens at which a pair is cut; by default as in training.
    batch_size
        Pairs a batch.
    device
        auto takes an accelerator when there is one.
    """
    number = rank_documents(
        model,
        query,
        documents,
        top_k=top_k,
        label=label,
        out=out,
        text=text,
        max_length=max_length,
        batch_size=batch_size,
        device=device,
    )
    if out is not None:
        show(f"{number:,} documents are in {out}")
