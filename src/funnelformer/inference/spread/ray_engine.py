"""Ray Data as the engine: sources are scanned and parts are made by the workers of a cluster, wherever they run."""

from __future__ import annotations

import logging
import pickle
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...base.errors import UserError, one_line, printable
from ...base.packages import need
from ...base.progress import progress_bar
from ...base.version import stamped
from ..config import EngineOptions
from .part_worker import ITEM_COLUMNS, ORIGIN, Job, PartWorker
from .parts_manifest import check_folder, describe, missing, open_run, write_manifest
from .storage import as_url, list_sources
from .work_items import Scanned, WorkItem, first_rows, scan

__all__ = ["make_parts"]

# Of a stage of Ray Data; beyond so many, several work items travel together.
_MOST_BLOCKS = 10_000
_FIRST_ROWS = 4096
# Where stderr is no terminal progress is a line every so often.
_LINE_EVERY_S = 30.0


def make_parts(
    job: Job, data: str, out: str, engine: EngineOptions, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write the results for the rows of `data` as parts below `out`, and a manifest; return the manifest.

    data: a file, a pattern or a folder, here or in a store. out: a folder, here or in a store.
    settings: what decides the results; a run that goes on must have the same.
    Raises UserError for input that cannot be used before the first part is made, and for a source that changed after.
    """
    need("ray", extra="ray")
    out = as_url(out)
    check_folder(out, engine.resume)
    sources = list_sources(data)
    messages = job.prepare(first_rows(sources[0], _FIRST_ROWS))
    results = job.fields()
    with _connected(engine):
        scans = _scan_all(sources, engine.rows_per_part, job.texts, [*ORIGIN, *(one.name for one in results)])
        description = describe(settings, settings["model"], scans)
        open_run(out, description)
        items = [item for one in scans for item in one.items]
        left = missing(out, items)
        for message in messages:
            print(printable(message), file=sys.stderr)
        if len(left) < len(items):
            print(f"{len(items) - len(left):,} of {len(items):,} parts are there", file=sys.stderr)
        workers = _run(job, PartWorker(job, _schema_of(scans), out), left, engine)
    return write_manifest(out, description, items, _versions(), workers)


def _versions() -> dict[str, Any]:
    """Of what could change the results, where it is installed."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "onnxruntime", "openvino", "tokenizers", "pyarrow", "ray"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return stamped(found)


@contextmanager
def _connected(engine: EngineOptions) -> Iterator[None]:
    """Use the cluster that was named, that this process already has, or one of this machine alone."""
    import ray
    import ray.data

    if ray.is_initialized():
        _quiet()
        yield
        return
    try:
        if engine.ray_address is None:
            ray.init(
                address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        else:
            ray.init(address=engine.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--ray-address {engine.ray_address}: no cluster answers ({one_line(error)})"
        ) from None
    try:
        _quiet()
        yield
    finally:
        ray.shutdown()


def _quiet() -> None:
    """Progress is ours: Ray's own bars and messages would be written over it."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _scan_all(sources: list[str], rows_per_part: int, texts: list[str], taken: list[str]) -> list[Scanned]:
    """Scan the sources, each on some worker. Raises UserError of the first, in their order, that cannot be used."""
    import ray.data

    def look(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {
                "index": row["index"],
                "found": pickle.dumps(scan(row["source"], rows_per_part, texts, taken)),
                "error": "",
            }
        except UserError as error:
            return {"index": row["index"], "found": b"", "error": str(error)}

    rows = [{"index": index, "source": source} for index, source in enumerate(sources)]
    blocks = min(len(rows), _MOST_BLOCKS)
    found: dict[int, Scanned] = {}
    errors: dict[int, str] = {}
    with progress_bar("look through", len(sources), _LINE_EVERY_S) as advance:
        for row in ray.data.from_items(rows, override_num_blocks=blocks).map(look, num_cpus=1).iter_rows():
            if row["error"]:
                errors[row["index"]] = row["error"]
            else:
                found[row["index"]] = pickle.loads(row["found"])  # of our own worker
            advance(1)
    if errors:
        raise UserError(errors[min(errors)])
    return [found[index] for index in range(len(sources))]


def _schema_of(scans: list[Scanned]) -> Any:
    """The columns of all sources, with types that hold all values. Raises UserError where there is no such type."""
    import pyarrow as pa

    schema = scans[0].schema
    for one in scans[1:]:
        try:
            schema = pa.unify_schemas([schema, one.schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(
                f"{one.source}: its columns have other types than those of the sources before ({one_line(error)})"
            ) from None
    return schema


def _run(job: Job, worker: PartWorker, items: list[WorkItem], engine: EngineOptions) -> dict[str, Any]:
    """Make the parts of the items; return for each worker its parts, and its memory in bytes at the first and most.

    A worker that dies is started again elsewhere, and what it had in hand is given to another.
    """
    import ray
    import ray.data

    workers: dict[str, Any] = {}
    if not items:
        return workers
    resources = ray.cluster_resources()
    most = int(resources.get("CPU", 1) // engine.worker_cpus)
    if engine.worker_gpus:
        most = min(most, int(resources.get("GPU", 0) // engine.worker_gpus))
    number = min(engine.workers or most, len(items))
    if number < 1:
        raise UserError(
            f"the cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs, too few for a "
            f"worker with --worker-cpus {engine.worker_cpus} and --worker-gpus {engine.worker_gpus:g}"
        )
    rows = [{name: getattr(item, name) for name in ITEM_COLUMNS} for item in items]
    made = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map_batches(
        PartWorker,
        fn_constructor_args=(worker.job, worker.schema, worker.out),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=number, initial_size=number),
        num_cpus=engine.worker_cpus,
        num_gpus=engine.worker_gpus,
    )
    with progress_bar(job.command, sum(item.rows for item in items), _LINE_EVERY_S) as advance:
        for row in made.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            size = int(row["bytes"])
            seen = workers.setdefault(row["process"], {"parts": 0, "first_bytes": size, "most_bytes": size})
            seen["parts"] += 1
            seen["most_bytes"] = max(seen["most_bytes"], size)
            seen["last_bytes"] = size
            advance(row["rows"])
    return workers
