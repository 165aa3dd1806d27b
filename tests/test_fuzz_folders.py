"""Every file of a model folder and of a run, and every form of data, damaged: an answer or one UserError of one line.

The damage is of two kinds: of structure (values of other types, keys taken out, added or doubled, deep nesting, huge
numbers, odd texts) and of bytes. A reader sees 200 inputs; marked slow, 20,000. The seed is fixed, the inputs are made
before anything is read, so a failure comes again.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from safetensors.torch import save_file

from funnelformer import FunnelformerConfig
from funnelformer.base.errors import UserError
from funnelformer.base.json_toml import read_json, read_json_value, read_toml
from funnelformer.base.options import parse_options
from funnelformer.base.sentence_modules import read_modules
from funnelformer.checkpoints import original_torch, ponet, transformers_funnel
from funnelformer.checkpoints.archives import unpacked
from funnelformer.checkpoints.convert import _vocabulary
from funnelformer.checkpoints.foreign_options import make_config
from funnelformer.checkpoints.weights import read_state_dict
from funnelformer.cli.entry import _options_from
from funnelformer.corpus.parts import finish_jobs, is_finished
from funnelformer.corpus.prepare import _open_folder
from funnelformer.corpus.prepared import read_manifest
from funnelformer.corpus.row_settings import RowSettings
from funnelformer.data.formats import iter_rows
from funnelformer.data.tables import collect, iter_texts
from funnelformer.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, save_tokenizer, tokenizer_from_vocab
from funnelformer.data.values import Labels
from funnelformer.inference.settings import read_architectures, read_settings
from funnelformer.modeling import HEADS
from funnelformer.report.runs import read_rows
from funnelformer.spread.parts_manifest import open_run
from funnelformer.tasks.releases import find_task
from funnelformer.training.run.folder import complete_checkpoints

FEW, MANY = 200, 20_000

_NESTED: Any = []
for _ in range(200):
    _NESTED = [_NESTED]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.5, 1e308, 10**20, 10**300, float("nan"), float("inf")),
    *("", "x", "12", "a\nb", "\x1b[31m", "\ud83d", "é" * 300, "../../etc/passwd", "\0"),
    *([], [1], ["a"], [None], [[]], {}, {"a": 1}, {"0": "x"}, {"x": {"y": []}}, _NESTED),
)
ODD_TEXTS = (
    *(
        "1" * 5000,
        "[" * 100_000,
        '{"a":' * 5000,
        "-1" + "0" * 400,
        "1e99999",
        "NaN",
        "\\ud83d",
        "\x00",
        "\ufeff",
        "'",
    ),
    *(
        ".".join(["a"] * 5000) + " = 1",
        "[" + ".".join(["a"] * 5000) + "]",
        "a = " + "[" * 5000,
        "9999-99-99",
        "{}",
    ),
)


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values in a JSON value."""
    yield before
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in entries:
        yield from paths(inner, (*before, key))


def restructured(value: Any, chance: random.Random) -> Any:
    """A JSON value with one to three changes."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        way = chance.choice(list(paths(value)))
        if not way:
            return copy.deepcopy(chance.choice(ODD)) if chance.random() < 0.1 else value
        place = value
        for key in way[:-1]:
            place = place[key]
        kind = chance.randrange(5)
        if kind < 3:
            place[way[-1]] = copy.deepcopy(chance.choice(ODD))
        elif kind == 3:
            del place[way[-1]]
        elif isinstance(place, dict):
            place[chance.choice(("", "x", "é\n", "\ud83d", f"{way[-1]}_", "a.b"))] = copy.deepcopy(
                chance.choice(ODD)
            )
        else:
            place.insert(0, copy.deepcopy(chance.choice(ODD)))
    return value


def broken(content: bytes, chance: random.Random) -> bytes:
    """The bytes with one to three changes."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at, size = chance.randrange(len(data) + 1), chance.randint(1, 32)
        kind = chance.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            data[at:at] = chance.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
        elif kind == 2:
            data[at:at] = data[at : at + size]
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at : at + size] = chance.randbytes(size)
        else:
            del data[at:]
    return bytes(data)


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


CONFIG = {
    **FunnelformerConfig.from_name("B1-1H16", vocab_size=40, num_labels=2).to_dict(),
    "architectures": ["FunnelformerForSequenceClassification"],
    "problem_type": "single_label_classification",
}
TASK = {
    "task": "cola",
    "text": "a",
    "text_pair": None,
    "label": "l",
    "label_separator": None,
    "max_length": 16,
}
TASK |= {"windows": "max", "doc_stride": 8, "max_answer_length": 4, "null_threshold": 0.5}
RUN = {"command": "finetune", "argv": ["x"], "torch": "2", "sequences_per_step": 8, "num_threads": 1}
METRICS = {"metric": "dev_accuracy", "dev_accuracy": 0.5, "cost": {"train_seconds": 1.5, "train_flops": 1e9}}
METRICS |= {
    "data": {"train": {"source": "a.csv", "rows_sha256": "ab"}},
    "num_parameters": 7,
    "model": "L1H16",
}
RUN_CONFIG = {"out": "x", "train": "a.csv", "batch-size": 8, "set": {"mixer": "ponet"}, "learning-rate": 0.1}
EXPORT = {
    "format": "onnx",
    "opset": 18,
    "checked": [{"batch_size": 1, "absolute": 1e-6}],
    "versions": {"onnx": "1"},
}
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
SENTENCE = {
    "module_output_name": "sentence_embedding",
    "modality_config": {"text": {"method": "sequence_vectors"}},
    "max_seq_length": 12,
}
PONET = {
    "model_type": "ponet",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 40,
    "intermediate_size": 16,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "segment_num": 4,
    "clsgsepg": True,
}
FUNNEL = {
    "model_type": "funnel",
    "block_sizes": [1, 1],
    "d_model": 16,
    "n_head": 2,
    "d_head": 8,
    "d_inner": 16,
}
NET = {
    "block_size": "1_1",
    "d_embed": 16,
    "d_model": 16,
    "d_head": 8,
    "n_head": 2,
    "d_inner": 16,
    "vocab_size": 40,
}
NET |= {
    "ff_activation": "gelu",
    "pooling_type": "mean",
    "pool_q_only": True,
    "separate_cls": True,
    "pooling_size": 2,
}
NET |= {"dropout": 0.1, "dropatt": 0.1, "dropact": 0.0, "init_std": 0.1, "init": "normal", "init_range": 0.1}
ROWS = [{"text": f"the cat {n}", "label": "yes", "score": n / 3, "more": {"a": [n]}} for n in range(3)]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": [{"id": "1", "question": "q?"}]}]}]}


PARTS_RUN = {
    "settings": {"command": "embed", "model": "mini", "max_length": None},
    "model_files": {"config.json": "ab"},
    "sources": {"s3://b/a.csv": {"bytes": 7, "sha256": "ab", "rows": 2}},
}
PREPARED_ROWS = dataclasses.asdict(RowSettings(32))
PREPARED_SETTINGS = {"version": 1, "rows": PREPARED_ROWS, "text_column": None, "tokenizer_sha256": "ab"}
PREPARED_SETTINGS |= {"jobs": 1, "sources": [{"name": "a.txt", "bytes": 7, "sha256": "ab"}]}
_COUNTS = {"rows": 1, "row_tokens": 30, "documents": 2, "tokens": 28, "document_lengths": {"8": 2}}
_SHARD = {"file": "train-00000-00000.arrow", "bytes": 9, "sha256": "ab"}
PREPARED_PART = {"documents": 2, "splits": {"train": {**_SHARD, **_COUNTS}}}
PREPARED_JOB = {"parts": ["00000-00000"]}
PREPARED = {**PREPARED_SETTINGS, "splits": {"train": {**_COUNTS, "shards": [{**_SHARD, "rows": 1}]}}}


def read_config(path: Path) -> None:
    config = make_config(read_json(path), str(path))
    Labels.from_id2label(config.id2label or {})
    read_architectures(str(path.parent))
    _ = config.num_labels, config.name, config.block_mixers, config.has_embedding_projection
    json.dumps(config.to_dict())
    assert isinstance(config.problem_type, str | None)
    assert set(config.architectures or []) <= {head.model_class.__name__ for head in HEADS.values()} | set(
        read_architectures(str(path.parent))
    )


def read_task(path: Path) -> None:
    task = read_settings(str(path.parent))
    if task.get("task") is not None:
        find_task(task["task"])
    assert isinstance(task.get("max_length", 3), int)


def read_log_line(path: Path) -> None:
    read_rows([path.parent])


def read_parts_run(path: Path) -> None:
    """As `--resume` of a run whose folder this is; what it may not go on with is a refusal too."""
    open_run(str(path.parent), PARTS_RUN)


def read_prepared_settings(path: Path) -> None:
    _open_folder(path.parent, PREPARED_SETTINGS)
    (path.parent / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(UserError) as error:
        read_manifest(path.parent)  # not finished, or damaged
    if "is damaged" in str(error.value):
        raise error.value


def read_part_counts(path: Path) -> None:
    """As the end of `prepare` with one part."""
    out = path.parent.parent
    (out / "jobs").mkdir(exist_ok=True)
    (out / "jobs" / "00001-of-00001.json").write_bytes(dumps(PREPARED_JOB))
    if is_finished(out, (0, 0)):  # none of the files is there: only a part without rows can be
        assert json.loads(path.read_bytes())["splits"] == {}
    finish_jobs(out, PREPARED_SETTINGS, 1)


def read_job(path: Path) -> None:
    out = path.parent.parent
    (out / "parts").mkdir(exist_ok=True)
    (out / "parts" / "00000-00000.json").write_bytes(dumps(PREPARED_PART))
    try:
        finish_jobs(out, PREPARED_SETTINGS, 1)
    except UserError as error:
        if "no such file" not in str(error):  # a part that is named and not there
            raise


def read_table(path: Path) -> None:
    table = collect(iter_rows(path), str(path))
    for _ in table.rows():
        pass


def read_lines(path: Path) -> None:
    with path.open("rb") as stream:
        name, rows = iter_texts("-", stream)
        for _ in rows:
            assert name == "stdin"


def read_squad(path: Path) -> None:
    squad = find_task("squad2")
    assert squad.release is not None
    squad.release.read(path, squad.parts[0], lambda problem: None)


def read_options(path: Path) -> None:
    read_toml(path)
    options, settings = _options_from(path, "no-command")
    parse_options(settings | {key: str(value) for key, value in options.items()})


def read_checkpoint(path: Path) -> None:
    complete_checkpoints(path.parent.parent)


def read_archive(path: Path) -> None:
    with unpacked(path):
        pass


def tar_of(chance: random.Random) -> bytes:
    """An archive with chains of long names, extended headers, deep folders, odd sizes, names and kinds."""
    stream = io.BytesIO()
    form = chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for _ in range(chance.randint(1, 4)):
            part = chance.choice(("a", "..", "é", "x" * 90, ".", "", "\\"))
            name = "/".join([part] * chance.choice((1, 2, 40, 400)))[
                : 90 if form == tarfile.USTAR_FORMAT else None
            ]
            member = tarfile.TarInfo(name)
            member.type = chance.choice(
                (tarfile.REGTYPE,) * 5 + (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)
            )
            content = chance.randbytes(chance.choice((0, 1, 700)))
            if form == tarfile.PAX_FORMAT and chance.random() < 0.5:
                member.pax_headers = {
                    chance.choice(
                        ("size", "path", "mtime", "hdrcharset", "GNU.sparse.major", "GNU.sparse.map", "x")
                    ): (chance.choice(("-1", "x", "1", "9" * 30, "BINARY", "1.0", "é")))
                }
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    data = stream.getvalue()
    if chance.random() < 0.2:  # a chain of headers, each of the next
        first = tarfile.TarInfo("././@LongLink")
        first.type, first.size = tarfile.GNUTYPE_LONGNAME, 2
        data = (first.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * chance.choice(
            (2, 20, 3000)
        ) + data
    return data


def plain_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a/b"))
    return stream.getvalue()


def csv_of(value: Any) -> bytes:
    stream = io.StringIO()
    rows = value if isinstance(value, list) else [value]
    csv.writer(stream).writerows(
        [
            row.values() if isinstance(row, dict) else [row]
            for row in [{name: name for name in ROWS[0]}, *rows]
        ]
    )
    return stream.getvalue().encode("utf-8", "surrogatepass")


def parquet_of() -> bytes:
    stream = io.BytesIO()
    times = pa.array([0, 1, 2], pa.timestamp("us"))
    texts = pa.array(["a", "é", "cat"])
    pq.write_table(pa.table({"text": texts, "when": times, "n": [1, 2, 3]}), stream, compression="NONE")
    return stream.getvalue()


def made_tokenizer() -> dict[str, Any]:
    """The files of a small tokenizer, by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.txt").write_text("\n".join((*SPECIAL_TOKENS.values(), "a", "##b", "cat")) + "\n")
        save_tokenizer(tokenizer_from_vocab(folder / "vocab.txt"), folder / "saved")
        return {
            file.name: json.loads(file.read_text(encoding="utf-8"))
            for file in sorted((folder / "saved").glob("*.json"))
        }


Reader = tuple[str, Any, Callable[[Path], object]]
# Name of the file, what it holds when sound, and what reads it.
READERS: dict[str, Reader] = {
    "config.json": ("config.json", CONFIG, read_config),
    "task.json": ("task.json", TASK, read_task),
    "run.json": ("run.json", RUN, read_log_line),
    "metrics.json": ("metrics.json", METRICS, read_log_line),
    "run_config.toml": ("run_config.toml", RUN_CONFIG, read_log_line),
    "log.jsonl": ("log.jsonl", {"step": 1, "loss": 2.5, "eval_accuracy": 0.5}, read_log_line),
    "export.json": ("export.json", EXPORT, read_json),
    "options.toml": ("options.toml", RUN_CONFIG, read_options),
    "complete.json": ("checkpoint-1/complete.json", {"bytes": {"a": 1}}, read_checkpoint),
    "modules.json": ("modules.json", MODULES, lambda path: read_modules(path.parent)),
    "sentence_bert_config.json": (
        "sentence_bert_config.json",
        SENTENCE,
        lambda p: read_modules(p.parent),
    ),
    "index": ("model.safetensors.index.json", {"weight_map": {"a": "one.safetensors"}}, read_state_dict),
    "vocab of tokenizer.json": (
        "tokenizer.json",
        {"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 1}}},
        lambda path: _vocabulary(path.parent),
    ),
    "PoNet's config.json": ("config.json", PONET, lambda p: ponet.config_from_theirs(read_json(p), str(p))),
    "Funnel's config.json": (
        "config.json",
        FUNNEL,
        lambda path: transformers_funnel.config_from_theirs(read_json(path), str(path), True),
    ),
    "net_config.json": (
        "net_config.pytorch.json",
        NET,
        lambda p: make_config(original_torch.config_values(read_json(p), str(p)), str(p)),
    ),
    "run.json of parts": ("run.json", PARTS_RUN, read_parts_run),
    "settings.json of prepared data": ("settings.json", PREPARED_SETTINGS, read_prepared_settings),
    "manifest.json of prepared data": ("manifest.json", PREPARED, lambda path: read_manifest(path.parent)),
    "counts of a part": ("parts/00000-00000.json", PREPARED_PART, read_part_counts),
    "parts of a job": ("jobs/00001-of-00001.json", PREPARED_JOB, read_job),
    "any JSON": ("any.json", [CONFIG, ROWS], read_json_value),
    "rows.jsonl": ("rows.jsonl", ROWS, read_table),
    "stdin": ("stdin", ROWS, read_lines),
    "rows.json": ("rows.json", ROWS, read_table),
    "squad.json": ("squad.json", SQUAD, read_squad),
    "rows.csv": ("rows.csv", ROWS, read_table),
    "rows.tsv": ("rows.tsv", ROWS, read_table),
    "rows.parquet": ("rows.parquet", None, read_table),
    "archive.tar": ("archive.tar", None, read_archive),
}
# Each file of a tokenizer's folder, the other one sound.
TOKENIZER = made_tokenizer()
READERS |= {
    name: (name, value, lambda path: load_tokenizer(path.parent)) for name, value in TOKENIZER.items()
}
_LINES = ("log.jsonl", "rows.jsonl", "stdin")


def sound(name: str, value: Any) -> bytes:
    if name == "rows.parquet":
        return parquet_of()
    if name in _LINES:
        return b"".join(dumps(row) + b"\n" for row in (value if isinstance(value, list) else [value]))
    if name in ("rows.csv", "rows.tsv"):
        return csv_of(value) if name == "rows.csv" else csv_of(value).replace(b",", b"\t")
    if name.endswith(".toml"):
        return tomli_w.dumps(value).encode()
    return dumps(value)


def inputs(name: str, value: Any, number: int) -> Iterator[bytes]:
    """The damaged contents of a file, half of either kind."""
    chance = random.Random(name)
    content = tar_of(chance) if name == "archive.tar" else sound(name, value)
    for turn in range(number):
        if name == "archive.tar":
            made = tar_of(chance)
            yield made if turn % 2 else broken(made, chance)
        elif turn % 2 or value is None:
            yield broken(content, chance)
        else:
            changed = restructured(value, chance)
            try:
                yield sound(name, changed)
            except (TypeError, AttributeError, ValueError, RecursionError):  # TOML holds less than JSON
                yield broken(content, chance)


def fuzz(reader: str, folder: Path, number: int) -> None:
    name, value, read = READERS[reader]
    path = folder / "folder" / name
    path.parent.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, path.with_name("one.safetensors"))
    for other, content in (("metrics.json", METRICS), ("run.json", RUN), ("run_config.toml", RUN_CONFIG)):
        path.with_name(other).write_bytes(sound(other, content))
    if reader in ("modules.json", "sentence_bert_config.json"):
        path.with_name("modules.json").write_bytes(dumps(MODULES))
        path.with_name("sentence_bert_config.json").write_bytes(dumps(SENTENCE))
    if reader in TOKENIZER:
        for other, content in TOKENIZER.items():
            path.with_name(other).write_bytes(dumps(content))
    path.write_bytes(sound(path.name, value) if value is not None or name == "rows.parquet" else plain_tar())
    read(path)
    refused = 0
    for turn, content in enumerate(inputs(path.name, value, number)):
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            refused += 1
            if "\n" in str(error):
                raise
        except Exception as error:
            shown = content if len(content) < 3000 else content[:300] + b" ... " + content[-300:]
            raise AssertionError(
                f"input {turn} of {reader}: {type(error).__name__}: {error}\n{shown!r}"
            ) from error
    assert refused < number
    assert refused > 0.05 * number or reader == "complete.json"  # which is not complete, then


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where the system has such a place: a file is written for every input."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.parametrize("reader", READERS)
def test_damaged_file(reader: str, folder: Path) -> None:
    fuzz(reader, folder, FEW)


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("reader", READERS)
def test_many_damaged_files(reader: str, folder: Path) -> None:
    fuzz(reader, folder, MANY)
