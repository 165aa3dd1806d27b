"""What `--sweep lr=1e-5,2e-5` means: which options take which values, and the grid of all combinations."""

from __future__ import annotations

import dataclasses
import itertools
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from ...base.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from .config import FinetuneConfig

__all__ = ["Point", "grid"]

_SHORT = {"lr": "learning_rate", "batch": "batch_size"}
_MODEL_OPTION = "set."
# Options that cannot be swept: where a run is, how it is watched, on what data it is measured. Seeds have --seeds.
_NOT_SWEPT = {
    *("out", "resume", "auto_resume", "overwrite", "keep_checkpoints", "log_every", "device"),
    *("sweep", "seeds", "seed", "split_seed", "model_options"),
    *("task", "data", "train", "dev", "dev_fraction", "text", "text_pair", "label"),
    *("regression", "multi_label", "label_separator", "skip_bad_rows", "cache"),
}
_MAX_POINTS = 1000


@dataclass(frozen=True)
class Point:
    """A point of a grid: one run, or one for each seed. name: of its folder. options: flag without dashes -> value."""

    name: str
    options: dict[str, Any]
    config: FinetuneConfig


def grid(config: FinetuneConfig) -> list[Point]:
    """Every combination of the swept values, the last option changing fastest.

    Raises UserError for an option that cannot be swept, and for a value that the option does not allow.
    """
    axes: dict[str, dict[str, Any]] = {}
    for text in config.sweep:
        name, values = _axis(config, text)
        if name in axes:
            raise UserError(f"--sweep {text}: {_flag(name)} is swept twice")
        axes[name] = values
    num_points = 1
    for values in axes.values():
        num_points *= len(values)
    if num_points > _MAX_POINTS:
        raise UserError(f"--sweep: {num_points:,} combinations; allowed: up to {_MAX_POINTS:,}")
    points: list[Point] = []
    for written in itertools.product(*axes.values()):
        options = {name: axes[name][text] for name, text in zip(axes, written, strict=True)}
        names = [f"{_flag(name)}={text}" for name, text in zip(axes, written, strict=True)]
        folder = _folder_name(",".join(names), {point.name for point in points}, len(points))
        points.append(
            Point(folder, {_flag(n): value for n, value in options.items()}, _with(config, options))
        )
    return points


def _axis(config: FinetuneConfig, text: str) -> tuple[str, dict[str, Any]]:
    """An option's name in the config, and its values by the text that was written for them."""
    given, equals, rest = text.partition("=")
    given = given.strip().removeprefix("--")
    written = [part.strip() for part in rest.split(",")]
    if not equals or not given or "" in written:
        raise UserError(f"--sweep {text}: allowed: OPTION=VALUE,VALUE, such as lr=1e-5,2e-5")
    name = given if given.startswith(_MODEL_OPTION) else _SHORT.get(given, given.replace("-", "_"))
    hints = get_type_hints(type(config), include_extras=False)
    if name.startswith(_MODEL_OPTION):
        values: dict[str, Any] = {part: part for part in written}
    elif name not in hints or name in _NOT_SWEPT:
        known = [_flag(option) for option in hints if option not in _NOT_SWEPT]
        why = "cannot be swept" if name in hints else "is not an option"
        hint = did_you_mean(given, [*known, *_SHORT]) if name not in hints else ""
        raise UserError(f"--sweep {text}: {given} {why}{hint}; known: {', '.join((*_SHORT, *known))}")
    else:
        values = {
            part: _read(part, hints[name], f"--sweep {text}: {part!r} is not a value of {given}")
            for part in written
        }
    if len({str(value) for value in values.values()}) < len(written):
        raise UserError(f"--sweep {text}: a value is given twice")
    return name, values


def _read(text: str, hint: Any, problem: str) -> Any:
    """Read a value of the option's type. Raises UserError, beginning with `problem`, if the text is not one."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds:
        if get_origin(kind) is Literal and text in get_args(kind):
            return text
        if kind is bool and text in ("true", "false"):
            return text == "true"
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    if str in kinds or Path in kinds:
        return text if str in kinds else Path(text)
    allowed = [_kind_name(kind) for kind in kinds if kind is not types.NoneType]
    raise UserError(f"{problem}; allowed: {' or '.join(allowed)}")


def _kind_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    return {int: "a whole number", float: "a number", bool: "true, false"}[kind]


def _with(config: FinetuneConfig, options: dict[str, Any]) -> FinetuneConfig:
    """The config of one point, checked as any other."""
    fields = {name: value for name, value in options.items() if not name.startswith(_MODEL_OPTION)}
    of_model = {n.removeprefix(_MODEL_OPTION): value for n, value in options.items() if n not in fields}
    return dataclasses.replace(config, sweep=[], model_options={**config.model_options, **of_model}, **fields)


def _flag(name: str) -> str:
    return name if name.startswith(_MODEL_OPTION) else name.replace("_", "-")


def _folder_name(name: str, taken: Sequence[str] | set[str], number: int) -> str:
    """The name of a point's folder; its number, if the name is taken or too long."""
    plain = re.sub(r"[^\w.,=+-]", "_", name)
    return plain if plain not in taken and len(plain) <= 120 else f"point-{number + 1}"
