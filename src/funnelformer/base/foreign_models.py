"""The reader of other libraries' models: lower rooms ask for it, a higher one is it.

`FunnelformerConfig` and the models' `from_pretrained` take folders of other libraries as well as ours. What reads such
folders builds on both, so it stands above them. The package's own file says where it is, and it is imported when it is
first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Reader", "put_in_place", "reader"]


class Reader(Protocol):
    """What is asked of it; `funnelformer.checkpoints.source_reader` answers."""

    def translated(self, values: Mapping[str, Any], source: str) -> Any:
        """The config that the content of a foreign `config.json` stands for; `source` names it in errors."""

    def find_foreign(self, source: str | Path, **hub: Any) -> Path | None:
        """The folder of a foreign model that a folder or a name on the Hub leads to; None where the model is ours."""

    def check_config(self, file: Path) -> None:
        """Raise UserError naming the file and the key when a `config.json` is of none of the known models."""

    def check_weights(self, folder: str | Path) -> None:
        """Raise UserError when the files of weights in a folder of ours cannot be what they are taken for."""

    def read_source(self, name: str, folder: Path | None, wishes: Mapping[str, Any], **hub: Any) -> Any:
        """A model's `config` and `state_dict` in our names, its layers dealt into other blocks where that is wished."""


_load: Callable[[], Any] | None = None


def put_in_place(load: Callable[[], Any]) -> None:
    """Say what gives the reader; it is called at the first question."""
    global _load
    _load = load


def reader() -> Reader:
    """The reader. It is there as soon as the package is imported."""
    assert _load is not None
    found: Reader = _load()
    return found
