"""One HTML page of several runs, which needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..base.errors import UserError
from ..base.files import atomic_writer
from ..base.options import takes
from ..base.progress import duration
from .charts import cost_charts, curve_charts, flops_unit
from .config import ReportConfig
from .runs import Row, read_rows

__all__ = ["render", "write_page"]


@takes(ReportConfig)
def write_page(config: ReportConfig) -> int:
    """Write a page of the runs in these folders; return the number of its rows.

    Raises UserError for a folder that holds no finished run, and for an `out` that is no .html file.
    """
    out = config.out
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"--out {out}; allowed: a file name that ends in .html")
    rows = read_rows(config.runs)
    text = render(rows)
    with atomic_writer(out) as file:
        file.write(text)
    return len(rows)


@dataclass(frozen=True)
class _Cell:
    """The text of a cell, and the value it is sorted by; empty values come last."""

    text: str
    value: str
    is_number: bool


@dataclass(frozen=True)
class _Section:
    """Runs of one task by one score, and their charts."""

    title: str
    charts: list[tuple[str, list[Markup]]]


_COLUMNS = (
    "#",
    "run",
    "task",
    "model",
    "started from",
    "settings",
    "parameters",
    "score",
    "mean ± sd",
    "seeds",
    "training time",
    "training FLOPs",
    "peak memory",
)
# Shown also where all rows have the same.
_ALWAYS = ("#", "run", "mean ± sd")


def render(rows: Sequence[Row]) -> str:
    """The page. All text of runs is escaped, and no script but the page's own may run."""
    source = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    script = files(__package__).joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    table = [_cells(number, row) for number, row in enumerate(rows, start=1)]
    numeric = [any(line[column].is_number for line in table) for column in range(len(_COLUMNS))]
    values = [{line[column].text for line in table} for column in range(len(_COLUMNS))]
    hidden = [
        name not in _ALWAYS and (len(found) == 1 or found == {""})
        for name, found in zip(_COLUMNS, values, strict=True)
    ]
    same = [
        (name, next(iter(found)))
        for name, found, is_hidden in zip(_COLUMNS, values, hidden, strict=True)
        if is_hidden and found != {""}
    ]
    return environment.from_string(source).render(
        columns=list(zip(_COLUMNS, numeric, hidden, strict=True)),
        same=same,
        table=table,
        sections=_sections(rows),
        script=Markup(script),
        script_hash=digest,
    )


def _cells(number: int, row: Row) -> list[_Cell]:
    spread = "" if row.spread is None else f" ± {row.spread:.4f}"
    return [
        _number(number, str(number)),
        _text(row.name),
        _text(row.task),
        _text(row.model),
        _text(row.start),
        _text(row.settings),
        _number(row.num_parameters, f"{row.num_parameters or 0:,}"),
        _text(row.score_name),
        _number(row.score, f"{row.score:.4f}{spread}"),
        _number(row.num_runs, str(row.num_runs)),
        _number(row.seconds, _time(row.seconds or 0)),
        _number(row.flops, _flops(row.flops or 0)),
        _number(row.memory_bytes, f"{(row.memory_bytes or 0) / 2**20:,.0f} MiB"),
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _flops(value: float) -> str:
    unit, name = flops_unit([value])
    return f"{value / unit:.3g} {name}"


def _text(value: str) -> _Cell:
    return _Cell(value, value.lower(), False)


def _number(value: float | None, text: str) -> _Cell:
    if value is None:
        return _Cell("", "", True)
    return _Cell(text, repr(value) if math.isfinite(value) else "", True)


def _sections(rows: Sequence[Row]) -> list[_Section]:
    groups: dict[tuple[str, str], list[tuple[int, Row]]] = {}
    for number, row in enumerate(rows, start=1):
        groups.setdefault((row.task, row.score_name), []).append((number, row))
    sections = []
    for (task, score), members in groups.items():
        drawn = {"Quality against cost": cost_charts(members), "Training curves": curve_charts(members)}
        charts = [(title, [Markup(chart) for chart in found]) for title, found in drawn.items() if found]
        sections.append(_Section(f"{task}: {score}", charts))
    return sections
