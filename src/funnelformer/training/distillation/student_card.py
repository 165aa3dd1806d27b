"""The README.md of a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from ...base.files import atomic_writer
from ...base.markdown import as_text, markdown_table
from ...checkpoints.card import (
    CARD,
    card_text,
    inherited,
    measurements,
    predictor_snippet,
    results,
    vectors_snippet,
)
from ...checkpoints.model_source import is_layout
from ...checkpoints.provenance import source_name
from ...tasks.task import Task
from .config import DistillConfig
from .student import PROJECTION_FILE, Student

__all__ = ["write_answers_card", "write_card"]


def write_card(
    config: DistillConfig, student: Student, scores: Mapping[str, float], metrics: Mapping[str, Any]
) -> None:
    """Write it into the run's folder. scores: of the checkpoint that was kept."""
    teacher = source_name(config.teacher)
    introduction = (
        f"An encoder that gives texts vectors, {metrics['num_parameters']:,} parameters, of the layout "
        f"{metrics['model']}. It began {_start(config)}, and learned from {metrics['texts']:,} texts without labels "
        f"what `{teacher}` says of them."
    )
    if student.projection is not None:
        introduction += (
            f" Its vectors have another width than the teacher's: the weight [E, D] in `{PROJECTION_FILE}` takes one "
            "of its vectors to one of the teacher's."
        )
    training = _training(config, metrics, student.settings.max_length, "agreement")
    measured = [[name, f"{value:.4f}"] for name, value in scores.items()]
    sections = {
        "Scores": markdown_table(["measured", "value"], measured) if measured else "Nothing was measured.",
        "Training": markdown_table(["what", "value"], training),
    }
    text = card_text(
        title=f"{metrics['model']}, distilled from {teacher}",
        introduction=introduction,
        snippet=vectors_snippet(),
        sections=sections,
        pipeline_tag="sentence-similarity",
        **measurements(_results(scores), f"{metrics['model']}-distilled"),
        **inherited(_heir(config), stated=config),
    )
    _write(config, text)


def write_answers_card(
    config: DistillConfig, task: Task, max_length: int, metrics: Mapping[str, Any]
) -> None:
    """Write the card of a student with a head; metrics.json has all its scores."""
    teacher = source_name(config.teacher)
    what = {
        "classification": "tells which of {n} classes a text is of",
        "multi-label": "tells which of {n} labels a text has",
        "regression": "gives a text a number",
    }[task.kind].format(n=len(task.labels or ()))
    if task.columns.text_pair is not None:
        what = what.replace("a text", "a pair of texts")
    names = ", ".join(f"`{as_text(name)}`" for name in task.labels or ())
    introduction = (
        f"A model of {metrics['num_parameters']:,} parameters, of the layout {metrics['model']}, that {what}. It began "
        f"{_start(config)}, and learned from {metrics['texts']:,} texts without labels what `{as_text(teacher)}` says "
        f"of them.{f' Labels: {names}.' if names else ''}"
    )
    prefixes = ("dev_", "mrr_")
    scores = [[name, f"{value:.4f}"] for name, value in metrics.items() if name.startswith(prefixes)]
    sections = {
        "Scores": markdown_table(["measured", "value"], scores)
        + "\n\nThe scores that begin with `dev_` are agreement with the teacher on held-out texts, not with people.",
        "Training": markdown_table(
            ["what", "value"], _training(config, metrics, max_length, metrics["metric"])
        ),
    }
    text = card_text(
        title=f"{metrics['model']}, distilled from {teacher}",
        introduction=introduction,
        snippet=predictor_snippet(),
        sections=sections,
        pipeline_tag="text-ranking" if "scores" in config.lessons else "text-classification",
        # Agreement with the teacher is no score that the Hub knows; places of right passages are.
        **measurements(
            _results({name: value for name, value in metrics.items() if name.startswith("mrr_")}),
            f"{metrics['model']}-distilled",
        ),
        **inherited(_heir(config), stated=config),
    )
    _write(config, text)


def _start(config: DistillConfig) -> str:
    if is_layout(config.model):
        return "from random weights"
    return f"from the weights of `{source_name(config.model)}`"


def _training(
    config: DistillConfig, metrics: Mapping[str, Any], max_length: int | None, chosen_by: str
) -> list[list[str]]:
    cost = metrics["cost"]
    steps = f"{metrics['steps']:,}"
    if best := metrics.get("best_step"):
        steps += f", of which step {best:,} was the best by `{chosen_by}`"
    return [
        ["teacher", source_name(config.teacher)],
        ["learned", ", ".join(f"{name} (weight {weight:g})" for name, weight in config.lessons.items())],
        *([["temperature", f"{config.chosen_temperature:g}"]] if "logits" in config.lessons else []),
        ["texts", f"{metrics['texts']:,}"],
        ["SHA-256 of the texts", metrics["texts_sha256"]],
        ["steps", steps],
        ["texts in a step", str(config.batch_size * config.gradient_accumulation * cost["num_processes"])],
        ["learning rate", f"{metrics['chosen']['learning_rate']:g}"],
        ["tokens of a text at most", str(max_length)],
        ["seconds, without evaluations and checkpoints", f"{cost['train_seconds']:.1f}"],
        ["device, processes", f"{cost['device']}, {cost['num_processes']}"],
    ]


def _heir(config: DistillConfig) -> str:
    """The model whose licence the student inherits: the one it was made from, or else the one it only learned from."""
    return config.teacher if is_layout(config.model) else config.model


def _write(config: DistillConfig, text: str) -> None:
    with atomic_writer(config.out / CARD) as file:
        file.write(text)


def _results(scores: Mapping[str, float]) -> list[EvalResult]:
    """Scores are called by what they are and the data they are of, as spearman_sts; of held-out texts by no data."""
    found = []
    for name, value in scores.items():
        score, _, data = name.partition("_")
        found += results({score: value}, "sentence-similarity", data or "held-out texts")
    return found
