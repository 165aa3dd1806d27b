"""The data of each task: the release's files, or what is generated here. Nothing is downloaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import open_binary, read_bytes
from ..base.options import takes
from .arena_tasks import GENERATED, Task, find_task
from .config import GenerateConfig
from .listops import PARTS, Grammar, encode, generate_distinct, read_listops, write_listops
from .pathfinder import PathfinderStyle, draw_images, read_pathfinder, write_pathfinder
from .sequences import Examples, LraData, Sequences

__all__ = ["generate_data", "read_data", "write_data"]

_RELEASE = "lra_release.gz, linked at github.com/google-research/long-range-arena"
_GENERATE = "or make data with `funnelformer lra generate {task} --out FOLDER`"
_SPLIT_SEED = 0  # of the split of Pathfinder's images, which the release does not fix


def read_data(task: Task, folder: Path, length: int) -> LraData:
    """Read a task's data from the folder of its release; text is cut to `length` tokens.

    Raises UserError naming the file that is missing and where it comes from, or the file and line that is bad.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_how_to_get(task)}")
    if task.image_size is not None and length != task.length:
        raise UserError(f"--length {length}: the images of {task.title} have {task.length} pixels")
    return _READERS[task.name](task, folder, length)


def generate_data(task: Task, count: int, length: int, seed: int) -> LraData:
    """Generate `count` training examples in memory, and a tenth as many each to validate and to test on.

    ListOps: expressions of fewer than `length` tokens and more than a quarter of it, as the release's 500 to 2,000.
    Pathfinder: images of `length` pixels. Raises UserError when the task has no generator, or for other lengths.
    """
    counts = _part_counts(count)
    if task.name == "listops":
        samples = generate_distinct(_grammar(length), seed, sum(counts))
        sequences = Sequences.pack(encode(sample.source) for sample in samples)
        labels = np.array([sample.target for sample in samples])
    else:
        images, labels = draw_images(sum(counts), seed, _style(task, length))
        sequences = Sequences.of_rows(images.reshape(len(images), -1))
    return _cut_up(sequences, labels, counts)


@takes(GenerateConfig)
def write_data(config: GenerateConfig) -> None:
    """Write generated data in the form of the release.

    count: for ListOps samples to train, validate and test on, or those to train on (then a tenth as many for each
        of the others); for Pathfinder, whose release is one folder of images, their number. length: as in
        `generate_data`, by default the task's, and of images no other: `read_data` would refuse them.
    Raises UserError for a task without generator, or a folder that is not empty.
    """
    task, out, counts, seed = find_task(config.task), config.out, config.count, config.seed
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another --out")
    length = task.length if config.length is None else config.length
    if task.name == "listops":
        if len(counts) not in (1, 3):
            raise UserError(f"--count has {len(counts)} numbers; allowed: 1 or 3 (train, validation, test)")
        parts = _part_counts(counts[0]) if len(counts) == 1 else counts
        write_listops(out, parts, _grammar(length), seed)
        return
    style = _style(task, task.length)
    if length != task.length:
        raise UserError(f"--length is {length}; allowed for {task.title}: {task.length}, which its runs read")
    if len(counts) != 1:
        raise UserError(f"--count has {len(counts)} numbers; {task.title} takes one, of all its images")
    write_pathfinder(out, counts[0], seed, style)


def _part_counts(count: int) -> tuple[int, int, int]:
    return count, max(1, count // 10), max(1, count // 10)


def _grammar(length: int) -> Grammar:
    if length < 16:
        raise UserError(f"--length is {length}; allowed for ListOps: 16 or more")
    return Grammar(min_length=length // 4, max_length=length)


def _style(task: Task, length: int) -> PathfinderStyle:
    if task.name not in GENERATED:
        raise UserError(f"{task.title} cannot be generated, only {', '.join(GENERATED)}; {_how_to_get(task)}")
    size = math.isqrt(length)
    if size * size != length:
        raise UserError(
            f"--length is {length}; allowed for {task.title}: a square, as 1024 for 32 x 32 pixels"
        )
    return PathfinderStyle(size=size)


def _data(parts: Sequence[Examples], notes: tuple[str, ...] = ()) -> LraData:
    train, validation, test = parts
    return LraData(train, validation, test, notes)


def _cut_up(sequences: Sequences, labels: np.ndarray, counts: Sequence[int]) -> LraData:
    """Split examples into consecutive parts."""
    parts, first = [], 0
    for count in counts:
        starts = sequences.starts[first : first + count + 1]
        tokens = sequences.tokens[starts[0] : starts[-1]]
        parts.append(Examples([Sequences(tokens, starts - starts[0])], labels[first : first + count]))
        first += count
    return _data(parts)


# ---- the releases


def _how_to_get(task: Task) -> str:
    sources = {
        "listops": f"basic_train.tsv, basic_val.tsv, basic_test.tsv of listops-1000 in {_RELEASE}",
        "text": "aclImdb_v1.tar.gz from ai.stanford.edu/~amaas/data/sentiment, with train and test, each pos and neg",
        "retrieval": f"new_aan_pairs.train.tsv, .eval.tsv and .test.tsv of tsv_data in {_RELEASE}",
        "image": "cifar-10-binary.tar.gz (the binary version) from www.cs.toronto.edu/~kriz/cifar.html, with "
        "data_batch_1.bin to data_batch_5.bin and test_batch.bin",
        "pathfinder": f"pathfinder32/curv_contour_length_14 with imgs and metadata, in {_RELEASE}",
        "path-x": f"pathfinder128/curv_contour_length_14 with imgs and metadata, in {_RELEASE}",
    }
    how = f"needed: {sources[task.name]}"
    return f"{how}; {_GENERATE.format(task=task.name)}" if task.name in GENERATED else how


def _locate(task: Task, folder: Path, inner: Iterable[str], wanted: Sequence[str]) -> Path:
    """`folder` or the folder in it that has the first of the wanted files; all must be there."""
    found = next((folder / name for name in ("", *inner) if (folder / name / wanted[0]).exists()), folder)
    for name in wanted:
        if not (found / name).exists():
            raise UserError(f"{found / name}: no such file or folder; {_how_to_get(task)}")
    return found


def _notes(num_cut: int, length: int) -> tuple[str, ...]:
    return (f"{num_cut:,} sequences exceed {length:,} tokens and were cut",) if num_cut else ()


def _read_listops(task: Task, folder: Path, length: int) -> LraData:
    names = [f"basic_{part}.tsv" for part in PARTS]
    folder = _locate(task, folder, ("listops-1000", "lra_release/listops-1000"), names)
    parts, num_cut = [], 0
    for name in names:
        rows = list(read_listops(folder / name))
        if not rows:
            raise UserError(f"{folder / name}: has a header and no rows")
        num_cut += sum(len(ids) > length for ids, _ in rows)
        sequences = Sequences.pack(ids[:length] for ids, _ in rows)
        parts.append(Examples([sequences], [target for _, target in rows]))
    return _data(parts, _notes(num_cut, length))


def _byte_ids(text: bytes, length: int) -> np.ndarray:
    return np.frombuffer(text[:length], dtype=np.uint8).astype(np.uint16) + 1


def _read_text(task: Task, folder: Path, length: int) -> LraData:
    """IMDb reviews as bytes: 0 is negative. The arena validates on the test part, so do we."""
    classes = ("neg", "pos")
    wanted = [f"{part}/{name}" for part in ("train", "test") for name in classes]
    folder = _locate(task, folder, ("aclImdb",), wanted)
    parts, num_cut = {}, 0
    for part in ("train", "test"):
        texts, labels = [], []
        for label, name in enumerate(classes):
            files = sorted((folder / part / name).glob("*.txt"))
            if not files:
                raise UserError(f"{folder / part / name}: holds no .txt file; {_how_to_get(task)}")
            for file in files:
                text = read_bytes(file)
                num_cut += len(text) > length
                texts.append(_byte_ids(text, length))
                labels.append(label)
        parts[part] = Examples([Sequences.pack(texts)], labels)
    return LraData(parts["train"], parts["test"], parts["test"], notes=_notes(num_cut, length))


def _read_retrieval(task: Task, folder: Path, length: int) -> LraData:
    names = [f"new_aan_pairs.{part}.tsv" for part in ("train", "eval", "test")]
    folder = _locate(task, folder, ("tsv_data", "lra_release/tsv_data"), names)
    parts, num_cut = [], 0
    for name in names:
        texts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        labels = []
        # As bytes: the papers' texts were extracted from PDF, and nothing here needs them to be UTF-8.
        with open_binary(folder / name) as stream:
            for number, line in enumerate(stream, start=1):
                columns = line.rstrip(b"\r\n").split(b"\t")
                where = f"{folder / name}: line {number}"
                if len(columns) != 5:
                    raise UserError(
                        f"{where} has {len(columns)} columns; allowed: 5 (label, two ids, two texts, tabs between)"
                    )
                if columns[0] not in (b"0", b"1", b"0.0", b"1.0"):
                    raise UserError(f"{where}: the label is {columns[0][:20]!r}; allowed: 0, 1, 0.0, 1.0")
                for found, text in zip(texts, columns[3:], strict=True):
                    if not text:
                        raise UserError(f"{where}: one of the texts is empty")
                    num_cut += len(text) > length
                    found.append(_byte_ids(text, length))
                labels.append(int(columns[0][:1]))
        parts.append(Examples([Sequences.pack(each) for each in texts], labels))
    return _data(parts, _notes(num_cut, length))


_CIFAR_BYTES = 3 * 32 * 32


def _read_image(task: Task, folder: Path, length: int) -> LraData:
    """CIFAR-10 in grey, 0.299 R + 0.587 G + 0.114 B; the last tenth of the training images validates."""
    if any((folder / name / "data_batch_1").exists() for name in ("", "cifar-10-batches-py")):
        raise UserError(
            f"{folder}: holds CIFAR-10's Python version, pickles that are not opened here; {_how_to_get(task)}"
        )
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    folder = _locate(task, folder, ("cifar-10-batches-bin",), names)
    batches = [_read_cifar(folder / name) for name in names]
    train = np.concatenate([images for images, _ in batches[:-1]])
    labels = np.concatenate([classes for _, classes in batches[:-1]])
    num_train = len(train) - len(train) // 10
    test, test_labels = batches[-1]
    return LraData(
        Examples([Sequences.of_rows(train[:num_train])], labels[:num_train]),
        Examples([Sequences.of_rows(train[num_train:])], labels[num_train:]),
        Examples([Sequences.of_rows(test)], test_labels),
    )


def _read_cifar(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey images [N, 1024] and classes [N] of a file of records: a class, then 1,024 bytes a colour."""
    content = read_bytes(file)
    num_bytes = _CIFAR_BYTES + 1
    if len(content) % num_bytes:
        raise UserError(
            f"{file}: has {len(content):,} bytes, not a multiple of the {num_bytes:,} of an image"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, num_bytes)
    labels = records[:, 0].astype(np.int64)
    bad = np.flatnonzero(labels > 9)
    if len(bad):
        raise UserError(f"{file}: image {bad[0] + 1} has class {labels[bad[0]]}; allowed: 0 to 9")
    colours = records[:, 1:].reshape(len(records), 3, -1).astype(np.uint32)
    # In whole numbers, so that a half rounds up on every machine.
    grey = (299 * colours[:, 0] + 587 * colours[:, 1] + 114 * colours[:, 2] + 500) // 1000
    return grey.astype(np.uint8), labels


def _read_pathfinder(task: Task, folder: Path, length: int) -> LraData:
    """Split 8 : 1 : 1 after a fixed shuffle, for the order of the files says nothing of the parts."""
    size = task.image_size
    assert size is not None
    inner = f"pathfinder{size}/curv_contour_length_14"
    folder = _locate(
        task, folder, ("curv_contour_length_14", inner, f"lra_release/{inner}"), ("metadata", "imgs")
    )
    images, labels, num_empty = read_pathfinder(folder, size, _SPLIT_SEED)
    if len(images) < 10:
        raise UserError(f"{folder}: holds {len(images)} images; at least 10 are needed for three parts")
    num_tenth = len(images) // 10
    counts = (len(images) - 2 * num_tenth, num_tenth, num_tenth)
    data = _cut_up(Sequences.of_rows(images.reshape(len(images), -1)), labels, counts)
    notes = (f"{num_empty:,} image files are empty and were left out",) if num_empty else ()
    return replace(data, notes=notes)


_READERS: dict[str, Callable[[Task, Path, int], LraData]] = {
    "listops": _read_listops,
    "text": _read_text,
    "retrieval": _read_retrieval,
    "image": _read_image,
    "pathfinder": _read_pathfinder,
    "path-x": _read_pathfinder,
}
