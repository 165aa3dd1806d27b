"""What `bench` and `bench compare` can be told."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..base.options import DeviceOption, at_least, check_ranges, flag, grouped

__all__ = ["BenchConfig", "CompareConfig"]

Names = Annotated[list[str] | None, Parameter(consume_multiple=True)]
# Of what is not given; the second column is that of --quick, which a base-size pair on two cores does in a minute.
_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "models": (["B4-4-4H768", "B6-6-6H768"], ["B4-4-4H768"]),
    "peers": (["bert", "funnel"], ["bert"]),
    "shapes": (["8x128", "2x512", "1x2048"], ["2x128"]),
    "modes": (["inference", "training"], ["inference", "training"]),
    "dtypes": (["float32"], ["float32"]),
    "implementations": (["sdpa"], ["sdpa"]),
    "rounds": (5, 3),
    "warmup": (1, 1),
}


@grouped(
    most="out models peers shapes quick",
    data="vocab_size",
    model="implementations peer_implementation dtypes set",
    run="modes rounds warmup threads memory device",
    output="overwrite",
)
@dataclass(kw_only=True)
class BenchConfig:
    """What a benchmark can be told."""

    out: Path
    "Folder for results.json, results.md and results.png."
    models: Names = None
    "Models: layouts (B4-4-4H768, L12H768), presets (PoNet-base), or as --peers."
    peers: Names = None
    "What each is compared with: bert, funnel, modernbert, fnet, deberta-v3, sized as bert:L24H1024; or as --models."
    shapes: Names = None
    "Inputs, sequences x tokens: 8x128 2x512 1x2048."
    modes: Names = None
    "inference (a forward pass), training (a step: forward, backward, AdamW)."
    dtypes: Names = None
    "float32, bfloat16, float16; training uses it under autocast."
    implementations: Names = None
    "Attention of --models: sdpa or eager, also with +compile for torch.compile. Any model can also be compiled, \
prepacked, onnx or onnx-int8."
    peer_implementation: str | None = None
    "Attention of --peers; by default the fastest that each model has."
    rounds: Annotated[int | None, at_least(1)] = None
    "Number of timed pairs of calls."
    warmup: Annotated[int | None, at_least(0)] = None
    "Number of pairs of calls before them, not timed."
    threads: Annotated[int | None, at_least(1)] = None
    "CPU threads; by default as many as torch takes."
    vocab_size: Annotated[int, at_least(10)] = 30522
    "Vocabulary size of every model."
    memory: Annotated[bool, Parameter(negative="--no-memory")] = True
    "Measure peak memory too, each model in a process of its own."
    quick: bool = False
    "Fewer models, shapes and rounds, unless you give them: about a minute."
    device: DeviceOption = "auto"
    overwrite: bool = False
    "Replace the results in --out."
    set: dict[str, str] = field(default_factory=dict)
    "Keys of our models' configs, such as --set.decoder_layers=2."

    def __post_init__(self) -> None:
        self.out = Path(self.out)
        for name, (usual, quick) in _DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, quick if self.quick else usual)
        check_ranges(self)

    @property
    def command(self) -> str:
        """The command that repeats this benchmark: options that are not the defaults, and OUT for the folder."""
        words, defaults = (
            ["funnelformer", "bench", "--out", "OUT"],
            BenchConfig(out=self.out, quick=self.quick),
        )
        for entry in fields(self):
            value, option = getattr(self, entry.name), flag(entry.name)
            if entry.name == "quick" and value:
                words.append(option)
            if entry.name in ("out", "overwrite") or value == getattr(defaults, entry.name):
                continue
            if isinstance(value, dict):
                words += [f"{option}.{key}={given}" for key, given in value.items()]
            elif isinstance(value, bool):
                words.append(option if value else f"--no-{option[2:]}")
            elif isinstance(value, list):
                words += [option, *map(str, value)]
            else:
                words += [option, str(value)]
        return shlex.join(words)


@grouped(most="before after")
@dataclass
class CompareConfig:
    """What `bench compare` can be told."""

    before: Path
    "results.json of the first benchmark, or its folder."
    after: Path
    "results.json of the second benchmark, or its folder."

    def __post_init__(self) -> None:
        self.before, self.after = Path(self.before), Path(self.after)
