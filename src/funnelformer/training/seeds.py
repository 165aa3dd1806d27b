"""The same fine-tuning with several seeds: a folder of runs, and one table of their means."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..data.files import atomic_writer
from ..version import stamped
from .run import check_run, open_run

if TYPE_CHECKING:
    from .finetune import FinetuneConfig

__all__ = ["over_seeds", "summary"]


def over_seeds(config: FinetuneConfig, run: Callable[[FinetuneConfig], dict[str, Any]]) -> dict[str, Any]:
    """Run with `config.seeds` seeds, from `config.seed` on, each in a folder of its own; return means and deviations.

    The part that selects the checkpoint is the same in all. With `resume` or `auto_resume` each run goes on where it
    was; finished ones are only scored again.
    """
    goes_on = config.resume or config.auto_resume
    if goes_on and config.out.is_dir():
        check_run(dataclasses.replace(config, resume=False, auto_resume=True))
    else:
        open_run(dataclasses.replace(config, resume=False, auto_resume=False), "finetune")
    split_seed = config.seed if config.split_seed is None else config.split_seed
    runs = []
    for seed in range(config.seed, config.seed + config.seeds):
        print(f"seed {seed}")
        own = dataclasses.replace(
            config,
            seed=seed,
            seeds=1,
            split_seed=split_seed,
            out=config.out / f"seed-{seed}",
            resume=False,
            auto_resume=goes_on,
            overwrite=False,
        )
        runs.append({"seed": seed, **run(own)})
    metrics = summary(runs)
    with atomic_writer(config.out / "metrics.json") as file:
        json.dump(stamped({**metrics, "runs": runs}), file, indent=2)
    Console().print(_table(runs, metrics))
    return metrics


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the runs have in common, their seeds, and the mean and standard deviation (of a sample) of each score."""
    common = {key: runs[0][key] for key in ("model", "task", "kind") if key in runs[0]}
    metrics: dict[str, Any] = {**common, "seeds": [run["seed"] for run in runs]}
    for name in _score_names(runs):
        values = [run[name] for run in runs]
        metrics[name] = statistics.fmean(values)
        metrics[f"{name}_sd"] = statistics.stdev(values)
    return metrics


def _score_names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name, value in runs[0].items() if isinstance(value, float)]


def _table(runs: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> Table:
    table = Table("score", "mean ± sd", *(f"seed {run['seed']}" for run in runs))
    for name in _score_names(runs):
        mean = f"{metrics[name]:.4f} ± {metrics[f'{name}_sd']:.4f}"
        table.add_row(name, mean, *(f"{run[name]:.4f}" for run in runs))
    return table
