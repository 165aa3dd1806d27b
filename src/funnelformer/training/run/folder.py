"""The folder of one training run: what it was asked to do, its checkpoints, its final model."""

import dataclasses
import errno
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
import torch
from huggingface_hub.errors import StrictDataclassError

from ...base.errors import UserError, joined
from ...base.files import atomic_writer, move_entries, set_default_modes
from ...base.json_toml import read_json, read_toml
from ...base.machine import versions
from ...base.options import flag
from ...base.processes import first, num_processes, say
from ...base.strict_json import json_text, write_json
from ...checkpoints.model_source import find_model
from ...config.model_config import FunnelformerConfig
from ...data.tokenizer import save_tokenizer
from ...spread.engine_options import ClusterOptions
from .config import RunConfig
from .input_files import check_inputs, input_files, write_inputs

__all__ = [
    "check_run",
    "complete_checkpoints",
    "config_from_name",
    "finished_before",
    "last_checkpoint",
    "mark_complete",
    "one_line_errors",
    "open_run",
    "remove_checkpoint",
    "resolved",
    "save_final",
    "saved_for_all",
    "sequences_per_step",
    "write_log",
]

CONFIG_FILE = "run_config.toml"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
COMPLETE_FILE = "complete.json"  # of a checkpoint
# The folder may have been moved, and what follows changes no step that has been made.
_MAY_CHANGE = {"license", "language", "out", "on-nan", "report-to", "probe-train", "probe-dev", "probe-every"}
_MAY_CHANGE |= {flag(entry.name).removeprefix("--") for entry in dataclasses.fields(ClusterOptions)}
# The parts of a step, beside the number of processes: they may change as long as the step is the same sequences.
_PARTS_OF_STEP = {"batch-size", "gradient-accumulation"}


def config_from_name(name: str, settings: dict[str, Any]) -> FunnelformerConfig:
    """Build a config from a layout or preset. Raises UserError for any other name, which may be a mistyped folder."""
    find_model(name)
    try:
        return FunnelformerConfig.from_name(name, **settings)
    except UserError:
        raise
    except (ValueError, TypeError, StrictDataclassError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise UserError(f"model config: one of {given} has the wrong type ({joined(error)})") from error


def check_run(config: RunConfig) -> Path | None:
    """Check that the run can have its folder, and write nothing; return the checkpoint to resume from.

    Raises UserError when the folder is not empty and neither `resume` nor `overwrite` is set, when there is
    nothing to resume, or when a resumed run was asked for something else than it began with.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names a folder")
    checkpoint = last_checkpoint(out) if config.resume or config.auto_resume else None
    if checkpoint is not None:
        _reject_changes(config, out / CONFIG_FILE)
        return checkpoint
    if config.resume:
        raise UserError(
            f"{out} holds no complete checkpoint to resume from; run without --resume to start again"
        )
    if out.is_dir() and any(out.iterdir()):
        if config.auto_resume and (out / CONFIG_FILE).is_file():
            # A run that was cut off before its first checkpoint.
            _reject_changes(config, out / CONFIG_FILE)
        elif not config.overwrite:
            raise UserError(f"{out} is not empty; choose another --out, or pass --resume or --overwrite")
        if not (out / CONFIG_FILE).is_file():
            raise UserError(
                f"{out} is not the folder of a run (it has no {CONFIG_FILE}); --overwrite would destroy it"
            )
    return None


def finished_before(config: RunConfig) -> dict[str, Any] | None:
    """The metrics of a run that should go on but is finished, which it prints; else None. Every process calls this.

    Raises UserError if the run began with other options.
    """
    metrics = first(lambda: _finished_metrics(config))
    if metrics is not None:
        say(f"{config.out} is finished")
    return metrics


def _finished_metrics(config: RunConfig) -> dict[str, Any] | None:
    """The metrics in metrics.json, which a run writes last."""
    file = config.out / METRICS_FILE
    if not (config.resume or config.auto_resume) or not file.is_file():
        return None
    _reject_changes(config, config.out / CONFIG_FILE)
    return read_json(file)


def open_run(config: RunConfig, command: str) -> Path | None:
    """Prepare the run's folder and write down what runs; return the checkpoint to resume from.

    Raises UserError as `check_run`, or when the folder cannot be made.
    """
    checkpoint = check_run(config)
    out = config.out
    if checkpoint is not None:
        # What an interrupted save left behind would only be mistaken for a checkpoint.
        for folder in (out / "checkpoints").glob("checkpoint-*"):
            if not _is_complete(folder):
                remove_checkpoint(folder)
    elif out.is_dir():
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror})") from error
    if checkpoint is None:
        with atomic_writer(out / CONFIG_FILE) as file:
            file.write(tomli_w.dumps(resolved(config)))
        write_inputs(out, input_files(config))
    write_json(out / RUN_FILE, {**_circumstances(command), "sequences_per_step": sequences_per_step(config)})
    return checkpoint


def resolved(config: RunConfig) -> dict[str, Any]:
    """The config as TOML can hold it: paths as text, unset options left out, `set` as on the command line."""
    values = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if entry.name in ("resume", "auto_resume", "overwrite") or value is None or value == []:
            continue
        key = "set" if entry.name == "model_options" else entry.name.replace("_", "-")
        if isinstance(value, list):
            value = [str(item) if isinstance(item, Path) else item for item in value]
        values[key] = str(value) if isinstance(value, Path) else value
    return values


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that were written to their end, oldest first."""
    found = [checkpoint for checkpoint in folder.glob("checkpoint-*") if _is_complete(checkpoint)]
    return sorted(found, key=lambda checkpoint: int(checkpoint.name.rsplit("-", 1)[1]))


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    return next(reversed(complete_checkpoints(out / "checkpoints")), None)


def save_final(model: Any, tokenizer: Any, out: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Put model, config and tokenizer into `out`; each file appears whole or not at all.

    state: weights in place of those of the model, which may be shards.
    """
    staging = out / ".saving"  # inside: a run's folder may be a file system of its own
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with saved_for_all(model):
        model.save_pretrained(staging, state_dict=state)
    save_tokenizer(tokenizer, staging)
    set_default_modes(staging)
    move_entries(staging, out)
    staging.rmdir()


def write_log(out: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write the Trainer's entries to log.jsonl; it is empty if no step was made."""
    with atomic_writer(out / "log.jsonl") as file:
        file.writelines(json_text(entry) + "\n" for entry in entries)


@contextmanager
def saved_for_all(model: Any) -> Iterator[None]:
    """Save a model inside without `sparse_prediction`, which spares pretraining logits that nobody looks at.

    In the Trainers of others, logits of some tokens alone would be a surprise.
    """
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    sparse = [config for config in configs.values() if getattr(config, "sparse_prediction", False)]
    for config in sparse:
        config.sparse_prediction = False
    try:
        yield
    finally:
        for config in sparse:
            config.sparse_prediction = True


@contextmanager
def one_line_errors(out: Path) -> Iterator[None]:
    """If the run is interrupted or the disk is full, say in one line what is left of it."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {_what_is_left(out)}") from None
    except Exception as error:
        if not _disk_is_full(error):
            raise
        raise UserError(f"{out}: no space left to write to; make room; {_what_is_left(out)}") from error


def _what_is_left(out: Path) -> str:
    checkpoint = last_checkpoint(out)
    if checkpoint is None:
        return "no checkpoint had been written yet; begin again with --overwrite"
    return f"the last good checkpoint is {checkpoint}; go on from it with --resume"


# safetensors gives the system's message as text; torch's zip writer says only that a write fell short.
_NO_SPACE = ("No space left", "File too large", "file write failed", "unexpected pos", "failed writing file")


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            return True
        if any(text in str(error) for text in _NO_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False


def mark_complete(checkpoint: Path) -> None:
    """Write down what a checkpoint holds, once every process has written its part, and let all read it who may."""
    set_default_modes(checkpoint)
    sizes = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    write_json(checkpoint / COMPLETE_FILE, {"bytes": sizes})


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint; half deleted, it is none."""
    (checkpoint / COMPLETE_FILE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _is_complete(checkpoint: Path) -> bool:
    """Whether the list that is written last is there, and every file in it in its size."""
    try:
        sizes = read_json(checkpoint / COMPLETE_FILE).get("bytes")
        return isinstance(sizes, dict) and all(
            (checkpoint / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError):
        return False


def _reject_changes(config: RunConfig, file: Path) -> None:
    try:
        before = read_toml(file)
    except UserError as error:
        raise UserError(f"{error}; so the run cannot be resumed") from None
    now = tomllib.loads(tomli_w.dumps(resolved(config)))
    num_before, num_now = _sequences_before(file.with_name(RUN_FILE)), sequences_per_step(config)
    may_change = _MAY_CHANGE | (_PARTS_OF_STEP if num_before == num_now else set())
    for key in sorted((before.keys() | now.keys()) - may_change):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{file}: the run began with {key} = {before.get(key)!r}, now it is {now.get(key)!r}"
            )
    if num_before not in (None, num_now):
        raise UserError(
            f"{file}: the run began with {num_before} sequences a step, now they are {num_now} on {num_processes()} "
            "processes; set --batch-size x --gradient-accumulation so that they are the same"
        )
    check_inputs(file.parent, input_files(config))


def sequences_per_step(config: RunConfig) -> int:
    """The number of sequences in a step, over all processes and accumulation steps."""
    return config.batch_size * config.gradient_accumulation * num_processes()


def _sequences_before(file: Path) -> int | None:
    """What run.json says of them; None for a run whose file says nothing."""
    try:
        return read_json(file).get("sequences_per_step")
    except UserError:
        return None


def _circumstances(command: str) -> dict[str, Any]:
    """Command, versions and commit: what is needed to repeat the run."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {
        "command": command,
        "argv": sys.argv,
        **versions(),
        "device": device,
        "num_threads": torch.get_num_threads(),
        "num_processes": num_processes(),
    }
