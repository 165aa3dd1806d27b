"""Folders of runs as rows of one table: what was run, how good it is, what it cost, how it went."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..base.bundled import located
from ..base.errors import UserError, short
from ..base.files import iter_lines
from ..base.json_toml import read_json, read_toml
from ..base.strict_json import json_text
from ..data.formats import jsonl_rows
from ..training.finetuning.series import SWEEP_FILE
from ..training.run.folder import CONFIG_FILE, METRICS_FILE, RUN_FILE

__all__ = ["Curve", "Row", "read_rows"]

# Runs that differ in nothing else share a row.
LOG_FILE = "log.jsonl"
_NOT_COMPARED = {"out", "seed", "seeds", "split-seed", "sweep", "report-to", "keep-checkpoints", "log-every"}
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Row:
    """One run, or several that differ only in the seed; unknown values are None.

    task: what was learned; the runs of one chart share it. score_name: the name of `score`, which is the mean over the
    runs; spread is its standard deviation (of a sample).
    seconds: of training. loss, scores: of the first run, against the step.
    settings: the options in which it differs from other rows of its command.
    """

    name: str
    command: str
    task: str
    model: str
    start: str
    score_name: str
    score: float
    spread: float | None
    num_runs: int
    num_parameters: int | None
    seconds: float | None
    flops: float | None
    memory_bytes: float | None
    loss: Curve
    scores: Curve
    settings: str = ""


@dataclass(frozen=True)
class _Run:
    folder: Path
    command: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    log: list[dict[str, Any]]


def read_rows(folders: Sequence[Path]) -> list[Row]:
    """Rows of the runs in these folders: of `finetune`, its seeds and sweeps, of `distill`, of `pretrain` and of `lra`.

    Raises UserError naming a folder that holds no finished run, or the file and key that cannot be used.
    """
    if not folders:
        raise UserError("no run was given; name the folders of the runs")
    leaves = dict.fromkeys(leaf for folder in folders for leaf in _leaves(Path(folder)))
    groups: dict[str, list[_Run]] = {}
    for run in map(_read, leaves):
        groups.setdefault(_signature(run), []).append(run)
    names = _names([_folder_of(runs) for runs in groups.values()])
    rows = [_row(name, runs) for name, runs in zip(names, groups.values(), strict=True)]
    firsts = [runs[0] for runs in groups.values()]
    return [
        replace(row, settings=_differences(run, [other for other in firsts if other.command == run.command]))
        for row, run in zip(rows, firsts, strict=True)
    ]


def _leaves(folder: Path) -> list[Path]:
    """The folders of single runs: of a sweep those of all points, of several seeds those of each."""
    if (folder / SWEEP_FILE).is_file():
        points = _get(folder / SWEEP_FILE, read_json(folder / SWEEP_FILE), "points", list)
        return [
            leaf
            for point in points
            for leaf in _leaves(folder / str(_get(folder / SWEEP_FILE, point, "name", str)))
        ]
    file = folder / METRICS_FILE
    if not file.is_file():
        if located(folder) != str(folder):
            raise UserError(f"{folder}: is the model that comes with the package, not the folder of a run")
        raise UserError(f"{folder}: no {METRICS_FILE} in it, so it is not a finished run")
    metrics = read_json(file)
    if "runs" in metrics and "seeds" in metrics:
        return [folder / f"seed-{seed}" for seed in _get(file, metrics, "seeds", list)]
    return [folder]


def _read(folder: Path) -> _Run:
    for name in (METRICS_FILE, RUN_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} in it, so it is not a finished run")
    command = read_json(folder / RUN_FILE).get("command")
    if not isinstance(command, str) or command not in _READERS:
        raise UserError(f"{folder / RUN_FILE}: command is {command!r}; known: {', '.join(_READERS)}")
    log_file = folder / LOG_FILE
    has_log = log_file.is_file() and log_file.stat().st_size > 0  # a head that is fitted has no steps to log
    log = [row for _, row in jsonl_rows(iter_lines(log_file), str(log_file))] if has_log else []
    return _Run(folder, command, read_toml(folder / CONFIG_FILE), read_json(folder / METRICS_FILE), log)


def _signature(run: _Run) -> str:
    config = {key: value for key, value in run.config.items() if key not in _NOT_COMPARED}
    data = _table(run.folder / METRICS_FILE, run.metrics, "data")
    hashes = {part: entry.get("rows_sha256") for part, entry in data.items() if isinstance(entry, dict)}
    return json_text([run.command, config, hashes], sort_keys=True, default=str)


def _folder_of(runs: Sequence[_Run]) -> Path:
    """That of several seeds, or of the first run where others were made apart from it."""
    first = runs[0].folder
    return first.parent if len(runs) > 1 and first.name.startswith("seed-") else first


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    resolved = [folder.resolve().parts for folder in folders]
    depth = 1
    while depth < max(map(len, resolved)) and len({parts[-depth:] for parts in resolved}) < len(
        set(resolved)
    ):
        depth += 1
    return ["/".join(parts[-depth:]) for parts in resolved]


def _row(name: str, runs: Sequence[_Run]) -> Row:
    first = runs[0]
    facts = [_READERS[run.command](run) for run in runs]
    score_name = facts[0]["score_name"]
    scores = [
        _number(run.folder / METRICS_FILE, score_name, fact["score"])
        for run, fact in zip(runs, facts, strict=True)
    ]

    def mean(key: str) -> float | None:
        values = [fact[key] for fact in facts]
        known = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        return statistics.fmean(known) if known else None

    parameters = facts[0]["num_parameters"] or _count_parameters(first.folder)
    return Row(
        name=name,
        command=first.command,
        task=facts[0]["task"],
        model=str(first.metrics.get("model", "")),
        start=facts[0]["start"],
        score_name=score_name,
        score=statistics.fmean(scores),
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        num_runs=len(runs),
        num_parameters=parameters,
        seconds=mean("seconds"),
        flops=mean("flops"),
        memory_bytes=mean("memory_bytes"),
        loss=_curve(first.log, "loss"),
        scores=_curve(first.log, facts[0]["score_in_log"]),
    )


def _of_finetune(run: _Run) -> dict[str, Any]:
    metrics, file = run.metrics, run.folder / METRICS_FILE
    cost = _table(file, metrics, "cost")
    names = [key for key in metrics if key.startswith("dev_") and not key.endswith("loss")]
    name = metrics.get("metric") or (names[0] if names else "")
    if not isinstance(name, str) or name not in metrics:
        raise UserError(f"{file}: has no {short(name or 'dev score')}")
    data = _table(file, metrics, "data")
    source = _table(file, data, "train").get("source") or run.config.get("train", "")
    model = str(run.config.get("model", ""))
    return {
        "task": str(metrics.get("task") or Path(str(source)).name),
        "start": model if "/" in model or model != metrics.get("model") else "random",
        "score_name": name,
        "score": metrics[name],
        "score_in_log": f"eval_{name.removeprefix('dev_')}",
        "num_parameters": metrics.get("num_parameters"),
        "seconds": cost.get("train_seconds"),
        "flops": cost.get("train_flops"),
        "memory_bytes": cost.get("peak_memory_bytes"),
    }


def _of_pretrain(run: _Run) -> dict[str, Any]:
    """The loss of held-out text, or of training where nothing is held out."""
    name = "validation_loss" if "validation_loss" in run.metrics else "train_loss"
    memory = [entry["peak_memory_bytes"] for entry in run.log if "peak_memory_bytes" in entry]
    return {
        "task": f"pretraining, {run.config.get('objective', 'mlm')}",
        "start": "random",
        "score_name": name,
        "score": run.metrics.get(name, _last(run.log, name)),
        "score_in_log": "eval_loss",
        "num_parameters": run.metrics.get("num_parameters"),
        "seconds": _seconds(run),
        "flops": None,
        "memory_bytes": max(memory, default=None),
    }


def _of_distill(run: _Run) -> dict[str, Any]:
    """The score that the checkpoint was chosen by, or the last loss where nothing was measured."""
    file = run.folder / METRICS_FILE
    name = next((name for name in ("agreement", "loss") if run.metrics.get(name) is not None), "")
    if not name:
        raise UserError(f"{file}: has neither agreement nor loss: the run ended before either was measured")
    cost = _table(file, run.metrics, "cost")
    return {
        "task": f"distillation of {run.metrics.get('teacher', '')}",
        "start": str(run.config.get("model", "")),
        "score_name": name,
        "score": run.metrics.get(name, _last(run.log, name)),
        "score_in_log": f"eval_{name}",
        "num_parameters": run.metrics.get("num_parameters"),
        "seconds": cost.get("train_seconds"),
        "flops": None,
        "memory_bytes": cost.get("peak_memory_bytes"),
    }


def _of_lra(run: _Run) -> dict[str, Any]:
    return {
        "task": f"lra, {run.metrics.get('task', '')}",
        "start": "random",
        "score_name": "accuracy",
        "score": run.metrics.get("accuracy"),
        "score_in_log": "eval_accuracy",
        "num_parameters": run.metrics.get("num_parameters"),
        "seconds": _seconds(run),
        "flops": None,
        "memory_bytes": run.metrics.get("peak_memory_bytes"),
    }


def _seconds(run: _Run) -> Any:
    """Those of the steps alone; of an older run, which did not count them, those of the whole training."""
    cost = run.metrics.get("cost")
    return cost.get("train_seconds") if isinstance(cost, dict) else _last(run.log, "train_runtime")


_READERS = {"distill": _of_distill, "finetune": _of_finetune, "pretrain": _of_pretrain, "lra": _of_lra}


def _last(log: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((entry[name] for entry in reversed(log) if name in entry), None)


def _curve(log: Sequence[Mapping[str, Any]], name: str) -> Curve:
    points = ((entry.get("step"), entry.get(name)) for entry in log)
    return [
        (float(step), float(value))
        for step, value in points
        if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value)
    ]


def _differences(run: _Run, others: Sequence[_Run]) -> str:
    """The options in which runs differ, as this one has them; the model and the data have columns of their own."""
    options = [_flat(other.config) for other in others]
    own = _flat(run.config)
    keys = sorted(
        {key for config in options for key in config}
        - _NOT_COMPARED
        - {"model", "task", "data", "train", "dev"}
    )
    told = [key for key in keys if len({json_text(config.get(key), default=str) for config in options}) > 1]
    return ", ".join(f"{key}={own[key]}" for key in told if key in own)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    table = config.get("set")
    inner = {f"set.{key}": value for key, value in table.items()} if isinstance(table, dict) else {}
    return {**{key: value for key, value in config.items() if key != "set"}, **inner}


def _count_parameters(folder: Path) -> int | None:
    """From the header of the weights, tied ones once."""
    with (
        contextlib.suppress(OSError, SafetensorError),
        safe_open(folder / "model.safetensors", "np") as weights,
    ):
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return None


def _number(file: Path, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise UserError(f"{file}: {name} is {short(value)}; allowed: a number")
    return float(value)


def _table(file: Path, table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The table of that name in another, empty where there is none."""
    value = table.get(key)
    if not isinstance(value, dict | None):
        raise UserError(f"{file}: {key} is {short(value)}; allowed: a table")
    return value or {}


def _get(file: Path, table: Any, key: str, kind: type) -> Any:
    if not isinstance(table, dict) or not isinstance(table.get(key), kind):
        raise UserError(f"{file}: {key!r} is missing or cannot be read")
    return table[key]
