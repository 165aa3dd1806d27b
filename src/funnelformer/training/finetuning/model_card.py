"""The README.md of a fine-tuned model, with the metadata that the Hub reads."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.machine import versions
from ...base.markdown import as_text, markdown_table
from ...base.options import flag
from ...checkpoints.card import (
    card_text,
    inherited,
    measurements,
    model_snippet,
    predictor_snippet,
    results,
)
from ...checkpoints.model_source import Layout, find_model
from ...modeling import HEADS
from ...tasks.judge import Judged
from ...tasks.task import Task
from ..run.folder import resolved

if TYPE_CHECKING:
    from .config import FinetuneConfig

__all__ = ["FinishedRun", "command_line", "model_card"]

_SELECTED = "The dev part selected the checkpoint, so its scores are a little too good"
# The Hub's names for kinds of tasks (`pipeline_tag`).
_PIPELINES = {
    "classification": "text-classification",
    "multi-label": "text-classification",
    "regression": "text-classification",
    "tokens": "token-classification",
    "choice": "multiple-choice",
    "span": "question-answering",
}
_HYPERPARAMETERS = (
    *(
        "learning_rate",
        "batch_size",
        "gradient_accumulation",
        "epochs",
        "steps",
        "warmup",
        "schedule",
        "clip",
    ),
    *(
        "weight_decay",
        "layer_decay",
        "class_weights",
        "early_stopping",
        "precision",
        "group_by_length",
        "seed",
    ),
)
_OF_PAIRS = (
    *(
        "learning_rate",
        "batch_size",
        "gradient_accumulation",
        "contrastive_epochs",
        "warmup",
        "schedule",
        "clip",
    ),
    *("weight_decay", "layer_decay", "precision"),
)


@dataclass(frozen=True)
class FinishedRun:
    """A run whose model is saved. metrics: the content of metrics.json. log: the Trainer's entries.

    judged: the dev parts with their answers, by variant ("" if there is only one part).
    made_from: that key of the model's config.
    max_length: number of tokens after which texts are cut. num_cut: number of training texts that were cut.
    """

    config: FinetuneConfig
    task: Task
    max_length: int
    num_cut: int
    metrics: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    judged: Mapping[str, Judged]
    made_from: Mapping[str, Any] | None = None


def model_card(
    run: FinishedRun, tables: Mapping[str, Sequence[Sequence[str]]], pictures: Sequence[str]
) -> str:
    """The text of the card. tables: scores by class, for each variant of the dev part. pictures: files of the run."""
    metrics, config = run.metrics, run.config
    name = run.task.name or _data_name(metrics["data"]["train"]["source"])
    title = f"{metrics['model']} on {name}"
    sections = {
        "Scores": _scores(metrics),
        "Data": _data(metrics["data"]),
        "Cost": _cost(metrics),
        "Hyper-parameters": _hyperparameters(run),
        "Command": f"    {command_line(config)}\n\nWith "
        + ", ".join(f"{key} {str(value)[:12]}" for key, value in versions().items() if value)
        + ".",
    }
    for variant, table in tables.items():
        if table:
            where = f"the dev part `{variant}`" if variant else "the dev part"
            sections[f"By class, on {where}"] = _plain_table(table[0], table[1:])
    sections["Figures"] = "\n".join(f"![{Path(file).stem}]({file})" for file in pictures)
    sections["Limits"] = _limits(run)
    return card_text(
        title=title,
        introduction=_introduction(run, name),
        snippet=_snippet(run.task),
        sections=sections,
        **_metadata(run, name),
    )


def _snippet(task: Task) -> str:
    if task.kind in ("tokens", "choice", "span"):
        return model_snippet(next(h.class_name for h in HEADS.values() if h.task_kind == task.kind))
    return predictor_snippet()


def command_line(config: FinetuneConfig) -> str:
    """The command that repeats the run: its options that differ from the defaults."""
    defaults = {
        flag(entry.name): entry.default
        for entry in dataclasses.fields(config)
        if entry.default is not dataclasses.MISSING
    }
    words = ["funnelformer", "finetune"]
    for key, value in resolved(config).items():
        if key == "set":
            words += [f"--set.{name}={option}" for name, option in value.items()]
        elif key == "language":
            words += ["--language", *value]
        elif value is True:
            words.append(f"--{key}")
        elif value != defaults.get(f"--{key}"):
            words += [f"--{key}", str(value)]
    return shlex.join(words)


def _metadata(run: FinishedRun, name: str) -> dict[str, Any]:
    task, release = run.task, run.task.release
    hub, _, part = ("", "", "") if release is None else release.hub.partition(":")
    pipeline = _PIPELINES.get(task.kind)
    found = []
    for role in ("dev", "test"):
        scores = {
            score: run.metrics[key] for score in task.scores if (key := f"{role}_{score}") in run.metrics
        }
        found += results(scores, pipeline, name, split=role, hub=hub)
    for result in found:
        result.dataset_config = part or None
    return {
        **inherited(run.config.model, stated=run.config),
        "pipeline_tag": pipeline,
        "datasets": [hub] if hub else None,
        **measurements(found, f"{run.metrics['model']}-{name}"),
    }


def _introduction(run: FinishedRun, name: str) -> str:
    task, source = run.task, run.config.model
    start = (
        f"fine-tuned from `{as_text(source)}`"
        if not isinstance(find_model(source), Layout)
        else "trained from random weights"
    )
    if made := run.made_from:
        start += f", which was made from `{as_text(made['source'])}` ({made['model_type']}, {made['source_layout']})"
    if taught := run.metrics.get("teacher"):
        start += f" beside the answers of `{as_text(taught['name'])}`"
    what = {
        "classification": "tells which of {n} classes a text belongs to",
        "multi-label": "tells which of {n} labels a text has",
        "regression": "gives an amount for a text",
        "tokens": "gives a tag to every token of a text",
        "choice": "chooses one of {n} answers to a question on a passage",
        "span": "answers a question with a part of a passage",
    }[task.kind]
    labels = (
        "" if task.labels is None else f" Labels: {', '.join(f'`{as_text(name)}`' for name in task.labels)}."
    )
    return (
        f"A model of the layout {as_text(run.metrics['model'])}, {run.metrics['num_parameters']:,} parameters, "
        f"{start}, that {what.format(n=len(task.labels or ()))} (task: {as_text(name)}). "
        f"Texts are cut at {run.max_length} tokens.{labels}"
    )


def _scores(metrics: Mapping[str, Any]) -> str:
    rows = [[key, f"{value:.4f}"] for key, value in metrics.items() if key.startswith(("dev_", "test_"))] + [
        [f"{name}_ece (expected calibration error)", f"{value:.4f}"]
        for name, value in metrics.get("ece", {}).items()
    ]
    if "best_step" in metrics:
        steps = f"step {metrics['best_step']} of {metrics['steps']}"
        selected = f"The checkpoint of {steps} was the best by `{metrics['metric']}`."
    else:
        selected = "The dev part chose nothing; cross-validation on the training data chose the strength of the head."
    return _plain_table(["score", "value"], rows) + f"\n\n{selected}"


def _data(parts: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [part, entry["source"], f"{entry['rows']:,}", entry["rows_sha256"], entry["file_sha256"] or ""]
        for part, entry in parts.items()
    ]
    return _plain_table(["part", "source", "rows", "SHA-256 of the rows", "SHA-256 of the file"], rows)


def _cost(metrics: Mapping[str, Any]) -> str:
    cost = metrics["cost"]
    rows = [
        ["training, without evaluations and checkpoints", f"{cost['train_seconds']:.1f} s"],
        ["training", f"{cost['train_flops']:.3e} FLOPs"],
        [f"most memory ({cost['peak_memory_of']})", f"{cost['peak_memory_bytes'] / 2**20:,.0f} MiB"],
        ["parameters", f"{metrics['num_parameters']:,}"],
        ["processes", str(cost["num_processes"])],
        ["device", cost["device"]],
    ]
    return _plain_table(["what", "value"], rows)


def _hyperparameters(run: FinishedRun) -> str:
    config = run.config
    chosen = {name: getattr(config, name) for name in _HYPERPARAMETERS}
    if config.fits_head:
        trained_by = _OF_PAIRS if config.few_shot else ()
        chosen = {name: getattr(config, name) for name in (*trained_by, "class_weights", "seed")}
        chosen |= {
            f"{key} of the head": value
            for key, value in run.metrics["chosen"].items()
            if key != "learning_rate"
        }
    if config.learning_rate == "auto" and "learning_rate" in chosen:
        chosen["learning_rate"] = f"{run.metrics['chosen']['learning_rate']:g} (auto)"
    if config.steps is not None:
        chosen.pop("epochs", None)
    rows = [
        [name.replace("_", " "), str(value)] for name, value in chosen.items() if value not in (None, False)
    ]
    rows += [[f"teacher: {key}", str(value)] for key, value in run.metrics.get("teacher", {}).items()]
    rows += [["max length", str(run.max_length)]]
    rows += [] if config.frozen else [["optimizer", "AdamW"]]
    rows += [[f"model: {key}", str(value)] for key, value in config.model_options.items()]
    return _plain_table(["option", "value"], rows)


def _limits(run: FinishedRun) -> str:
    parts = run.metrics["data"]
    lines = [
        f"The model was trained and measured on this data alone ({parts['train']['rows']:,} rows to train on): nothing "
        "is known about other sources, languages or times.",
        ("The dev part chose nothing" if run.config.fits_head else _SELECTED)
        + ("." if any(part.startswith("test") for part in parts) else "; no test part was scored."),
    ]
    if skipped := run.metrics.get("skipped_rows"):
        lines.append(f"{skipped:,} rows of the data could not be used, and were left out.")
    if run.num_cut:
        lines.append(
            f"{run.num_cut:,} training texts were longer than {run.max_length} tokens, and were cut."
        )
    if run.task.labels is not None and run.task.kind != "choice":
        lines.append("It knows only these labels, and gives one of them to any text.")
    lines.append("These are the scores of one seed; `--seeds` measures how much they depend on it.")
    return "\n".join(f"- {line}" for line in lines)


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(header, [[as_text(cell) for cell in row] for row in rows])


def _data_name(source: str) -> str:
    """The name of the data: a file's name without suffixes, or its folder's if the file is called train."""
    path = Path(source)
    name = path.name.partition(".")[0]
    return (path.absolute().parent.name if name == "train" else name) or "data"
