"""The README.md of a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from ...base.files import atomic_writer
from ...base.markdown import markdown_table
from ...checkpoints.card import CARD, card_text, inherited, measurements, results, vectors_snippet
from ...checkpoints.model_source import is_layout
from ...checkpoints.provenance import source_name
from .config import DistillConfig
from .student import PROJECTION_FILE, Student

__all__ = ["write_card"]


def write_card(
    config: DistillConfig, student: Student, scores: Mapping[str, float], metrics: Mapping[str, Any]
) -> None:
    """Write it into the run's folder. scores: of the checkpoint that was kept."""
    teacher, cost = source_name(config.teacher), metrics["cost"]
    start = (
        "from random weights"
        if is_layout(config.model)
        else f"from the weights of `{source_name(config.model)}`"
    )
    lessons = ", ".join(f"{name} (weight {weight:g})" for name, weight in config.lessons.items())
    introduction = (
        f"An encoder that gives texts vectors, {metrics['num_parameters']:,} parameters, of the layout "
        f"{metrics['model']}. It began {start}, and learned from {metrics['texts']:,} texts without labels what "
        f"`{teacher}` says of them."
    )
    if student.projection is not None:
        introduction += (
            f" Its vectors have another width than the teacher's: the weight [E, D] in `{PROJECTION_FILE}` takes one "
            "of its vectors to one of the teacher's."
        )
    steps = f"{metrics['steps']:,}"
    if best := metrics.get("best_step"):
        steps += f", of which step {best:,} was the best by `agreement`"
    training = [
        ["teacher", teacher],
        ["learned", lessons],
        ["texts", f"{metrics['texts']:,}"],
        ["SHA-256 of the texts", metrics["texts_sha256"]],
        ["steps", steps],
        ["texts in a step", str(config.batch_size * config.gradient_accumulation * cost["num_processes"])],
        ["learning rate", f"{metrics['chosen']['learning_rate']:g}"],
        ["tokens of a text at most", str(student.settings.max_length)],
        ["seconds, without evaluations and checkpoints", f"{cost['train_seconds']:.1f}"],
        ["device, processes", f"{cost['device']}, {cost['num_processes']}"],
    ]
    measured = [[name, f"{value:.4f}"] for name, value in scores.items()]
    sections = {
        "Scores": markdown_table(["measured", "value"], measured) if measured else "Nothing was measured.",
        "Training": markdown_table(["what", "value"], training),
    }
    # The licence of a student that was made of another model, or has the knowledge of one, is that model's.
    source = config.teacher if is_layout(config.model) else config.model
    text = card_text(
        title=f"{metrics['model']}, distilled from {teacher}",
        introduction=introduction,
        snippet=vectors_snippet(),
        sections=sections,
        pipeline_tag="sentence-similarity",
        **measurements(_results(scores), f"{metrics['model']}-distilled"),
        **inherited(source, stated=config),
    )
    with atomic_writer(config.out / CARD) as file:
        file.write(text)


def _results(scores: Mapping[str, float]) -> list[EvalResult]:
    """Scores are called by what they are and the data they are of, as spearman_sts; of held-out texts by no data."""
    found = []
    for name, value in scores.items():
        score, _, data = name.partition("_")
        found += results({score: value}, "sentence-similarity", data or "held-out texts")
    return found
