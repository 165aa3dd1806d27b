"""Fine-tuning on a task of the papers or on a table of the user's: the options, and the run from data to metrics."""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import EarlyStoppingCallback, EvalPrediction

from ...base.errors import UserError
from ...base.options import model_options
from ...base.processes import first, say, start_processes
from ...base.sentence_modules import SentenceEmbedding
from ...base.strict_json import write_json
from ...checkpoints.folders import find_foreign
from ...checkpoints.model_source import is_layout
from ...cost.peak import reset_peak_memory
from ...data.tokenizer import check_fits, load_tokenizer, model_ids
from ...inference.embedder import vectors_of
from ...inference.load import load_model
from ...inference.settings import TASK_FILE, allow_length, check_length
from ...tasks.judge import judge
from ...tasks.kind import Encoded, Kind
from ...tasks.kinds import kind_of
from ...tasks.texts import Texts
from ...tasks.windows import check_stride
from ..distillation.answering_teacher import teacher_files
from ..run.facts import run_cost, write_metrics
from ..run.folder import (
    check_run,
    config_from_name,
    finished_before,
    open_run,
)
from ..run.input_files import input_files, tokenizer_files
from ..run.learning_rate import choose_rate
from ..run.nan_watch import NanWatch
from ..run.stopwatch import now
from ..run.trainer import keep_best, run_trainer, training_arguments
from .class_weights import task_weights, weighted_loss
from .config import FinetuneConfig
from .data_hashes import data_files, describe_data
from .max_length import choose_max_length
from .model_card import FinishedRun
from .report import dev_calibration, write_report
from .run_parts import Answered, Inputs, Trained, prefixed, role_scores
from .series import run_all
from .start_labels import is_new_head, renew_head, start_labels, was_regression
from .task_data import load_task_data
from .taught import TaughtCollator, Teaching, check_teacher, learn_from, taught_by, with_rows
from .trainer import FinetuneTrainer
from .vector_fit import check_fit, fit, steps_of_epochs
from .window_weights import weighted_windows

__all__ = ["finetune", "make_model", "task_entry", "train_model"]

_DECODER = "funnelformer.decoder."


@input_files.register
def _(config: FinetuneConfig) -> list[Path]:
    """The files of the tables or of the task's parts, and those of the tokenizer and the teacher."""
    taught = [] if config.teacher is None else teacher_files(config.teacher)
    return [*data_files(config), *tokenizer_files(config.tokenizer or config.model), *taught]


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tune a model, keep the checkpoint that is best on the dev data, and return its metrics (see metrics.json).

    With several seeds, the metrics are means and standard deviations; with a grid, they are those of the best point.
    Under torchrun, every process calls this and returns the same; the first process writes and prints.
    Raises UserError before training starts if the input cannot be used.
    """
    start_processes(cpu=config.device == "cpu")
    return run_all(config, _finetune, _check)


def _read(config: FinetuneConfig) -> Inputs:
    """Read and check all inputs. Raises UserError for any that cannot be used."""
    tokenizer = load_tokenizer(config.tokenizer or _tokenizer_of(config.model))
    start = None if is_layout(config.model) else start_labels(config.model)
    data = load_task_data(config, start)
    task = data.kind.task
    if config.windowing is not None:
        data = dataclasses.replace(data, kind=kind_of(task, config.windowing))
    model = make_model(config, data.kind, tokenizer, start)
    max_length = choose_max_length(config.max_length, data.kind, data.train, tokenizer, model.config)
    if config.doc_stride is not None and task.kind != "span":
        check_stride(tokenizer, max_length, config.doc_stride)
    if config.fits_head:
        check_fit(config, data.kind, data.train)
    # A tokenizer or a length that the kind cannot use is found by one example.
    data.kind.encode(data.train.select(range(1)), tokenizer, max_length)
    allow_length(model.config, tokenizer, max_length)
    weights = task_weights(config.class_weights, task, data.train)
    teacher = None
    if config.teacher is not None:
        teacher = check_teacher(config, data.kind, tokenizer, max_length, model)
    return Inputs(tokenizer, data, model, max_length, weights, teacher)


def _check(config: FinetuneConfig) -> None:
    """Check all inputs as `_read` does, but print nothing and keep nothing."""
    with contextlib.redirect_stdout(io.StringIO()):
        _read(config)


def _finetune(config: FinetuneConfig) -> dict[str, Any]:
    """One run."""
    before = finished_before(config)
    if before is not None:
        return before
    transformers.set_seed(config.seed)
    first(lambda: check_run(config))
    begin = now(torch.device("cpu"))
    inputs = _read(config)
    tokenizer, data, model, max_length = inputs.tokenizer, inputs.data, inputs.model, inputs.max_length
    kind = data.kind
    say(f"model: {model.config.name}, {model.num_parameters():,} parameters")
    num_dev = sum(len(part) for part in data.dev.values())
    what = "measure the model" if config.fits_head else "select the best epoch"
    say(f"data: {len(data.train):,} to train on, {num_dev:,} to {what}")
    train = kind.encode(data.train, tokenizer, max_length)
    if remark := kind.remark(train, max_length):
        say(remark)
    teaching = None
    if inputs.teacher is not None:
        teaching = learn_from(inputs.teacher, config, kind, train, tokenizer, max_length, inputs.weights)
    checkpoint = first(lambda: open_run(config, "finetune"))
    trained = (
        fit(config, inputs, train)
        if config.fits_head
        else train_model(config, inputs, train, teaching, checkpoint)
    )
    return first(lambda: _write_results(config, inputs, trained, begin))


def _write_results(config: FinetuneConfig, inputs: Inputs, trained: Trained, begin: float) -> dict[str, Any]:
    """Write what a run leaves beside its model, metrics.json last, and return what that holds.

    begin: when the run began, on the clock of `now`.
    """
    data, model, max_length = inputs.data, inputs.model, inputs.max_length
    kind, tuned = data.kind, trained.kind
    judged = {
        name: judge(tuned, answered.outputs, answered.gold, trained.dev[name])
        for name, answered in trained.answered.items()
    }
    calibrations = {name: dev_calibration(kind.task, part) for name, part in judged.items()}
    metrics = {
        "model": model.config.name,
        **({"task": kind.task.name} if kind.task.name else {}),
        "kind": kind.task.kind,
        **({"teacher": taught_by(config, kind)} if config.teacher is not None else {}),
        **trained.facts,
        **({"skipped_rows": data.num_skipped} if config.skip_bad_rows else {}),
        **trained.scores,
        "metric": f"dev_{prefixed(next(iter(trained.dev)), kind.task.scores[0])}",
        "ece": {prefixed("dev", name).rstrip("_"): c.ece for name, c in calibrations.items() if c},
        "num_parameters": model.num_parameters(),
        "cost": {**trained.cost, "total_seconds": now(model.device) - begin},
        "data": describe_data(config, data),
    }
    run = FinishedRun(
        config,
        kind.task,
        max_length,
        trained.num_cut,
        metrics,
        trained.log,
        judged,
        model.config.made_from,
    )
    write_report(run)
    write_json(config.out / TASK_FILE, task_entry(tuned, max_length))
    return write_metrics(config.out, metrics)


def train_model(
    config: FinetuneConfig,
    inputs: Inputs,
    train: Encoded,
    teaching: Teaching | None,
    checkpoint: Path | None,
    measure: Callable[[Any], dict[str, float]] | None = None,
) -> Trained:
    """Train encoder and head together, and keep the best checkpoint.

    train: the encoded training data. teaching: what the run learns from a teacher, if it has one. checkpoint: the
    folder of the checkpoint to go on from, if there is one.
    measure: gives further scores of a model. It is called at every evaluation, and for the checkpoint that is kept.
    """
    tokenizer, data, model = inputs.tokenizer, inputs.data, inputs.model
    kind = data.kind
    rate = choose_rate(config.learning_rate, model.config.hidden_size, from_nothing=is_layout(config.model))
    dev = {name: kind.encode(part, tokenizer, inputs.max_length) for name, part in data.dev.items()}
    # Of tags each counts in one window, so that all weigh alike as they are.
    is_of_windows = train.owners is not None and isinstance(kind, Texts)
    features = weighted_windows(train, inputs.weights) if is_of_windows else train.features
    collate = kind.collator(tokenizer)
    if teaching is not None:
        features, collate = with_rows(features), TaughtCollator(collate, teaching.answers)
    trainer = FinetuneTrainer(
        model=model,
        args=training_arguments(
            config,
            config.steps or steps_of_epochs(config, config.epochs, len(train.features)),
            learning_rate=rate,
            **_evaluations(config),
            **keep_best(prefixed(next(iter(dev)), kind.task.scores[0])),
            train_sampling_strategy="group_by_length" if config.group_by_length else "random",
            ddp_find_unused_parameters=not _uses_all_parameters(kind, train),
        ),
        train_dataset=features,
        eval_dataset=dev[""].features if "" in dev else {name: part.features for name, part in dev.items()},
        data_collator=collate,
        compute_metrics=_scorer(kind, dev),
        preprocess_logits_for_metrics=lambda outputs, _: kind.reduce(outputs, model.config),
        compute_loss_func=None if is_of_windows else weighted_loss(inputs.weights),
        callbacks=[EarlyStoppingCallback(config.early_stopping)] if config.early_stopping else [],
        layer_decay=config.layer_decay,
        teaching=teaching,
        measure=measure,
    )
    watch = NanWatch.on(trainer, config.on_nan)
    reset_peak_memory(trainer.args.device)
    run_trainer(trainer, tokenizer, config.out, checkpoint)
    tuned, answered, scores = _score(trainer, inputs, dev)
    if measure is not None:
        scores |= measure(trainer.model)
    facts = {
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        **watch.facts,
        "chosen": {"learning_rate": rate},
    }
    cost = run_cost(trainer, train_flops=trainer.state.total_flos)
    return Trained(tuned, dev, answered, scores, facts, cost, trainer.state.log_history, train.num_cut)


def _uses_all_parameters(kind: Kind, train: Encoded) -> bool:
    """Whether every step uses all parameters. Heads of spans do not, and the segments need token types."""
    return kind.task.kind != "span" and "token_type_ids" in train.features.column_names


def _evaluations(config: FinetuneConfig) -> dict[str, Any]:
    """When the Trainer scores and saves. A resumed run goes on counting towards --early-stopping."""
    counting = {"restore_callback_states_from_checkpoint": config.early_stopping is not None}
    if config.evaluate_every is None:
        return {"eval_strategy": "epoch", "save_strategy": "epoch", **counting}
    every = config.evaluate_every
    return {
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": every,
        "save_steps": every,
        **counting,
    }


def _scorer(kind: Kind, dev: Mapping[str, Encoded]) -> Any:
    """The Trainer's `compute_metrics`. The Trainer does not say which of several dev parts it scores, and no kind of
    task with several of them needs to know."""
    (encoded, *_) = dev.values()

    def score(prediction: EvalPrediction) -> dict[str, float]:
        return kind.score(prediction.predictions, prediction.label_ids, encoded)

    return score


def _score(
    trainer: FinetuneTrainer, inputs: Inputs, dev: Mapping[str, Encoded]
) -> tuple[Kind, dict[str, Answered], dict[str, float]]:
    """The kind, with settings chosen on the dev part; the dev parts' answers; the scores of the dev and test parts."""
    kind, answered, scores = inputs.data.kind, {}, dict[str, float]()
    for name, part in dev.items():
        answered[name], found = _predict(trainer, kind, part, "dev", name)
        scores |= found
    tuned = kind.tuned(scores)
    for name, part in inputs.data.test.items():
        encoded = tuned.encode(part, inputs.tokenizer, inputs.max_length)
        scores |= _predict(trainer, tuned, encoded, "test", name)[1]
    return tuned, answered, scores


def _predict(
    trainer: FinetuneTrainer, kind: Kind, encoded: Encoded, role: str, variant: str
) -> tuple[Answered, dict[str, float]]:
    """The model's outputs for a part, and its loss and the task's scores."""
    trainer.compute_metrics = _scorer(kind, {variant: encoded})
    output = trainer.predict(encoded.features, metric_key_prefix="part")
    measured = {name.removeprefix("part_"): value for name, value in (output.metrics or {}).items()}
    answered = Answered(output.predictions, output.label_ids)
    return answered, role_scores(role, variant, kind.task.scores, measured)


def task_entry(kind: Kind, max_length: int) -> dict[str, Any]:
    """The entry of a model's folder with what `evaluate` and `predict` need to read data of the same form."""
    columns = kind.task.columns
    return {
        "task": kind.task.name or None,
        "text": columns.text,
        "text_pair": columns.text_pair,
        "label": columns.label,
        "label_separator": columns.separator,
        "max_length": max_length,
        **kind.saved(),
    }


def _tokenizer_of(model: str) -> str:
    if is_layout(model):
        raise UserError(f"--model {model} starts from nothing, so --tokenizer is needed")
    return model


def make_model(
    config: FinetuneConfig, kind: Kind, tokenizer: Any, start: Sequence[str] | None, **wishes: Any
) -> Any:
    """Load the pretrained model with the head for this kind of task, or make a new model from the name of a layout.

    start: class names of the pretrained model, if it has some. wishes: `layout` and `layers`, if its layers are to be
    rearranged.
    Raises UserError if the model cannot be loaded, or cannot have the head or the options that were asked for.
    """
    own = model_options(config.model_options)
    settings = own | kind.settings()
    if config.fits_head:
        if is_layout(config.model):
            flag = "--frozen" if config.frozen else "--few-shot"
            raise UserError(f"{flag} needs a pretrained --model; {config.model} starts from nothing")
        settings["classifier_head"] = "linear"
    if is_layout(config.model):
        settings = {**model_ids(tokenizer), **settings}
        model_config = config_from_name(config.model, settings)
        try:
            model = kind.head.model_class(model_config)
        except ValueError as error:  # a head may need a decoder
            raise UserError(f"--model {config.model}: {error}") from error
    else:
        # A model that was fine-tuned before may have other classes; one without a decoder gets the decoder asked for.
        decoder = (_DECODER,) if settings.get("decoder_layers") else ()
        model, random = load_model(
            kind.head.model_class,
            config.model,
            may_miss=(*kind.head.parameters, *decoder),
            may_differ=kind.head.label_parameters,
            **wishes,
            **settings,
        )
        if any(name.startswith(_DECODER) for name in random):
            say(f"decoder: {model.config.decoder_layers} new layers, their weights random")
        if config.fits_head and "classifier_pooling" not in own:
            # The head then reads the vector that `embed` gives, before that is scaled to length 1.
            is_foreign = find_foreign(config.model) is not None
            vectors = vectors_of(config.model, model.config, is_foreign) or SentenceEmbedding()
            model.config.classifier_pooling = vectors.pooling
        if not config.fits_head and is_new_head(kind, start, was_regression(config.model)):
            assert start is not None
            say(renew_head(model, kind, start, config.model))
    check_fits(tokenizer, model.config, config.model)
    if kind.task.kind == "regression":
        # Otherwise sentence-transformers' CrossEncoder would squeeze an amount between 0 and 1.
        model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    if config.max_length != "auto":
        check_length(model.config, config.max_length, "--max-length")
    return model
