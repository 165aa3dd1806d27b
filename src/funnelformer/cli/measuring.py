"""Commands that measure and show: bench, lra, report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ..base.errors import printable
from ..bench.config import BenchConfig
from ..lra.config import LraConfig
from .app import app, print_metrics, show

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
    from ..lra.run import run_lra

    print_metrics(run_lra(dataclasses.replace(settings, task=task)), f"the model is in {settings.out}")


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
    from ..lra.readers import write_data

    write_data(task, out, count, length, seed)
    show(f"the data are in {out}")


@lra.command(name="report")
def _lra_report(runs: Annotated[list[Path], Parameter(consume_multiple=True)]) -> None:
    """Print runs beside published figures, as tables in Markdown.

    Parameters
    ----------
    runs
        Folders of runs.
    """
    from ..lra.arena_table import report

    print(printable(report(runs), keep="\n"), end="")


benchmark = App(
    name="bench", help="Measure time and memory beside transformers' models, or compare two such runs."
)
app.command(benchmark)


@benchmark.default
def _bench(*, settings: BenchConfig) -> None:
    """Measure time and memory of models beside transformers', in pairs, and write tables, JSON and a figure."""
    from ..bench.result_tables import tables
    from ..bench.suite import bench

    results = bench(settings)
    print(printable(tables(results), keep="\n"), end="")
    print()
    show(f"the results are in {settings.out}")


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
    from ..bench.comparison import compare

    print(printable(compare(before, after), keep="\n"), end="")


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
    from ..report.page import write_page

    number = write_page(runs, out)
    show(f"{number} row{'s' if number > 1 else ''}; the page is in {out}")
