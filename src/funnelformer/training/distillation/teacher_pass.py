"""A teacher's pass over all parts that are missing: in this process, in those of torchrun, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from ...base.processes import first, num_processes, rank
from ...base.progress import progress_bar
from ...spread.engine_options import ClusterOptions
from ...spread.ray_engine import make_all, on_cluster
from .stored_parts import StoredParts

__all__ = ["Pass", "check_cluster", "make_missing"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Pass(Protocol[T_contra]):
    """What is made of the texts of each part by a teacher. Pickled, it is what a worker needs beside the model."""

    @property
    def title(self) -> str:
        """For the progress."""

    @property
    def parts(self) -> StoredParts: ...

    def make(self, number: int, teacher: T_contra, advance: Callable[[int], None]) -> None:
        """Write one part. advance: is called with the number of rows that were done since the last call."""


def check_cluster(where: ClusterOptions) -> None:
    """Raise UserError where no cluster answers: before texts are read, which takes long."""
    if where.engine == "ray" and where.ray_address is not None:
        with on_cluster(where):
            pass


def make_missing(own: Pass[T], load: Callable[[], T], where: ClusterOptions) -> None:
    """Make the missing parts of a pass; when it returns, every process can read them all.

    Several processes share the parts. On a cluster every worker loads the teacher itself, and must see its folder and
    that of the parts. load: gives the teacher; each worker calls it once.
    """
    if where.engine == "ray":
        first(lambda: _on_cluster(own, load, where))
        return
    missing = own.parts.missing()[rank() :: num_processes()]
    if missing:
        teacher = load()
        with progress_bar(own.title, sum(len(own.parts.rows(number)) for number in missing)) as advance:
            for number in missing:
                own.make(number, teacher, advance)
    first(lambda: None)  # all wait for the last part


def _on_cluster(own: Pass[T], load: Callable[[], T], where: ClusterOptions) -> None:
    missing = own.parts.missing()
    if missing:
        with on_cluster(where):
            sizes = [len(own.parts.rows(number)) for number in missing]
            make_all(_PartMaker(own, load), missing, sizes, where, own.title)


class _PartMaker(Generic[T]):
    """Makes one part after another on a worker."""

    def __init__(self, own: Pass[T], load: Callable[[], T]) -> None:
        self.own, self.load = own, load
        self._teacher: T | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_teacher": None}

    def __call__(self, number: int) -> None:
        if self.own.parts.has(number):
            return
        if self._teacher is None:
            self._teacher = self.load()
        self.own.make(number, self._teacher, _silent)


def _silent(number: int) -> None: ...
