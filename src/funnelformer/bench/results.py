"""The results of a benchmark: what its JSON file holds, and how it is read back."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..base.errors import UserError
from ..base.files import atomic_writer
from ..base.json_toml import read_json
from ..base.strict_json import dump_json
from .measure import Case

__all__ = [
    "Failure",
    "Memory",
    "Results",
    "Side",
    "Spread",
    "Timing",
    "read_results",
    "spread",
    "write_results",
]

FORMAT = "funnelformer bench 1"
NOT_RECORDED = "not recorded"  # of results that were written before commands were


@dataclass(frozen=True)
class Spread:
    """Quartiles."""

    median: float
    q25: float
    q75: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated between two values; all are that value if there is only one."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    q25, median, q75 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q25, q75)


@dataclass(frozen=True)
class Side:
    """One model of a pair.

    seconds: of each call, in order. flops: of one call, of the models that are ours; else None.
    """

    model: str
    implementation: str
    parameters: int
    seconds: list[float]
    flops: int | None

    @property
    def milliseconds(self) -> Spread:
        return spread([1000 * value for value in self.seconds])


@dataclass(frozen=True)
class Timing:
    """Two models timed in turn."""

    case: Case
    ours: Side
    peer: Side

    @property
    def ratio(self) -> Spread:
        """Our time over the peer's, pair by pair."""
        return spread([a / b for a, b in zip(self.ours.seconds, self.peer.seconds, strict=True)])

    @property
    def key(self) -> tuple[Any, ...]:
        """The key under which two files are compared."""
        ours, peer = self.ours, self.peer
        return (self.case, ours.model, ours.implementation, peer.model, peer.implementation)


@dataclass(frozen=True)
class Memory:
    """Bytes of one model: its weights, and the peak of calls beyond the loaded model."""

    case: Case
    model: str
    implementation: str
    weight_bytes: int
    peak_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.peak_bytes

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.case, self.model, self.implementation)


@dataclass(frozen=True)
class Failure:
    """What could not be measured, and why."""

    case: Case
    models: list[str]
    reason: str


@dataclass
class Results:
    """One run of `funnelformer bench`.

    settings: its options. command: what repeats it, without the user's folder.
    machine, versions: of `funnelformer.base.machine`. load_average: before and after.
    peaks: FLOP/s of matrix products by dtype, measured or published, as `device_peak` says.
    is_complete: False while it runs, and for ever if it was interrupted.
    """

    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, Any]
    load_average: list[float | None]
    peaks: dict[str, float] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    is_complete: bool = False
    command: str = NOT_RECORDED


def write_results(results: Results, file: Path) -> None:
    """Write the JSON file: the fields of `Results`, and for readers the quartiles beside the samples."""
    values = {"format": FORMAT, **asdict(results)}
    for row, timing in zip(values["timings"], results.timings, strict=True):
        row["ratio"] = asdict(timing.ratio)
        for name, side in (("ours", timing.ours), ("peer", timing.peer)):
            row[name]["milliseconds"] = asdict(side.milliseconds)
            row[name]["tokens_per_second"] = timing.case.num_tokens * 1000 / side.milliseconds.median
    with atomic_writer(file) as stream:
        dump_json(values, stream)
        stream.write("\n")


def read_results(file: Path) -> Results:
    """Read what `write_results` wrote. Raises UserError naming the file, and the key that is wrong."""
    values = read_json(file)
    if values.get("format") != FORMAT:
        raise UserError(
            f"{file}: format is {values.get('format')!r}, not {FORMAT!r}; did `funnelformer bench` write it?"
        )
    values.setdefault("command", NOT_RECORDED)
    results: Results = _parse(Results, values, str(file))
    for index, timing in enumerate(results.timings):
        samples = timing.ours.seconds, timing.peer.seconds
        if not samples[0] or len(samples[0]) != len(samples[1]) or min(map(min, samples)) <= 0:
            raise UserError(
                f"{file}: timings[{index}]: the seconds of ours and of the peer are not pairs of times"
            )
    return results


def _parse(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`: a dataclass of this file, a list of one, or plain. Keys that are derived are left out."""
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise UserError(f"{where} is {value!r}; allowed: a list")
        (inner,) = get_args(kind)
        return [_parse(inner, entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if not (isinstance(kind, type) and is_dataclass(kind)):
        if not _is_a(kind, value):
            raise UserError(f"{where} is {value!r}, which is not {getattr(kind, '__name__', None) or kind}")
        return value
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}; allowed: a table")
    hints, parsed = get_type_hints(kind), {}
    dot = ": " if kind is Results else "."
    for entry in fields(kind):
        if entry.name not in value:
            raise UserError(f"{where}{dot}{entry.name} is missing")
        parsed[entry.name] = _parse(hints[entry.name], value[entry.name], f"{where}{dot}{entry.name}")
    return kind(**parsed)


def _is_a(kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_is_a(one, value) for one in get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, get_origin(kind) or kind)
