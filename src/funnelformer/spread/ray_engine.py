"""Run functions, with or without a model, on the items of a list with Ray Data, on the workers of a cluster."""

from __future__ import annotations

import logging
import os
import pickle
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import psutil

from ..base.errors import UserError, one_line
from ..base.kept_memory import bound_kernel_cache, give_back_memory
from ..base.progress import progress_bar
from ..base.version import stamped
from .engine_options import ClusterOptions

__all__ = ["Worker", "each", "installed_versions", "make_all", "on_cluster"]

# Most blocks in a stage of Ray Data; with more items than that, a block has several.
_MOST_BLOCKS = 10_000
# How often progress is a line on stderr, if that is not a terminal.
_LINE_EVERY_S = 30.0

T = TypeVar("T")
R = TypeVar("R")


def installed_versions() -> dict[str, Any]:
    """The versions of Python, of this package and of installed libraries that could change the results, by name."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "onnxruntime", "openvino", "tokenizers", "pyarrow", "ray"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return stamped(found)


@contextmanager
def on_cluster(options: ClusterOptions) -> Iterator[None]:
    """Connect to a cluster for the time of a `with` block.

    It is the cluster that this process is connected to already, which stays so; else the one at `ray_address`; without
    an address, a new one of this machine alone. Raises UserError if no cluster answers at the
    address, or if a new one cannot be started.
    """
    import ray
    import ray.data

    if ray.is_initialized():
        _quiet()
        yield
        return
    try:
        if options.ray_address is None:
            # Otherwise Ray reports to its makers which of its features are used.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        else:
            ray.init(address=options.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if options.ray_address is None:
            raise UserError(f"--engine ray: Ray does not start on this machine ({one_line(error)})") from None
        raise UserError(
            f"--ray-address {options.ray_address}: no cluster answers ({one_line(error)})"
        ) from None
    try:
        _quiet()
        yield
    finally:
        ray.shutdown()


def _quiet() -> None:
    """Switch off Ray's own bars and messages, which would overwrite our progress bar."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _rows(items: Sequence[Any]) -> Any:
    """A data set of Ray with one row for each item: its index, and the item pickled."""
    import ray.data

    rows = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items)]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))


def each(function: Callable[[T], R], items: Sequence[T], title: str) -> list[R]:
    """Call a function on each item, on workers with one CPU each, and return the results in the order of the items.

    title: what the progress bar says. Items and results must be picklable.
    All items are tried. Raises UserError then, with the message of the first item for which the function raised it.
    """
    if not items:
        return []

    def call(row: dict[str, Any]) -> dict[str, Any]:
        return {"index": row["index"], **_told(function, row["item"])}

    found: dict[int, R] = {}
    errors: dict[int, str] = {}
    with progress_bar(title, len(items), _LINE_EVERY_S) as advance:
        for row in _rows(items).map(call, num_cpus=1).iter_rows():
            if row["error"]:
                errors[row["index"]] = row["error"]
            else:
                found[row["index"]] = pickle.loads(row["found"])  # of our own worker
            advance(1)
    if errors:
        raise UserError(errors[min(errors)])
    return [found[index] for index in range(len(items))]


def _told(function: Callable[[Any], Any], item: bytes) -> dict[str, Any]:
    """Call a function on a pickled item; a UserError becomes a value, because Ray would retry an item that raises."""
    try:
        return {"found": pickle.dumps(function(pickle.loads(item))), "error": ""}  # of our own driver
    except UserError as error:
        return {"found": b"", "error": str(error)}


class Worker:
    """A process that Ray Data starts for some CPUs or GPUs: it calls a maker with one item after another.

    maker: a pickled function of one item, which loads its model at its first call and keeps it.
    """

    def __init__(self, maker: bytes) -> None:
        # First, because the maker's modules import torch, which reads these variables once.
        bound_kernel_cache()
        self._maker: Callable[[Any], Any] = pickle.loads(maker)  # of our own driver

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Make the items of a batch, in Ray Data's form: columns of N items each.

        Returns index, found (the result, pickled), error (the message of a UserError, or ""), process ("host:pid") and
        worker_bytes (the memory of the process after the item).
        """
        made: dict[str, list[Any]] = {
            name: [] for name in ("index", "found", "error", "process", "worker_bytes")
        }
        for index, item in zip(batch["index"], batch["item"], strict=True):
            told = _told(self._maker, item)
            give_back_memory()
            process = psutil.Process()
            told |= {
                "index": int(index),
                "process": f"{os.uname().nodename}:{process.pid}",
                "worker_bytes": process.memory_info().rss,
            }
            for name, value in told.items():
                made[name].append(value)
        return made


def make_all(
    maker: Callable[[T], R],
    items: Sequence[T],
    sizes: Sequence[int],
    options: ClusterOptions,
    title: str,
) -> tuple[list[R], dict[str, Any]]:
    """Call a maker with a model on each item, on workers of a cluster.

    If a worker dies, another is started, and its item is made again: so a second call of the maker with the same item
    must do the same, or find that it is done.
    sizes: how far each item moves the progress bar, such as its rows. title: what the bar says.
    Returns the results in the order of the items; and for each worker, by "host:pid", its number of items (parts) and
    its memory in bytes: after the first item (first_bytes), the largest (most_bytes), after the last (last_bytes).
    Raises UserError if the cluster has no room for one worker; and at the first item for which the maker raised it.
    """
    import ray
    import ray.data

    workers: dict[str, Any] = {}
    if not items:
        return [], workers
    resources = ray.cluster_resources()
    most = int(resources.get("CPU", 1) // options.worker_cpus)
    if options.worker_gpus:
        most = min(most, int(resources.get("GPU", 0) // options.worker_gpus))
    number = min(options.workers or most, len(items))
    if number < 1:
        raise UserError(
            f"the cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs, too few for a "
            f"worker with --worker-cpus {options.worker_cpus} and --worker-gpus {options.worker_gpus:g}"
        )
    made = _rows(items).map_batches(
        Worker,
        fn_constructor_args=(ray.cloudpickle.dumps(maker),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=number, initial_size=number),
        num_cpus=options.worker_cpus,
        num_gpus=options.worker_gpus,
    )
    found: list[Any] = [None] * len(items)
    with progress_bar(title, sum(sizes), _LINE_EVERY_S) as advance:
        for row in made.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            found[row["index"]] = pickle.loads(row["found"])  # of our own worker
            size = int(row["worker_bytes"])
            seen = workers.setdefault(row["process"], {"parts": 0, "first_bytes": size, "most_bytes": size})
            seen["parts"] += 1
            seen["most_bytes"] = max(seen["most_bytes"], size)
            seen["last_bytes"] = size
            advance(sizes[row["index"]])
    return found, workers
