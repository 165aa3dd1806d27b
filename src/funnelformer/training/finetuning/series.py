"""Runs that belong together: the same fine-tuning with several seeds, and at the points of a grid.

Each run has a folder inside that of the series. It is finished if its metrics.json is there, and is then not repeated.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Column, Table

from ...base.files import atomic_writer
from ...base.json_toml import read_json
from ...base.processes import first, rank, say
from ...base.strict_json import dump_json
from ...base.terminal import cell, plain_console
from ...base.version import stamped
from ..run.folder import CONFIG_FILE, METRICS_FILE, check_run, open_run
from .sweep import Point, grid

if TYPE_CHECKING:
    from .config import FinetuneConfig

__all__ = ["SWEEP_FILE", "run_all", "summary"]

SWEEP_FILE = "sweep.json"
Run = Callable[["FinetuneConfig"], dict[str, Any]]


def run_all(config: FinetuneConfig, run: Run, check: Callable[[FinetuneConfig], object]) -> dict[str, Any]:
    """Make the run that `config` asks for, or one for each seed, or its grid; return the metrics.

    check: raises UserError for a config that cannot be run; it is called before anything is written or deleted.
    """
    if config.sweep:
        return _over_grid(config, run, check)
    return _over_seeds(config, run, check, shows=True) if config.seeds > 1 else run(config)


def _over_seeds(
    config: FinetuneConfig, run: Run, check: Callable[[FinetuneConfig], object], shows: bool
) -> dict[str, Any]:
    """Run with `config.seeds` seeds, counted from `config.seed`; return means and standard deviations.

    All runs have the same dev part.
    """
    seeds = range(config.seed, config.seed + config.seeds)
    split_seed = config.seed if config.split_seed is None else config.split_seed
    members = {
        f"seed-{seed}": dataclasses.replace(config, seed=seed, seeds=1, split_seed=split_seed)
        for seed in seeds
    }
    found = _run_members(config, members, run, lambda: check(members[f"seed-{config.seed}"]))
    runs = [{"seed": seed, **metrics} for seed, metrics in zip(seeds, found, strict=True)]
    metrics = summary(runs)
    _write(config.out / METRICS_FILE, {**metrics, "runs": runs})
    if shows:
        _show(_seeds_table(runs, metrics))
    return metrics


def _over_grid(config: FinetuneConfig, run: Run, check: Callable[[FinetuneConfig], object]) -> dict[str, Any]:
    """Run every point, and return the metrics of the one with the best dev score."""
    points = grid(config)
    if config.split_seed is None:  # one dev part for all
        points = [
            dataclasses.replace(p, config=dataclasses.replace(p.config, split_seed=config.seed))
            for p in points
        ]
    needs_look = points[0].options.keys() - _NO_LOOK
    say(f"sweep: {len(points)} points, {len(points) * config.seeds} runs")

    def run_point(own: FinetuneConfig) -> dict[str, Any]:
        return _over_seeds(own, run, lambda _: None, shows=False) if own.seeds > 1 else run(own)

    def check_points() -> None:
        for point in points if needs_look else points[:1]:
            check(point.config)

    found = _run_members(config, {point.name: point.config for point in points}, run_point, check_points)
    name = found[0]["metric"]
    best = max(range(len(points)), key=lambda number: _comparable(found[number][name]))
    best_run = Path(points[best].name)
    if config.seeds > 1:
        runs = read_json(config.out / best_run / METRICS_FILE)["runs"]
        best_run /= f"seed-{max(runs, key=lambda entry: _comparable(entry[name]))['seed']}"
    entries = [
        {"name": point.name, "options": point.options, "metrics": metrics}
        for point, metrics in zip(points, found, strict=True)
    ]
    result = {"metric": name, "best": points[best].name, "best_run": str(best_run), "points": entries}
    _write(config.out / SWEEP_FILE, result)
    _show(_grid_table(points, found, name, best))
    return {**found[best], "points": len(points), "best": points[best].name, "best_run": str(best_run)}


# Numbers that can be checked with the config alone; other options need the model and the data.
_NO_LOOK = {
    *("learning-rate", "batch-size", "gradient-accumulation", "weight-decay", "warmup", "schedule", "clip"),
    *("epochs", "steps", "evaluate-every", "early-stopping", "layer-decay", "precision", "group-by-length"),
    *("temperature", "teacher-weight"),
}


def _run_members(
    config: FinetuneConfig, members: Mapping[str, FinetuneConfig], run: Run, check: Callable[[], object]
) -> list[dict[str, Any]]:
    """Make one run after another, each in its folder inside that of `config`; a run that was begun is continued.

    check: called before the folder is made.
    """
    goes_on = config.resume or config.auto_resume

    def is_begun() -> bool:
        begun = goes_on and (config.out / CONFIG_FILE).is_file()
        check_run(dataclasses.replace(config, resume=False, auto_resume=begun))
        return begun

    if not first(is_begun):
        check()
        first(lambda: open_run(dataclasses.replace(config, resume=False, auto_resume=False), "finetune"))
    found = []
    for number, (name, member) in enumerate(members.items(), start=1):
        say(f"{name} ({number} of {len(members)})")
        own: dict[str, Any] = {
            "out": config.out / name,
            "resume": False,
            "auto_resume": goes_on,
            "overwrite": False,
        }
        found.append(run(dataclasses.replace(member, **own)))
    return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all runs share, their seeds, the mean and the sample standard deviation of each score, and the
    mean of each number of their cost."""
    common = {
        key: runs[0][key]
        for key in ("model", "task", "kind", "teacher", "metric", "num_parameters")
        if key in runs[0]
    }
    metrics: dict[str, Any] = {**common, "seeds": [run["seed"] for run in runs]}
    for name in _score_names(runs):
        values = [run[name] for run in runs]
        metrics[name] = statistics.fmean(values)
        metrics[f"{name}_sd"] = float(np.std(values, ddof=1))  # NaN if a value is NaN
    if "cost" in runs[0]:
        numbers = [name for name, value in runs[0]["cost"].items() if isinstance(value, int | float)]
        metrics["cost"] = {name: statistics.fmean(run["cost"][name] for run in runs) for name in numbers}
    return metrics


def _comparable(score: float | None) -> float:
    """A score to compare by: metrics.json has null for one that is not defined."""
    return -math.inf if score is None or math.isnan(score) else score


def _score_names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name, value in runs[0].items() if isinstance(value, float)]


def _seeds_table(runs: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> Table:
    table = Table("score", "mean ± sd", *(f"seed {run['seed']}" for run in runs))
    for name in _score_names(runs):
        table.add_row(name, _mean(metrics, name), *(f"{run[name]:.4f}" for run in runs))
    return table


def _grid_table(points: Sequence[Point], found: Sequence[Mapping[str, Any]], metric: str, best: int) -> Table:
    """A table with a row for each point and a column for each score; the point with the best dev score is marked."""
    scores = [name for name in _score_names(found) if not name.endswith("_sd")]
    scores = [metric, *(name for name in scores if name != metric)]
    table = Table(*(Column(cell(name)) for name in [*points[0].options, *scores]), "seconds", "")
    for number, (point, metrics) in enumerate(zip(points, found, strict=True)):
        cells: Iterable[str] = (_mean(metrics, name) for name in scores)
        seconds = f"{metrics['cost']['train_seconds']:.1f}"
        table.add_row(*map(cell, point.options.values()), *cells, seconds, "best" if number == best else "")
    return table


def _mean(metrics: Mapping[str, Any], name: str) -> str:
    spread = f" ± {metrics[f'{name}_sd']:.4f}" if f"{name}_sd" in metrics else ""
    return f"{metrics[name]:.4f}{spread}"


def _show(table: Table) -> None:
    if rank() == 0:
        console = plain_console()
        # In a file, the table need not fit the width of a screen.
        (console if console.is_terminal else plain_console(width=200)).print(table)


def _write(file: Path, value: Any) -> None:
    def write() -> None:
        with atomic_writer(file) as stream:
            dump_json(stamped(value), stream, default=str)

    first(write)
