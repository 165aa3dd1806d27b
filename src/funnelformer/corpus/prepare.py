"""Prepare text for pretraining once: tokenised, packed or paired, in Arrow files that training memory-maps.

The files are Arrow streams, as the `datasets` library writes them, which the package depends on anyway. Any number of
processes can map the same files, rows are found without an index, and `datasets`, pandas or polars can open them.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from ..base.errors import UserError
from ..base.files import hash_file
from ..base.json_toml import read_json
from ..base.options import num_usable_cores
from ..base.progress import counting
from ..data.tokenizer import load_tokenizer
from ..spread.ray_engine import each, make_all, on_cluster
from .build import iter_parts
from .documents import RemoteFile, Source, SpreadSource, documents_of, everywhere, expand_sources
from .manifest import hash_tokenizer, write_json_file
from .parts import JOBS, PARTS, SETTINGS, VERSION, finish_jobs, is_finished, part_name, prepare_part
from .prepare_config import PrepareConfig
from .row_settings import RowSettings
from .spread_parts import CorpusMaker, survey

__all__ = ["prepare"]

S = TypeVar("S", bound=SpreadSource)

# Small files form groups of up to this size on disk.
_GROUP_BYTES = 16_000_000


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Write the rows of a corpus; return the counts of documents, tokens and rows, of all jobs that have ended.

    One process reads the text and cuts it into parts; each worker tokenises one part at a time and writes its files. A
    part that is finished is skipped. The same text, tokenizer and settings give the same bytes, whatever the number of
    workers, jobs and interruptions.
    engine: "ray" writes the same bytes on a cluster, and can finish a folder that one machine began. Texts may then be
        on S3; `out` is a folder that all machines see.
    Raises UserError for input that cannot be used, and for a folder that was begun with other settings.
    """
    if config.engine == "ray":
        return _prepare_on_ray(config)
    sources = expand_sources(config.train)
    tokenizer = load_tokenizer(config.tokenizer)
    settings = _settings(config, [_described(source) for source in sources], hash_tokenizer(tokenizer))
    _open_folder(config.out, settings)
    groups = _groups(sources)
    total = sum(_size(source) for source in sources)
    names: list[str] = []

    def read() -> Iterator[tuple[tuple[int, int], list[str]]]:
        for key, documents in _own_parts(config, groups):
            names.append(part_name(key))
            if not is_finished(config.out, key):
                yield key, documents

    with _told_when_interrupted(config.out), counting("preparing", sys.stderr.isatty(), total) as count:
        last_group = -1
        for key, counts in _run(config, tokenizer, read()):
            done = sum(_size(s) for group in groups[last_group + 1 : key[0]] for s in group)
            last_group = max(last_group, key[0] - 1)
            splits = counts["splits"].values()
            count(sum(s["documents"] for s in splits), sum(s["tokens"] for s in splits), done)
    number, jobs = config.job
    write_json_file(config.out / JOBS / f"{number:05}-of-{jobs:05}.json", {"parts": sorted(names)})
    return finish_jobs(config.out, settings, jobs)


def _prepare_on_ray(config: PrepareConfig) -> dict[str, Any]:
    """As `prepare`, on a cluster: workers first scan the groups of sources, then each makes one part after another."""
    groups = _groups(everywhere(config.train))
    tokenizer_hash = hash_tokenizer(load_tokenizer(config.tokenizer))
    look = functools.partial(survey, config.text_column, config.part_chars)
    with on_cluster(config):
        found = each(look, list(enumerate(groups)), "look through")
        described = [source for one in found for source in one.described]
        settings = _settings(config, described, tokenizer_hash)
        _open_folder(config.out, settings)
        items = [item for one in found for item in one.items]
        keys = [part.key for item in items for part in item.parts]
        finished = {key for key in keys if is_finished(config.out, key)}
        if finished:
            print(f"{len(finished):,} of {len(keys):,} parts are there", file=sys.stderr)
        left = [item for item in items if not finished.issuperset(part.key for part in item.parts)]
        maker = CorpusMaker(config.tokenizer, config.rows, config.text_column, config.out.absolute())
        with _told_when_interrupted(config.out):
            make_all(maker, left, [item.documents for item in left], config, "prepare")
    write_json_file(config.out / JOBS / "00001-of-00001.json", {"parts": sorted(map(part_name, keys))})
    return finish_jobs(config.out, settings, jobs=1)


def _size(source: SpreadSource) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    return source.size if isinstance(source, RemoteFile) else 0


def _settings(config: PrepareConfig, sources: list[dict[str, Any]], tokenizer_hash: str) -> dict[str, Any]:
    """The settings that must be the same in all jobs and later calls on one folder."""
    return {
        "version": VERSION,
        "rows": asdict(config.rows),
        "text_column": config.text_column,
        "tokenizer_sha256": tokenizer_hash,
        "jobs": config.job[1],
        # Names without their folders, so that the same data in another place give the same bytes.
        "sources": sources,
    }


def _described(source: Source) -> dict[str, Any]:
    if not isinstance(source, Path):
        return {"name": str(source), "bytes": 0}
    is_file = source.is_file()  # a pipe can be read only once
    return {"name": source.name, "bytes": _size(source), "sha256": hash_file(source) if is_file else None}


def _open_folder(out: Path, settings: dict[str, Any]) -> None:
    file = out / SETTINGS
    if file.is_file():
        before = read_json(file)
        for key in settings:
            if before.get(key) != settings[key]:
                old, new = before.get(key), settings[key]
                if key == "rows" and isinstance(old, dict):
                    key = next((name for name in new if old.get(name) != new[name]), "rows")
                    old, new = old.get(key), new.get(key)
                elif key == "sources" and isinstance(old, list):
                    names = [
                        str(source["name"])
                        for source in [*new, *old]
                        if isinstance(source, dict)
                        and "name" in source
                        and (source not in old or source not in new)
                    ]
                    changed = names[0] if names else "their order"
                    raise UserError(
                        f"{out} was begun with other files: {changed} differs; choose another --out"
                    )
                raise UserError(
                    f"{out} was begun with {key} = {old!r}, now it is {new!r}; choose another --out"
                )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty, and prepare did not begin it; choose another --out")
    for folder in (out, out / PARTS, out / JOBS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
    write_json_file(file, settings)


def _groups(sources: Sequence[S]) -> list[list[S]]:
    """The sources in order, small files together. A part of the text never spans two groups."""
    groups: list[list[S]] = []
    room = 0
    for source in sources:
        size = _size(source) or _GROUP_BYTES  # a data set stands alone
        if size > room:
            groups.append([])
            room = _GROUP_BYTES
        groups[-1].append(source)
        room -= size
    return groups


def _own_parts(
    config: PrepareConfig, groups: list[list[Source]]
) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """The parts of this job: with many groups it reads only its own; else it reads all and takes every n-th part."""
    number, jobs = config.job
    by_group = len(groups) >= 4 * jobs
    for group, sources in enumerate(groups):
        if by_group and group % jobs != number - 1:
            continue
        documents = chain.from_iterable(documents_of(source, config.text_column) for source in sources)
        for part, texts in enumerate(iter_parts(documents, config.part_chars)):
            if by_group or (group + part) % jobs == number - 1:
                yield (group, part), texts


def _run(
    config: PrepareConfig, tokenizer: Any, parts: Iterator[tuple[tuple[int, int], list[str]]]
) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Prepare parts here or in worker processes, and yield their counts in order.

    At most workers + 1 parts are in memory, whatever the size of the corpus.
    """
    workers = config.workers or num_usable_cores()
    if workers == 1:
        for key, documents in parts:
            yield key, prepare_part(documents, tokenizer, config.rows, key, config.out)
        return
    waiting: deque[tuple[tuple[int, int], Future[dict[str, Any]]]] = deque()
    # Workers are not forked, because the tokenizer's threads would not survive it.
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (str(config.tokenizer),)) as pool:
        try:
            for key, documents in parts:
                waiting.append((key, pool.submit(_work, documents, config.rows, key, config.out)))
                if len(waiting) > workers:
                    key, future = waiting.popleft()
                    yield key, future.result()
            for key, future in waiting:
                yield key, future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process ended unexpectedly, perhaps for lack of memory; run the command again to continue, "
                "with fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _told_when_interrupted(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; {out} keeps what is finished: run the command again to continue"
        ) from None


_worker_tokenizer: Any = None


def _start_worker(tokenizer: str) -> None:
    global _worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread each
    _worker_tokenizer = load_tokenizer(tokenizer)


def _work(documents: list[str], settings: RowSettings, key: tuple[int, int], out: Path) -> dict[str, Any]:
    return prepare_part(documents, _worker_tokenizer, settings, key, out)
