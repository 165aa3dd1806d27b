"""The command line: parse, call the plain function, print."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import cyclopts
import datasets
import transformers
from cyclopts import App, Parameter
from rich.console import Console

from .bench.compare import compare
from .bench.report import tables
from .bench.suite import BenchConfig, bench
from .checkpoints import convert
from .data.files import iter_lines
from .data.prepare import PrepareConfig, prepare
from .data.tokenizer import load_tokenizer, train_tokenizer
from .embed import embed
from .errors import UserError, joined, reject_unknown
from .export.command import export
from .export.int8 import Mode
from .inference import Backend
from .info import describe, render
from .lra.readers import write_data
from .lra.report import report
from .lra.run import LraConfig, run_lra
from .rank import rank as rank_documents
from .report.page import write_page
from .serve.settings import ServeConfig
from .training.finetune import FinetuneConfig, finetune
from .training.pretrain import PretrainConfig, pretrain
from .training.processes import rank
from .training.run import parse_options
from .use import evaluate, predict

__all__ = ["app", "main"]

app = App(
    name="funnelformer",
    help="Text encoders that shorten the sequence as they deepen.",
    default_parameter=Parameter(negative=""),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main says what is left of the run
)
app.meta.suppress_keyboard_interrupt = False
app.meta.group_parameters = cyclopts.Group("Common", sort_key=0)
app.register_install_completion_command(help="Let the shell (bash, zsh, fish) complete commands and options.")

Files = Annotated[list[str], Parameter(consume_multiple=True)]
Device = Literal["auto", "cpu"]


@app.command(name="prepare")
def _prepare(settings: PrepareConfig) -> None:
    """Tokenise text into files to pretrain from, once, in parallel; run again to go on."""
    _print_metrics(prepare(settings), f"the data are in {settings.out}")


@app.command(name="pretrain")
def _pretrain(settings: PretrainConfig) -> None:
    """Pretrain a model on text or prepared data; torchrun -m funnelformer pretrain trains on several devices."""
    _print_metrics(pretrain(settings), f"the model is in {settings.out}")


@app.command(name="finetune")
def _finetune(settings: FinetuneConfig) -> None:
    """Fine-tune a model: on a --task of the papers, or on a table of texts with classes, labels or amounts."""
    metrics = finetune(settings)
    what = "runs are" if "seeds" in metrics and "best_run" not in metrics else "model is"
    _print_metrics(metrics, f"the {what} in {settings.out / metrics.get('best_run', '')}")


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
    print(f"{len(load_tokenizer(out)):,} entries; the tokenizer is in {out}")


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
        Task whose official files the data are; of a folder by default the task the model learned.
    part
        Part of these, as dev-matched; by default what has labels and was not trained on.
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
    _print_metrics(metrics)


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
        txt (one text a line), csv, tsv, jsonl, parquet; "-" is stdin. With --task the folder of its files.
    task
        Task whose official files the data are; of a folder by default the task the model learned.
    part
        Part of these, as dev-matched; by default the first test part.
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
        print(f"{number:,} predictions are in {submit or out}")


@app.command(name="serve")
def _serve(
    model: Annotated[str, Parameter(help="Folder of the model.")],
    /,
    *,
    settings: ServeConfig | None = None,
) -> None:
    """Answer HTTP requests with a model: /classify, /embed, /fill, /answer, and a page to try it."""
    try:
        from .serve.server import serve
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
        print(f"{number:,} vectors are in {out}")
    if save_sentence_transformers is not None:
        print(f"the sentence_transformers model is in {save_sentence_transformers}")


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
        print(f"{number:,} documents are in {out}")


@app.command(name="convert")
def _convert(
    source: str,
    target: Path,
    *,
    to: Literal["funnelformer", "transformers", "original-torch", "original-tf"] = "funnelformer",
    set: dict[str, str] | None = None,
    verify: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Convert a checkpoint: transformers' Funnel, the original PyTorch and TensorFlow releases, PoNet, our own.

    Parameters
    ----------
    source
        Folder of the model, a release's .tar.gz or its https:// URL, or a name on the Hub; its form is detected.
    target
        Folder to write.
    to
        Form to write.
    set
        Config keys to change on the way, as --set.padding=exact.
    verify
        Compare with the source's own outputs: "transformers" runs that library, a .npz has recorded cases.
    dry_run
        Check everything, print the table of the tensors and what would be left out, and write nothing.
    overwrite
        Replace the files of a folder that is not empty.
    """
    report = convert(
        source,
        target,
        to=to,
        overwrite=overwrite,
        dry_run=dry_run,
        overrides=parse_options(set or {}),
        verify=verify,
    )
    print(
        f"{report.source} ({report.source_format}, {report.architecture}): {report.num_tensors} tensors used"
    )
    for name, reason in report.ignored.items():
        print(f"left out: {name} ({reason})")
    if report.difference is None:
        for row in report.table:
            print(f"{row.source} -> {row.target or row.ours} {list(row.shape)}")
        print("dry run: nothing was written")
        return
    print(f"largest difference of the outputs on a probe batch: {report.difference:.1e}")
    for name, value in report.verified.items():
        print(f"{name}: {value:.1e} from {verify}")
    print(f"tokenizer: {', '.join(report.tokenizer) or 'none found'}")
    print(f"the {report.target_format} model is in {report.target}")


@app.command(name="export")
def _export(
    model: str,
    out: Path,
    *,
    format: Literal["onnx"] = "onnx",
    task: str | None = None,
    int8: Mode | None = None,
    calibration: str | None = None,
    opset: int = 20,
    check_to: int = 1025,
    overwrite: bool = False,
) -> None:
    """Export a model as an ONNX graph for batches of any size and length, checked against PyTorch.

    Parameters
    ----------
    model
        Folder of the model, or a name on the Hub.
    out
        Folder to write.
    format
        Form of the graph.
    task
        What the graph gives: text-classification, token-classification, fill-mask, multiple-choice,
        question-answering, token-detection, feature-extraction, embeddings; by default what the model was made for.
    int8
        Weights as int8: dynamic, or static with ranges from --calibration.
    calibration
        File of texts, with labels or without: what costs too much on them stays in float32.
    opset
        Version of ONNX's operators.
    check_to
        Longest input, in tokens, on which PyTorch and ONNX Runtime are compared.
    overwrite
        Replace the files of a folder that is not empty.
    """
    report = export(
        model,
        out,
        format=format,
        task=task,
        int8=int8,
        calibration=calibration,
        opset=opset,
        check_to=check_to,
        overwrite=overwrite,
    )
    size = report["int8"]["bytes"] if int8 is not None else report["bytes"]
    print(f"{size / 2**20:,.1f} MiB; the graph for {report['task']} is in {out}")


@app.command(name="info")
def _info(
    model: str,
    *,
    lengths: Annotated[list[int], Parameter(consume_multiple=True)] | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Print a model's parameters, operations a token and memory, by part.

    Parameters
    ----------
    model
        Layout or preset (B4-4-4H768, L12H768, funnel-small), or a model's folder.
    lengths
        Tokens of the sequences to count for; by default 128, 512 and 2048.
    json_output
        Print JSON.
    """
    info = describe(model, lengths) if lengths else describe(model)
    if json_output:
        print(json.dumps(info.to_dict(), indent=2))
    else:
        Console().print(render(info))


@app.command(name="report")
def _report(runs: Annotated[list[Path], Parameter(consume_multiple=True)], *, out: Path) -> None:
    """Put runs on one HTML page: a table to sort, quality against cost, training curves.

    Parameters
    ----------
    runs
        Folders of runs of finetune (also with seeds or a sweep), pretrain and lra.
    out
        HTML file to write; it needs no other file and no network.
    """
    number = write_page(runs, out)
    print(f"{number} row{'s' if number > 1 else ''}; the page is in {out}")


lra = App(name="lra", help="Run a task of the Long Range Arena: lra TASK, or one of the commands below.")
app.command(lra)


@lra.default
def _lra(
    task: Annotated[str, Parameter(help="listops, text, retrieval, image, pathfinder or path-x.")],
    /,
    *,
    settings: LraConfig,
) -> None:
    """Train a model on a task of the Long Range Arena, and score it on the test part."""
    _print_metrics(run_lra(dataclasses.replace(settings, task=task)), f"the model is in {settings.out}")


@lra.command(name="generate")
def _lra_generate(
    task: str,
    *,
    out: Path,
    count: Annotated[list[int], Parameter(consume_multiple=True)],
    length: int | None = None,
    seed: int = 0,
) -> None:
    """Write generated data of a task (listops, pathfinder, path-x) in the form of its release.

    Parameters
    ----------
    task
        listops, pathfinder or path-x.
    out
        Folder to write.
    count
        listops: samples to train, validate and test on, or those to train on; else the number of images.
    length
        listops: tokens of the longest expressions; else pixels of an image.
    seed
        Seed; the same one gives the same data.
    """
    write_data(task, out, count, length, seed)
    print(f"the data are in {out}")


@lra.command(name="report")
def _lra_report(runs: Annotated[list[Path], Parameter(consume_multiple=True)]) -> None:
    """Print runs beside published figures, as tables in Markdown.

    Parameters
    ----------
    runs
        Folders of runs.
    """
    print(report(runs), end="")


benchmark = App(
    name="bench", help="Measure time and memory beside transformers' models, or compare two such runs."
)
app.command(benchmark)


@benchmark.default
def _bench(*, settings: BenchConfig) -> None:
    """Measure time and memory of models beside transformers', in pairs, and write tables, JSON and a figure."""
    results = bench(settings)
    print(tables(results), end="")
    print(f"\nthe results are in {settings.out}")


@benchmark.command(name="compare")
def _bench_compare(before: Path, after: Path) -> None:
    """Print what changed between two benchmarks, as tables in Markdown.

    Parameters
    ----------
    before
        results.json of the first, or its folder.
    after
        results.json of the second, or its folder.
    """
    print(compare(before, after), end="")


@app.meta.default
def _meta(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
) -> Any:
    """Read options from a TOML file first.

    Parameters
    ----------
    config
        TOML file with options of the command; flags on the command line win.
    """
    # As an argument of its own "-" is stdin, the default of `predict`; cyclopts takes it for an option.
    tokens = tuple(token for i, token in enumerate(tokens) if token != "-" or tokens[i - 1].startswith("--"))
    app.config = ()
    if config is not None and tokens:
        # Commands below it, as those of lra and bench.
        inner = set(app[tokens[0]]) if tokens[0] in app else set()
        if len(tokens) > 1 and tokens[1] in inner and not tokens[1].startswith("-"):
            raise UserError(f"--config {config}: {tokens[0]} {tokens[1]} takes no file of options")
        options, settings = _options_from(config, tokens[0])
        # Under the command's name: at the top level cyclopts drops keys that are commands, as `tokenizer` is.
        app.config = (cyclopts.config.Dict({tokens[0]: options}, source=str(config)),)
        # As flags: of a table cyclopts would drop every key as soon as the command line sets one.
        given = {token.partition("=")[0] for token in tokens}
        tokens += tuple(f"--set.{k}={v}" for k, v in settings.items() if f"--set.{k}" not in given)
        # A key that is a command as well (`generate` of lra) would be dropped below the top level too.
        tokens += tuple(f"--{k}={v}" for k, v in options.items() if k in inner and f"--{k}" not in given)
    return app(tokens, exit_on_error=False, print_error=False)


def _options_from(file: Path, command: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The options in a TOML file, checked against those of the command, and apart from them its table `set`."""
    settings: dict[str, str] = {}
    try:
        options = tomllib.loads("\n".join(line for _, line in iter_lines(file)))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: not valid TOML ({error})") from None
    if command in app:
        arguments = app[command].assemble_argument_collection()
        known = {argument.name.removeprefix("--"): argument.hint for argument in arguments}
        for key, value in list(options.items()):
            name = key.replace("_", "-")
            reject_unknown([name], known, str(file))
            if int in (known[name], *get_args(known[name])) and isinstance(
                value, float
            ):  # cyclopts would round it
                raise UserError(f"{file}: {key} is {value}; allowed: a whole number")
            if name == "set" and isinstance(value, dict):  # text, as on the command line
                settings = {
                    k: v if isinstance(v, str) else json.dumps(v) for k, v in options.pop(key).items()
                }
    return options, settings


def _print_metrics(metrics: dict[str, Any], last_line: str | None = None) -> None:
    if rank() > 0:
        return
    for key, value in metrics.items():
        if isinstance(value, dict):  # for programs
            continue
        print(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")
    if last_line:
        print(last_line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 2 and one line for input that cannot be used, 130 when interrupted."""
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
    except (UserError, cyclopts.CycloptsError) as error:
        sys.exit(_fail(joined(error)))
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout left, as `head` does; Python must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk, a folder without permission; without a file's name it is more likely our mistake.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        sys.exit(_fail(f"{error.filename or 'output'}: {error.strerror}"))


def _fail(message: str) -> int:
    process = f" (process {rank()})" if rank() else ""
    print(f"error{process}: {message}", file=sys.stderr)
    return 2
