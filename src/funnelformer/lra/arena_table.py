"""A table of runs on the Long Range Arena beside published figures."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.json_toml import read_json
from ..base.markdown import markdown_table
from ..base.options import takes
from ..base.strict_json import json_text
from .arena_tasks import TASKS, Task
from .config import LraReportConfig

__all__ = ["PUBLISHED", "Published", "report"]

_FIVE = ("listops", "text", "retrieval", "image", "pathfinder")
_MEASURED_KEYS = ("steps_per_s", "examples_per_s", "peak_memory_bytes")
_KEYS = ("task", "model", "accuracy", "steps", "settings", "num_parameters", *_MEASURED_KEYS)


@dataclass(frozen=True)
class Published:
    """A published row: accuracy in percent by task, as printed; average over the five tasks."""

    model: str
    source: str
    scores: dict[str, str]
    average: str


def _row(model: str, source: str, scores: str, average: str) -> Published:
    return Published(model, source, dict(zip(_FIVE, scores.split(), strict=False)), average)


_PONET = "Tan et al. 2022 (arXiv:2110.02442)"
_ARENA = "Tay et al. 2021 (arXiv:2011.04006)"
# Rows of one source were run by one program; those of two sources differ in more than the model.
PUBLISHED = (
    _row("Transformer", _ARENA, "36.37 64.27 57.46 42.44 71.40", "54.39"),
    _row("BigBird", _ARENA, "", "55.01"),
    _row("Transformer", _PONET, "37.10 65.02 79.35 38.20 74.16", "58.77"),
    _row("Performer", _PONET, "", "53.63"),
    _row("Linformer", _PONET, "", "55.59"),
    _row("Nyströmformer", _PONET, "37.15 65.52 79.56 41.58 70.94", "58.95"),
    _row("FNet", _PONET, "37.40 62.52 76.94 35.55 fail", "53.10"),
    _row("PoNet", _PONET, "37.80 69.82 80.35 46.88 70.39", "61.05"),
    _row("S4", "Gu et al. 2022 (arXiv:2111.00396)", "", "above 86"),
)


@takes(LraReportConfig)
def report(config: LraReportConfig) -> str:
    """Markdown tables of the runs in these folders: accuracy beside published figures, then speed and memory.

    Runs that differ in nothing but the seed share a cell, with mean and standard deviation. An average needs all
    five tasks. A star marks a run that did not follow the recipe on the release's data; what differs stands below.
    Raises UserError naming a folder without metrics.json, or the key that it lacks.
    """
    if not config.runs:
        raise UserError("no run was given; name the folders of the runs")
    results = [_read(run) for run in config.runs]
    names = [*_FIVE, *(["path-x"] if any(result["task"] == "path-x" for result in results) else [])]
    quality = [
        [row.model, *(row.scores.get(name, "") for name in names), row.average, row.source]
        for row in PUBLISHED
    ]
    rows, notes = _own_rows(results)
    for model, cells in rows:
        quality.append([model, *(_cell(cells.get(name)) for name in names), _average(cells), "this run"])
    titles = ["model", *(TASKS[name].title for name in names), "average", "source"]
    lines = ["## Accuracy (%)", "", markdown_table(titles, quality)]
    if notes:
        lines += ["", "\\* not comparable with the published figures:", "", *(f"- {note}" for note in notes)]
    titles = ["task", "model", "length", "seed", "accuracy", "steps", "steps/s", "examples/s", "memory, MiB"]
    costs = []
    for result in results:
        memory = result["peak_memory_bytes"]
        numbers = [
            f"{100 * result['accuracy']:.2f}",
            f"{result['steps']:,}",
            _measured(result["steps_per_s"], ".2f"),
            _measured(result["examples_per_s"], ".1f"),
            _measured(
                None if memory is None else memory / 2**20, ",.0f", f" ({result.get('peak_memory_of', '')})"
            ),
            f"{result['num_parameters']:,}",
        ]
        length = f"{result['settings'].get('length', '')}"
        costs.append(
            [TASKS[result["task"]].title, result["model"], length, str(result.get("seed", "")), *numbers]
        )
    lines += ["", "## Speed and memory", "", markdown_table([*titles, "parameters"], costs)]
    return "\n".join(lines) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "metrics.json" if folder.is_dir() else folder
    result = read_json(file)
    for key in _KEYS:
        if key not in result:
            raise UserError(f"{file}: has no {key!r}; is it the folder of a `funnelformer lra` run?")
    if result["task"] not in TASKS:
        raise UserError(f"{file}: the task {result['task']!r} is unknown; known: {', '.join(TASKS)}")
    for key in ("accuracy", "num_parameters", *_MEASURED_KEYS):
        if result[key] is None and key in _MEASURED_KEYS:
            continue
        if isinstance(result[key], bool) or not isinstance(result[key], int | float):
            raise UserError(f"{file}: {key} is {result[key]!r}; allowed: a number")
    if not isinstance(result["settings"], dict):
        raise UserError(f"{file}: settings is {result['settings']!r}; allowed: a table")
    return result


Cells = dict[str, list[dict[str, Any]]]


def _own_rows(results: list[dict[str, Any]]) -> tuple[list[tuple[str, Cells]], list[str]]:
    """A row a model, or several where it ran on one task with several settings; and the notes on the stars."""
    rows: list[tuple[str, Cells]] = []
    notes = []
    for result in results:
        same_model = [cells for model, cells in rows if model == result["model"]]
        for cells in same_model:
            runs = cells.setdefault(result["task"], [])
            if not runs or _signature(runs[0]) == _signature(result):
                runs.append(result)
                break
        else:
            rows.append((result["model"], {result["task"]: [result]}))
        difference = _difference(result)
        if difference:
            note = f"{result['model']}, {TASKS[result['task']].title}: {difference}"
            notes += [note] if note not in notes else []
    return rows, notes


def _signature(result: dict[str, Any]) -> str:
    return json_text(result["settings"], sort_keys=True)


def _difference(result: dict[str, Any]) -> str:
    """The ways in which a run differs from the recipe; empty if there are none."""
    task: Task = TASKS[result["task"]]
    settings = result["settings"]
    recipe = {
        "length": task.length,
        "steps": task.num_steps,
        "examples_a_step": task.batch_size,
        "num_train": task.num_examples[0],
        "num_test": task.num_examples[2],
        "learning_rate": 1e-4,
        "warmup": task.warmup,
        "schedule": "linear",
        "weight_decay": 0.0,
    }
    parts = ["generated data"] if settings.get("generated") else []
    for key, wanted in recipe.items():
        if key in settings and settings[key] != wanted:
            given, usual = (f"{n:,}" if isinstance(n, int) else str(n) for n in (settings[key], wanted))
            parts.append(f"{key.replace('_', ' ')} {given} (recipe: {usual})")
    parts += [f"{key} = {value}" for key, value in (settings.get("set") or {}).items()]
    return ", ".join(parts)


def _mean(runs: list[dict[str, Any]]) -> float:
    return 100 * statistics.fmean(run["accuracy"] for run in runs)


def _cell(runs: list[dict[str, Any]] | None) -> str:
    if not runs:
        return ""
    text = f"{_mean(runs):.2f}"
    if len(runs) > 1:
        spread = 100 * statistics.stdev(run["accuracy"] for run in runs)
        text += f" ± {spread:.2f} ({len(runs)})"
    return text + (" \\*" if _difference(runs[0]) else "")


def _average(cells: Cells) -> str:
    if not all(cells.get(name) for name in _FIVE):
        return ""
    text = f"{statistics.fmean(_mean(cells[name]) for name in _FIVE):.2f}"
    return text + (" \\*" if any(_difference(cells[name][0]) for name in _FIVE) else "")


def _measured(value: float | None, form: str, of: str = "") -> str:
    """Empty where a run had nothing to measure: it was resumed after its last step."""
    return "" if value is None else f"{value:{form}}{of}"
