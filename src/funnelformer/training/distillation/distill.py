"""`distill`: a student learns from texts the vectors, states or answers that a teacher gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from ...base.errors import UserError
from ...base.processes import first, num_processes, say, start_processes
from ...checkpoints.model_source import is_layout
from ...checkpoints.provenance import source_name
from ...cost.peak import reset_peak_memory
from ...data.bad_rows import BadRows
from ...inference.embedder import Embedder
from ..run.facts import run_cost, write_metrics
from ..run.folder import check_run, finished_before, open_run, sequences_per_step
from ..run.input_files import files_of, input_files, tokenizer_files
from ..run.learning_rate import auto_rate
from ..run.log_file import LogFile
from ..run.nan_watch import NanWatch
from ..run.trainer import keep_best, run_trainer, training_arguments
from .answering_teacher import teacher_files
from .answers import distill_answers
from .config import DistillConfig
from .factorised import factorised
from .held_out import Agreement, Score, read_pairs
from .linear_heads import read_heads
from .retrieval import read_retrieval
from .state_windows import StateTarget, state_targets
from .step_plan import StepPlan, check_enough, in_random_order
from .stored_parts import check_room
from .student import Student, make_student
from .student_card import write_card
from .teacher import Teacher, load_teacher
from .teacher_outputs import (
    TeacherStates,
    TeacherVectors,
    compute_states,
    compute_vectors,
    state_bytes,
    vector_bytes,
)
from .teacher_pass import check_cluster
from .text_files import Survey, TextFiles
from .token_rows import Reader, TokenRows, tokenize
from .trainer import Collator, DistillTrainer, FrozenEmbeddings

__all__ = ["distill"]

# Of a student that was made from a trained model: that of the recipe in docs/distilling.md.
_RATE = 2e-4
_METRIC = "agreement"
# The texts whose states are learned are the same for all seeds, so that the cache serves them all.
_STATE_SEED = 0


@input_files.register
def _(config: DistillConfig) -> list[Path]:
    """The texts and the pairs, and the tokenizer's files."""
    measured = (*config.pairs, *config.retrieval, *config.labelled)
    found = [file for name in measured for file in files_of(name)]
    for source in TextFiles.find(config.train).sources:
        found += files_of(source if isinstance(source, Path) else source.name)
    taught = teacher_files(config.teacher) if config.learns_answers else []
    return [*found, *(tokenizer_files(config.tokenizer) if config.tokenizer else []), *taught]


def distill(config: DistillConfig) -> dict[str, Any]:
    """Train a student, keep its best checkpoint, return its metrics (also in metrics.json).

    Under torchrun every process calls it, and the first one writes and prints.
    Raises UserError for input that cannot be used, before the teacher reads the first text.
    """
    start_processes(cpu=config.device == "cpu")
    before = finished_before(config)
    if before is not None:
        return before
    transformers.set_seed(config.seed)
    first(lambda: check_cluster(config))
    if config.learns_answers:
        return distill_answers(config)
    first(lambda: check_run(config))
    teacher = load_teacher(config.teacher, config.precision, config.device, config.max_length)
    student, tokenizer = make_student(config, teacher)
    targets = state_targets(student.config, teacher) if "states" in config.lessons else []
    scores: list[Score] = [
        *read_pairs(config.pairs),
        *read_retrieval(config.retrieval),
        *read_heads(config.labelled),
    ]
    texts = _read_texts(config)
    reader = Reader(tokenizer, tokenizer.model_max_length, student.settings.prompt(None, config.model))
    known = _ask(config, texts, teacher, student, targets, reader)
    checkpoint = first(lambda: open_run(config, "distill"))
    rate = _rate(config, student.config.hidden_size)
    say(f"student: {student.config.name}, {student.num_parameters():,} parameters")
    if len(texts.survey.measured):
        theirs = known.vectors.take(texts.survey.measured).numpy()
        scores.insert(0, Agreement(texts.survey.measured_texts, theirs, student.projection))
    embedder = student.embedder(tokenizer, config.model)
    trainer = _trainer(config, texts, known, student, targets, rate, scores, embedder)
    watch = NanWatch.on(trainer, config.on_nan)
    reset_peak_memory(trainer.args.device)
    run_trainer(trainer, tokenizer, config.out, checkpoint)
    found = trainer.measure() if scores else {}

    def finish() -> dict[str, Any]:
        metrics = {
            "model": student.config.name,
            "teacher": source_name(teacher.source),
            "steps": trainer.state.global_step,
            **({"best_step": trainer.state.best_global_step} if scores else {}),
            **watch.facts,
            **({"skipped_rows": texts.num_skipped} if config.skip_bad_rows else {}),
            **found,
            "chosen": {"learning_rate": rate},
            "num_parameters": student.num_parameters(),
            "texts": texts.survey.number,
            "texts_sha256": texts.survey.digest,
            "cost": run_cost(trainer),
        }
        write_card(config, student, found, metrics)
        return write_metrics(config.out, metrics)

    return first(finish)


@dataclass(frozen=True)
class _Texts:
    """The texts of a run. rows: the numbers of those to learn from."""

    files: TextFiles
    survey: Survey
    rows: np.ndarray
    num_skipped: int


@dataclass(frozen=True)
class _Known:
    """What the steps of a run read: the student's tokens, and the teacher's outputs.

    state_rows: the texts that have states.
    """

    tokens: TokenRows
    vectors: TeacherVectors
    states: TeacherStates | None
    state_rows: np.ndarray


def _read_texts(config: DistillConfig) -> _Texts:
    """Read the texts. Raises UserError for a row that cannot be used, and for too few texts."""
    files = TextFiles.find(config.train, config.text)
    bad = BadRows(config.skip_bad_rows)
    survey = files.survey(bad, config.validation_fraction)
    if remark := bad.report():
        say(remark)
    say(f"texts: {survey.number:,}, of which {len(survey.held_out):,} are held out")
    rows = np.setdiff1d(np.arange(survey.number), survey.held_out)
    check_enough(len(rows), sequences_per_step(config))
    return _Texts(files, survey, rows, len(bad.problems))


def _ask(
    config: DistillConfig,
    texts: _Texts,
    teacher: Teacher,
    student: Student,
    targets: list[StateTarget],
    reader: Reader,
) -> _Known:
    """Tokenise the texts, and let the teacher read them, as far as the cache does not have that.

    reader: the student's. Narrow embeddings are begun here, because they depend on the tokens' frequencies.
    """
    cache, again = config.cache_folder, BadRows(config.skip_bad_rows)
    survey, per_step = texts.survey, sequences_per_step(config)
    read = tokenize(texts.files, survey, teacher.reader, cache, again)
    tokens = tokenize(texts.files, survey, reader, cache, again)
    if config.embedding_size is not None and not is_layout(config.model):
        counts = tokens.counts(student.config.vocab_size)
        student.encoder = factorised(student.encoder, config.embedding_size, counts)
    order = in_random_order(texts.rows, _STATE_SEED, 0)[: config.state_texts] if targets else texts.rows[:0]
    if targets and len(order) < per_step:
        raise UserError(f"--state-texts {len(order)}: too few for a step of {per_step}")
    num_bytes = {"vectors": vector_bytes(survey.number, teacher)}
    if targets:
        num_bytes["states"] = state_bytes(read.lengths[order], targets, teacher)
    what = " and ".join(f"{number / 1e6:,.0f} MB of {name}" for name, number in num_bytes.items())
    windows = f" in {len(read.lengths):,} windows" if teacher.reads_windows else ""
    say(f"teacher: {teacher.source} reads the texts{windows}; its outputs are {what}, in {cache}")
    first(lambda: check_room(cache, sum(num_bytes.values())))
    key = {"texts": survey.digest}
    vectors = compute_vectors(read, teacher, key, cache, config, config.device)
    states = None
    if targets:
        states = compute_states(
            read, teacher, targets, student.config, order, key, cache, config, config.device
        )
    return _Known(tokens, vectors, states, order)


def _rate(config: DistillConfig, width: int) -> float:
    """The learning rate that you asked for, or the default for such a student."""
    if config.learning_rate != "auto":
        return config.learning_rate
    rate = auto_rate(width, from_nothing=True) if is_layout(config.model) else _RATE
    say(f"--learning-rate auto: {rate:g}")
    return rate


def _trainer(
    config: DistillConfig,
    texts: _Texts,
    known: _Known,
    student: Student,
    targets: list[StateTarget],
    rate: float,
    scores: list[Score],
    embedder: Embedder,
) -> DistillTrainer:
    lessons = config.lessons
    callbacks: list[Any] = [LogFile(config.out / "log.jsonl")]
    if config.frozen_share:
        callbacks.append(FrozenEmbeddings(student, round(config.frozen_share * config.steps)))
    measured: dict[str, Any] = {}
    if scores:
        measured = {
            "eval_strategy": "steps",
            "eval_steps": config.evaluate_every,
            **keep_best(_METRIC),
        }
    return DistillTrainer(
        model=student,
        args=training_arguments(
            config,
            config.steps,
            learning_rate=rate,
            per_device_train_batch_size=1,  # of the plan's items, which are micro-batches
            save_steps=config.evaluate_every,
            remove_unused_columns=False,
            label_names=[],
            # The table while it is frozen; the projection while the states alone are learned.
            ddp_find_unused_parameters=config.frozen_share > 0 or "vectors" not in lessons,
            **measured,
        ),
        train_dataset=_plan(config, texts, known),
        eval_dataset=[] if scores else None,
        data_collator=Collator(known.tokens, known.vectors if "vectors" in lessons else None, known.states),
        callbacks=callbacks,
        parallel=config.parallel,
        weights=lessons,
        similarity_weight=config.similarity_weight,
        targets=targets,
        scores=scores,
        embedder=embedder,
    )


def _plan(config: DistillConfig, texts: _Texts, known: _Known) -> StepPlan:
    learns_states_alone = list(config.lessons) == ["states"]
    return StepPlan(
        known.tokens.lengths,
        texts.rows,
        steps=config.steps,
        per_step=sequences_per_step(config),
        micro_per_step=config.gradient_accumulation * num_processes(),
        seed=config.seed,
        state_rows=None if known.states is None else known.state_rows,
        state_steps=config.steps if learns_states_alone else round(config.state_share * config.steps),
    )
