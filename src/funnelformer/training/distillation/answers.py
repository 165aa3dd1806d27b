"""`distill --learn logits` and `scores`: a student with a head learns the answers of a teacher's head."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import datasets
import numpy as np

from ...base.errors import UserError
from ...base.processes import first, say
from ...base.strict_json import write_json
from ...checkpoints.model_source import is_layout
from ...checkpoints.provenance import source_name
from ...data.example_rows import Rows
from ...data.tokenizer import check_vocabulary
from ...inference.settings import DEFAULT_LENGTH, TASK_FILE, allow_length, check_length, read_settings
from ...tasks.kinds import kind_of
from ...tasks.task import Task
from ..finetuning.config import FinetuneConfig
from ..finetuning.finetune import make_model, task_entry, train_model
from ..finetuning.run_parts import Inputs
from ..finetuning.start_labels import start_labels
from ..finetuning.task_data import TaskData
from ..finetuning.taught import Teaching
from ..run.config import RunConfig
from ..run.facts import write_metrics
from ..run.folder import check_run, open_run, sequences_per_step
from .answer_inputs import AnswerInputs, read_inputs
from .answering_teacher import AnsweringTeacher, find_teacher, task_of
from .config import DistillConfig
from .reranking import Reranking, read_reranking
from .step_plan import check_enough
from .student import DROPOUTS, set_dropout, shortening, student_tokenizer
from .student_card import write_answers_card
from .teacher_answers import DealtAnswers, ask_teacher

__all__ = ["distill_answers"]

# The correlation with the teacher's order chooses the checkpoint of a student that orders.
_SCORES_OF_RANKS = ("spearman", "pearson", "mse")


def distill_answers(config: DistillConfig) -> dict[str, Any]:
    """Train a student with a head, keep its best checkpoint, return its metrics (also in metrics.json).

    The labels are the teacher's, and the folder is like that of a fine-tuned model. The loss is the distance to the
    teacher's answers alone, see `answer_losses`: the divergence of logits, or the squared difference of scores.
    Raises UserError for input that cannot be used, before the teacher reads the first text.
    """
    first(lambda: check_run(config))
    (lesson,) = config.lessons
    inputs = read_inputs(config)
    task = _task(config, inputs, lesson)
    kind = kind_of(task)
    teacher = find_teacher(config.teacher, kind)
    length = _length(config, teacher)
    own = _as_finetuning(config, task, length)
    tokenizer = student_tokenizer(config, teacher.tokenizer)
    start = None if is_layout(config.model) else start_labels(config.model)
    model = make_model(own, kind, tokenizer, start, **shortening(config))
    check_vocabulary(tokenizer, model.config.vocab_size, config.model)
    check_length(model.config, length, "--max-length")
    kept = {name: getattr(model.config, name) for name in DROPOUTS}
    set_dropout(model, dict.fromkeys(DROPOUTS, config.dropout))
    allow_length(model.config, tokenizer, length)
    reranking = read_reranking(config.retrieval)
    values = _ask(config, inputs, teacher, task, length)
    train, dev = _examples(inputs, task, values)
    encoded = kind.encode(train, tokenizer, length)
    checkpoint = first(lambda: open_run(config, "distill"))
    say(f"student: {model.config.name}, {model.num_parameters():,} parameters")
    trained = train_model(
        own,
        Inputs(tokenizer, TaskData(kind, train, {"": dev}), model, length, None),
        encoded,
        Teaching(DealtAnswers(values[inputs.train]), task.kind, config.chosen_temperature, 1.0),
        checkpoint,
        _measured(reranking, tokenizer, length) if reranking else None,
    )

    def finish() -> dict[str, Any]:
        for name, value in kept.items():
            setattr(model.config, name, value)
        write_json(config.out / "config.json", model.config.to_diff_dict())
        metrics = {
            "model": model.config.name,
            "teacher": source_name(config.teacher),
            "kind": task.kind,
            **trained.facts,
            **({"skipped_rows": inputs.num_skipped} if config.skip_bad_rows else {}),
            **trained.scores,
            "metric": f"dev_{task.scores[0]}",
            "num_parameters": model.num_parameters(),
            "texts": len(inputs.rows),
            "texts_sha256": inputs.digest,
            "cost": dict(trained.cost),
        }
        write_json(config.out / TASK_FILE, task_entry(kind, length))
        write_answers_card(config, task, length, metrics)
        return write_metrics(config.out, metrics)

    return first(finish)


def _task(config: DistillConfig, inputs: AnswerInputs, lesson: str) -> Task:
    """The task to learn. Raises UserError if the teacher or the texts do not fit `--learn`."""
    task = task_of(config.teacher, inputs.columns)
    if lesson == "logits":
        if task.kind == "regression" and config.temperature is not None:
            raise UserError("--temperature is of classes, and amounts have none; leave it out")
        return task
    if task.kind != "regression":
        raise UserError(
            f"--teacher {config.teacher}: has the labels {', '.join((task.labels or ())[:8])}; --learn scores needs a "
            "cross-encoder with one number a pair (labels are learned with --learn logits)"
        )
    if not inputs.are_pairs:
        raise UserError(
            "--learn scores: needs pairs of a query and a passage; name their columns with --text and --text-pair"
        )
    return replace(task, scores=_SCORES_OF_RANKS)


def _length(config: DistillConfig, teacher: AnsweringTeacher) -> int:
    """The number of tokens after which the student cuts a text."""
    if config.max_length is not None:
        return config.max_length
    return min(teacher.max_length, read_settings(str(teacher.folder)).get("max_length", DEFAULT_LENGTH))


def _as_finetuning(config: DistillConfig, task: Task, length: int) -> FinetuneConfig:
    """The same training as a configuration of `finetune`."""
    shared = {entry.name: getattr(config, entry.name) for entry in fields(RunConfig)}
    return FinetuneConfig(
        **shared,
        model=config.model,
        train=config.train[0],
        tokenizer=config.tokenizer,
        regression=task.kind == "regression",
        multi_label=task.kind == "multi-label",
        max_length=length,
        steps=config.steps,
        evaluate_every=min(config.evaluate_every, config.steps),
        model_options=config.model_options,
    )


def _ask(
    config: DistillConfig, inputs: AnswerInputs, teacher: AnsweringTeacher, task: Task, length: int
) -> np.ndarray:
    """The teacher's answers to all texts, [N, L], read by its own tokenizer. Raises UserError for too few texts."""
    check_enough(len(inputs.train), sequences_per_step(config))
    kind, reach = kind_of(task), min(length, teacher.max_length)
    read = kind.encode(inputs.rows.dataset(), teacher.tokenizer, reach)
    found = ask_teacher(
        teacher,
        kind,
        read.features,
        max_length=reach,
        cache=config.cache_folder,
        device=config.device,
        precision=config.precision,
        where=config,
    )
    return found.whole()


def _examples(
    inputs: AnswerInputs, task: Task, values: np.ndarray
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The texts with the teacher's answers as their labels: to learn from, and to measure agreement."""
    if task.kind == "classification":
        labels = values.argmax(-1).tolist()
    elif task.kind == "multi-label":
        labels = (values > 0).astype(np.float32).tolist()
    else:
        labels = values[:, 0].tolist()
    whole = Rows({**inputs.rows.to_dict(), "label": labels}).dataset()
    return whole.select(inputs.train), whole.select(inputs.held_out)


def _measured(reranking: list[Reranking], tokenizer: Any, length: int) -> Any:
    def measure(model: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for entry in reranking:
            found |= entry.measure(model, tokenizer, length)
        return found

    return measure
