"""What a fine-tuning run leaves behind for people: its dev predictions, mistakes, figures and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from seqeval.metrics import classification_report
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ...base.figures import save_png
from ...base.files import atomic_writer
from ...base.strict_json import json_text
from ...tasks.judge import Judged
from ...tasks.scores import Calibration, calibration
from ...tasks.task import Task
from .model_card import FinishedRun, model_card
from .plots import draw_amounts, draw_calibration, draw_confusion, draw_curve

__all__ = ["NUM_MISTAKES", "dev_calibration", "write_report"]

NUM_MISTAKES = 50
_EXCLUSIVE = ("classification", "choice")


def write_report(run: FinishedRun) -> None:
    """Write the predictions, mistakes, figures and model card into the run's folder; each file appears whole."""
    out = run.config.out
    score = run.metrics["metric"].removeprefix("dev_")
    variant = next(iter(run.judged), "")
    loss = f"eval_{variant}_loss" if variant else "eval_loss"
    tables: dict[str, list[list[str]]] = {}
    pictures = []
    if run.log:  # with a frozen encoder there was no step
        save_png(draw_curve(run.log, loss, f"eval_{score}"), out / "curve.png")
        pictures.append("curve.png")
    for variant, judged in run.judged.items():
        ending = f"-{variant}" if variant else ""
        _write_predictions(judged, out / f"predictions{ending}.jsonl")
        _write_mistakes(judged, out / f"mistakes{ending}.tsv")
        tables[variant] = _by_class(run.task, judged)
        for name, figure in _figures(run.task, judged):
            save_png(figure, out / f"{name}{ending}.png")
            pictures.append(f"{name}{ending}.png")
    text = model_card(run, tables, pictures)
    with atomic_writer(out / "README.md") as file:
        file.write(text)


def dev_calibration(task: Task, judged: Judged) -> Calibration | None:
    """Calibration of answers with one probability (a class, a choice, a span); None for other tasks."""
    if task.kind not in (*_EXCLUSIVE, "span") or judged.sureness is None:
        return None
    return calibration(judged.sureness, ~judged.is_wrong)


def _write_predictions(judged: Judged, file: Path) -> None:
    with atomic_writer(file) as stream:
        for row, loss in zip(judged.rows, judged.losses, strict=True):
            stream.write(json_text({**row, "loss": round(float(loss), 6)}, ensure_ascii=False) + "\n")


def _write_mistakes(judged: Judged, file: Path) -> None:
    """Write the wrong answers, highest loss first; `row` counts from 1."""
    wrong = np.flatnonzero(judged.is_wrong)
    hardest = wrong[np.argsort(-judged.losses[wrong], kind="stable")][:NUM_MISTAKES]
    inputs = [
        name for name in judged.rows[0] if name not in ("gold", "prediction", "probability", "probabilities")
    ]
    with atomic_writer(file) as stream:
        stream.write("\t".join(("row", "loss", "gold", "predicted", "probability", *inputs)) + "\n")
        for index in hardest:
            row = judged.rows[index]
            sure = "" if judged.sureness is None else f"{judged.sureness[index]:.4f}"
            cells = [
                str(index + 1),
                f"{judged.losses[index]:.4f}",
                _cell(row["gold"]),
                _cell(row["prediction"]),
                sure,
            ]
            stream.write("\t".join((*cells, *(_cell(row[name]) for name in inputs))) + "\n")


def _cell(value: Any) -> str:
    """The text of a value in a tsv table: one line, without quoting."""
    if isinstance(value, list):
        value = (
            " | ".join(map(str, value))
            if any(" " in str(item) for item in value)
            else " ".join(map(str, value))
        )
    return f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).split())


def _figures(task: Task, judged: Judged) -> list[tuple[str, Any]]:
    """Figures of the dev answers, with the names of their files."""
    if task.kind == "regression":
        assert judged.gold is not None
        assert judged.predicted is not None
        return [("amounts", draw_amounts(judged.gold, judged.predicted))]
    found = dev_calibration(task, judged)
    if found is None:
        return []
    figures = [("calibration", draw_calibration(found))]
    if task.kind in _EXCLUSIVE:
        assert task.labels is not None
        matrix = confusion_matrix(judged.gold, judged.predicted, labels=range(len(task.labels)))
        figures.insert(0, ("confusion", draw_confusion(matrix, task.labels)))
    return figures


def _by_class(task: Task, judged: Judged) -> list[list[str]]:
    """A table with a header: precision, recall, F1 and examples of each class, label or type of entity."""
    header = ["class", "precision", "recall", "F1", "examples"]
    if task.kind == "tokens":
        gold, said = ([row[key] for row in judged.rows] for key in ("gold", "prediction"))
        found = classification_report(gold, said, output_dict=True, zero_division=0)
        rows = [
            [
                name,
                *(f"{entry[key]:.4f}" for key in ("precision", "recall", "f1-score")),
                str(entry["support"]),
            ]
            for name, entry in found.items()
        ]
        return [["entity", *header[1:-1], "entities"], *rows]
    if task.kind in ("regression", "span"):
        return []
    assert task.labels is not None
    if task.kind == "multi-label":
        right, chosen = (
            np.array([[name in row[key] for name in task.labels] for row in judged.rows])
            for key in ("gold", "prediction")
        )
        scores = precision_recall_fscore_support(right, chosen, zero_division=0)
    else:
        scores = precision_recall_fscore_support(
            judged.gold, judged.predicted, labels=range(len(task.labels)), zero_division=0
        )
    return [
        header,
        *(
            [name, f"{precision:.4f}", f"{recall:.4f}", f"{f1:.4f}", str(count)]
            for name, precision, recall, f1, count in zip(task.labels, *scores, strict=True)
        ),
    ]
