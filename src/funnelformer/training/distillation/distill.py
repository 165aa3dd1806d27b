"""`distill`: a student learns from texts what a teacher says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers

from ...base.errors import UserError
from ...base.processes import first, num_processes, say, start_processes
from ...checkpoints.model_source import is_layout
from ...cost.peak import reset_peak_memory
from ...data.bad_rows import BadRows
from ...inference.embedder import Embedder
from ..run.facts import run_cost, write_metrics
from ..run.folder import check_run, finished_metrics, open_run, sequences_per_step
from ..run.input_files import files_of, input_files, tokenizer_files
from ..run.learning_rate import auto_rate
from ..run.log_file import LogFile
from ..run.nan_watch import NanWatch
from ..run.trainer import run_trainer, training_arguments
from .config import DistillConfig
from .factorised import factorised
from .held_out import Agreement, Score, read_pairs
from .linear_heads import read_heads
from .retrieval import read_retrieval
from .state_windows import state_targets
from .step_plan import StepPlan, in_random_order
from .student import make_student
from .teacher import load_teacher
from .teacher_outputs import compute_states, compute_vectors, state_bytes, vector_bytes
from .text_files import TextFiles
from .token_rows import tokenize
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
    return [*found, *(tokenizer_files(config.tokenizer) if config.tokenizer else [])]


def distill(config: DistillConfig) -> dict[str, Any]:
    """Train a student, keep its best checkpoint, return its metrics (also in metrics.json).

    Under torchrun every process calls it, and the first one writes and prints.
    Raises UserError for input that cannot be used, before the teacher reads the first text.
    """
    start_processes(cpu=config.device == "cpu")
    before = first(lambda: finished_metrics(config))
    if before is not None:
        say(f"{config.out} is finished")
        return before
    transformers.set_seed(config.seed)
    first(lambda: check_run(config))
    lessons = config.lessons
    teacher = load_teacher(config.teacher, config.precision, config.device, config.max_length)
    student, tokenizer = make_student(config, teacher)
    targets = state_targets(student.config, teacher) if "states" in lessons else []
    scores: list[Score] = [
        *read_pairs(config.pairs),
        *read_retrieval(config.retrieval),
        *read_heads(config.labelled),
    ]
    files = TextFiles.find(config.train, config.text)
    bad = BadRows(config.skip_bad_rows)
    survey = files.survey(bad, config.validation_fraction)
    if remark := bad.report():
        say(remark)
    say(f"texts: {survey.number:,}, of which {len(survey.held_out):,} are held out")
    rows = np.setdiff1d(np.arange(survey.number), survey.held_out)
    per_step = sequences_per_step(config)
    if len(rows) < per_step:
        raise UserError(
            f"--train: there are {len(rows)} texts to learn from, too few for a step of {per_step}; give more, or a "
            "smaller --batch-size"
        )
    cache, again = config.cache_folder, BadRows(config.skip_bad_rows)
    read = tokenize(files, survey, teacher.tokenizer, teacher.max_length, teacher.prompt, cache, again)
    tokens = tokenize(
        files,
        survey,
        tokenizer,
        tokenizer.model_max_length,
        student.settings.prompt(None, config.model),
        cache,
        again,
    )
    if config.embedding_size is not None and not is_layout(config.model):
        counts = tokens.counts(student.config.vocab_size)
        student.encoder = factorised(student.encoder, config.embedding_size, counts)
    order = in_random_order(rows, _STATE_SEED, 0)[: config.state_texts] if targets else rows[:0]
    if targets and len(order) < per_step:
        raise UserError(f"--state-texts {len(order)}: too few for a step of {per_step}")
    num_bytes = [vector_bytes(survey.number, teacher)]
    if targets:
        num_bytes.append(state_bytes(read.lengths[order], targets, teacher))
    what = " and ".join(
        f"{number / 1e6:,.0f} MB of {name}"
        for number, name in zip(num_bytes, ("vectors", "states"), strict=False)
    )
    say(f"teacher: {teacher.source}; its outputs are {what} on disk, in {cache}")
    vectors = compute_vectors(read, teacher, survey.digest, cache)
    states = None
    if targets:
        states = compute_states(read, teacher, targets, student.config, order, survey.digest, cache)
    checkpoint = first(lambda: open_run(config, "distill"))
    from_nothing = is_layout(config.model)
    rate = config.learning_rate
    if rate == "auto":
        rate = auto_rate(student.config.hidden_size, from_nothing=True) if from_nothing else _RATE
        say(f"--learning-rate auto: {rate:g}")
    say(f"student: {student.config.name}, {student.num_parameters():,} parameters")
    micro = config.gradient_accumulation * num_processes()
    plan = StepPlan(
        tokens.lengths,
        rows,
        steps=config.steps,
        per_step=per_step,
        micro_per_step=micro,
        seed=config.seed,
        state_rows=order if targets else None,
        state_steps=round(config.state_share * config.steps),
    )
    if len(survey.measured):
        scores.insert(0, Agreement(survey.measured_texts, vectors.take(survey.measured).numpy()))
    embedder = Embedder(
        student.encoder,
        tokenizer,
        tokenizer.model_max_length,
        student.settings.normalize,
        student.settings.prompt(None, config.model),
        student.settings,
        config.model,
    )
    callbacks: list[Any] = [LogFile(config.out / "log.jsonl")]
    if config.frozen_share:
        callbacks.append(FrozenEmbeddings(student, round(config.frozen_share * config.steps)))
    measured = (
        {
            "eval_strategy": "steps",
            "eval_steps": config.evaluate_every,
            "load_best_model_at_end": True,
            "metric_for_best_model": _METRIC,
            "greater_is_better": True,
        }
        if scores
        else {}
    )
    trainer = DistillTrainer(
        model=student,
        args=training_arguments(
            config,
            config.steps,
            learning_rate=rate,
            per_device_train_batch_size=1,  # of the plan's items, which are micro-batches
            save_steps=config.evaluate_every,
            remove_unused_columns=False,
            label_names=[],
            ddp_find_unused_parameters=config.frozen_share > 0,
            **measured,
        ),
        train_dataset=plan,
        eval_dataset=[] if scores else None,
        data_collator=Collator(tokens, vectors if "vectors" in lessons else None, states),
        callbacks=callbacks,
        parallel=config.parallel,
        weights=lessons,
        similarity_weight=config.similarity_weight,
        targets=targets,
        scores=scores,
        embedder=embedder,
    )
    watch = NanWatch(trainer, config.on_nan)
    trainer.add_callback(watch)
    reset_peak_memory(trainer.args.device)
    run_trainer(trainer, tokenizer, config.out, checkpoint)
    found = trainer.measure() if scores else {}

    def finish() -> dict[str, Any]:
        metrics = {
            "model": student.config.name,
            "teacher": teacher.source,
            "steps": trainer.state.global_step,
            **({"best_step": trainer.state.best_global_step} if scores else {}),
            **({"skipped_updates": watch.num_skipped} if config.on_nan == "skip" else {}),
            **({"skipped_rows": len(bad.problems)} if config.skip_bad_rows else {}),
            **found,
            "chosen": {"learning_rate": rate},
            "num_parameters": student.num_parameters(),
            "texts": survey.number,
            "cost": run_cost(trainer),
        }
        return write_metrics(config.out, metrics)

    return first(finish)
