"""Fine-tuning by vectors: the encoder stays as it is, or learns from pairs; the head is fitted to its vectors."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import datasets
import numpy as np
import torch
from jaxtyping import Float

from ...base.errors import UserError
from ...base.processes import first, num_processes, say
from ...base.progress import progress_bar
from ...cost.flops import forward_flops
from ...cost.peak import reset_peak_memory
from ...inference.batches import in_batches, most_padding
from ...inference.finite import refuse_not_finite
from ...inference.load import ready
from ...inference.torch_calls import torch_vectors
from ...tasks.kind import Encoded, Kind
from ...tasks.texts import Texts
from ...tasks.windows import first_of_owner, mean_by_owner
from ..run.facts import cost_on, run_cost
from ..run.folder import one_line_errors, save_final, sequences_per_step, write_log
from ..run.learning_rate import choose_rate
from ..run.nan_watch import NanWatch
from ..run.stopwatch import Stopwatch
from ..run.trainer import training_arguments
from .config import FinetuneConfig
from .contrastive import ClassCouples, ContrastiveTrainer
from .fitted_head import check_gold, fit_head, put_in
from .run_parts import Answered, Inputs, Trained, role_scores
from .window_weights import row_losses

__all__ = ["check_fit", "fit", "steps_of_epochs"]


def check_fit(config: FinetuneConfig, kind: Kind, train: datasets.Dataset) -> None:
    """Raise UserError if a head fitted to vectors cannot learn the task of these examples."""
    flag = "--frozen" if config.frozen else "--few-shot"
    if not isinstance(kind, Texts):
        raise UserError(
            f"{flag} gives each text or pair of texts one vector, so it cannot learn a task of {kind.task.kind}"
        )
    if config.few_shot and kind.task.kind != "classification":
        raise UserError(f"--few-shot needs classes, and this is a task of {kind.task.kind}; use --frozen")
    if config.few_shot and config.windowing is not None:
        raise UserError(f"--few-shot compares whole texts; leave out {config.windowing.option}")
    if config.few_shot and num_processes() > 1:
        raise UserError("--few-shot compares the texts of one process; run it without torchrun")
    check_gold(kind.task.kind, np.asarray(train["label"][:]), kind.task.labels or ())


def fit(config: FinetuneConfig, inputs: Inputs, train: Encoded) -> Trained:
    """Fit the head to the vectors of the training texts, save the model, and score the other parts.

    The vector of a text in windows is the mean of the windows' vectors. Every text is encoded once, after the
    training on pairs of `--few-shot`. Under torchrun the processes share the encoding, and each fits the same head.
    Raises UserError if no head can be fitted to the data, or if a vector is not finite.
    """
    model, kind, tokenizer = inputs.model, inputs.data.kind, inputs.tokenizer
    trainer = _train_on_pairs(config, inputs, train) if config.few_shot else None
    runner = ready(
        copy.deepcopy(model), config.device
    )  # a copy, because the runner rearranges its weights for speed, and such a model cannot be saved
    if trainer is None:
        reset_peak_memory(runner.device)
    watch = Stopwatch(runner.device)
    watch.start(0.0)
    gold = np.asarray(train.features["labels"][:])
    vectors = _vectors(runner, train, kind, tokenizer, config.batch_size, "vectors")
    head = fit_head(
        kind.task.kind,
        mean_by_owner(vectors, train.owners),
        first_of_owner(gold, train.owners),
        inputs.weights,
        config.seed,
    )
    watch.stop()
    put_in(model, head)
    log = [] if trainer is None else trainer.state.log_history

    def save() -> None:
        save_final(model, tokenizer, config.out)
        write_log(config.out, log)

    with one_line_errors(config.out):
        first(save)
    say("head: " + ", ".join(f"{name} {_shown(value)}" for name, value in head.chosen.items()))
    answered, scores, encoded_dev = {}, dict[str, float](), {}
    for role, parts in (("dev", inputs.data.dev), ("test", inputs.data.test)):
        for variant, examples in parts.items():
            part = kind.encode(examples, tokenizer, inputs.max_length)
            of_part = _vectors(runner, part, kind, tokenizer, config.batch_size, role)
            logits = (of_part @ head.weight.T + head.bias).astype(np.float32)
            right = np.asarray(part.features["labels"][:])
            losses = row_losses(torch.from_numpy(logits), torch.from_numpy(right), model.config.problem_type)
            found = {"loss": float(losses.mean()), **kind.score(logits, right, part)}
            scores |= role_scores(role, variant, kind.task.scores, found)
            if role == "dev":
                answered[variant], encoded_dev[variant] = Answered(logits, right), part
    flops = _forward_flops(model.config, train)
    if trainer is None:
        facts: dict[str, Any] = {"steps": 0, "chosen": head.chosen}
        cost = cost_on(runner.device, train_seconds=watch.seconds, train_flops=flops)
    else:
        rate = trainer.args.learning_rate
        facts = {"steps": trainer.state.global_step, "chosen": {"learning_rate": rate, **head.chosen}}
        cost = run_cost(trainer, train_flops=trainer.state.total_flos + flops)
        cost["train_seconds"] += watch.seconds
    return Trained(kind, encoded_dev, answered, scores, facts, cost, log, train.num_cut)


def steps_of_epochs(config: FinetuneConfig, epochs: float, num_features: int) -> int:
    """The number of optimizer steps in `epochs` passes over `num_features` features."""
    return max(1, round(epochs * math.ceil(num_features / sequences_per_step(config))))


def _train_on_pairs(config: FinetuneConfig, inputs: Inputs, train: Encoded) -> ContrastiveTrainer:
    """Train the encoder so that the vectors of a class become alike. No step is scored or saved as a checkpoint."""
    couples = ClassCouples(np.asarray(train.features["labels"][:]), config.seed)
    rate = choose_rate(config.learning_rate, inputs.model.config.hidden_size, from_nothing=False)
    trainer = ContrastiveTrainer(
        model=inputs.model,
        args=training_arguments(
            config,
            steps_of_epochs(config, config.contrastive_epochs, len(couples)),
            learning_rate=rate,
            eval_strategy="no",
            save_strategy="no",
        ),
        train_dataset=train.features,
        data_collator=inputs.data.kind.collator(inputs.tokenizer),
        layer_decay=config.layer_decay,
        couples=couples,
    )
    NanWatch.on(trainer, config.on_nan)
    reset_peak_memory(trainer.args.device)
    with one_line_errors(config.out):
        try:
            trainer.train()
        finally:
            trainer.shown.clear()
    return trainer


def _vectors(
    runner: Any, encoded: Encoded, kind: Kind, tokenizer: Any, batch_size: int, title: str
) -> Float[np.ndarray, "N D"]:
    """The vector of each of N features, as the head of the model reads it."""
    names = [name for name in tokenizer.model_input_names if name in encoded.features.column_names]
    columns = {name: encoded.features[name][:] for name in names}

    run = torch_vectors(runner.base_model, normalize=False)

    def forward(batch: dict[str, np.ndarray]) -> np.ndarray:
        return refuse_not_finite(run(batch))

    def pad(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        return kind.pad(tokenizer, rows)

    with progress_bar(title, len(encoded.features)) as advance:
        found = in_batches(forward, columns, pad, batch_size, most_padding(runner), advance)
        return np.stack(found)


def _forward_flops(config: Any, encoded: Encoded) -> int:
    """FLOPs of encoding every feature once, without padding."""
    lengths = Counter(len(ids) for ids in encoded.features["input_ids"][:])
    return sum(
        forward_flops(config, length, batch_size=count, head="classification", decoder=False).total
        for length, count in lengths.items()
    )


def _shown(value: float | list[float]) -> str:
    return f"{value:g}" if isinstance(value, float) else ", ".join(f"{one:g}" for one in value)
