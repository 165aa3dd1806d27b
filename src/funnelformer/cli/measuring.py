"""Commands that measure and show: bench, lra, report."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from cyclopts import App, Parameter

from ..base.errors import printable
from ..base.options import MOST_USED
from ..bench.config import BenchConfig, CompareConfig
from ..lra.config import GenerateConfig, LraConfig, LraReportConfig
from ..report.config import ReportConfig
from .app import app, print_metrics, show

lra = App(
    name="lra",
    help="Run a task of the Long Range Arena: lra TASK, or one of the commands below.",
    default_parameter=app.default_parameter,
)
app.command(lra)


@lra.default
def _lra(
    task: Annotated[
        str, Parameter(help="listops, text, retrieval, image, pathfinder or path-x.", group=MOST_USED)
    ],
    /,
    *,
    settings: LraConfig,
) -> None:
    """Train a model on a task of the Long Range Arena, and score it on the test part."""
    from ..lra.run import run_lra

    print_metrics(run_lra(dataclasses.replace(settings, task=task)), f"the model is in {settings.out}")


@lra.command(name="generate")
def _lra_generate(settings: GenerateConfig) -> None:
    """Write generated data of a task (listops, pathfinder, path-x) in the form of its release."""
    from ..lra.readers import write_data

    write_data(**vars(settings))
    show(f"the data are in {settings.out}")


@lra.command(name="report")
def _lra_report(settings: LraReportConfig) -> None:
    """Print runs beside published figures, as tables in Markdown."""
    from ..lra.arena_table import report

    print(printable(report(**vars(settings)), keep="\n"), end="")


benchmark = App(
    name="bench",
    help="Measure time and memory beside transformers' models, or compare two such runs.",
    default_parameter=app.default_parameter,
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
def _bench_compare(settings: CompareConfig) -> None:
    """Print what changed between two benchmarks, as tables in Markdown."""
    from ..bench.comparison import compare

    print(printable(compare(**vars(settings)), keep="\n"), end="")


@app.command(name="report")
def _report(settings: ReportConfig) -> None:
    """Put runs on one HTML page: a table to sort, quality against cost, training curves."""
    from ..report.page import write_page

    number = write_page(**vars(settings))
    show(f"{number} row{'s' if number > 1 else ''}; the page is in {settings.out}")
