"""Fine-tuning for classification and regression of texts and pairs of texts."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import transformers
from cyclopts import Parameter
from transformers import DataCollatorWithPadding, EvalPrediction

from ..data.files import atomic_writer
from ..data.tables import Labels, Table, TaskColumns, build_labels, guess_columns, load_task, read_table
from ..data.tokenizer import check_vocabulary, load_tokenizer, model_ids
from ..errors import UserError
from ..inference import check_length, load_model
from ..metrics import HEADLINE, classification_metrics, regression_metrics
from ..modeling import FunnelformerForSequenceClassification
from .run import RunConfig, check_run, config_from_name, open_run, parse_options
from .trainer import RunTrainer, run_trainer, training_arguments

__all__ = ["FinetuneConfig", "Task", "finetune", "load_tables"]


@Parameter(name="*")
@dataclass(kw_only=True)
class FinetuneConfig(RunConfig):
    """What `finetune` can be told."""

    model: str
    "Folder of a pretrained model (any known format), or a layout such as B4-4-4H768 to start from nothing."
    train: str
    "Training data: csv, tsv, jsonl, parquet (.gz, .zst, .bz2, .xz), a folder, or a `datasets` name."
    dev: str | None = None
    "Data that selects the best epoch; by default a part of the training data."
    dev_fraction: float = 0.1
    "That part, drawn from every class alike."
    tokenizer: Path | None = None
    "Tokenizer; by default the model's own."
    text: str | None = None
    "Column of the text."
    text_pair: str | None = None
    "Column of the second text."
    label: str | None = None
    "Column of the label."
    regression: Annotated[bool, Parameter(negative="")] = False
    "The label is an amount, not a class."
    max_length: int = 512
    "Tokens of a sequence; longer ones are cut."
    epochs: float = 3.0
    "Passes over the training data."
    group_by_length: Annotated[bool, Parameter(negative="")] = False
    "Batches of texts of similar length: less padding, so faster where lengths differ much."
    model_options: Annotated[dict[str, str], Parameter(name="--set", negative="")] = field(
        default_factory=dict
    )
    "Config keys of the model, as --set.hidden_dropout=0.2."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epochs > 0:
            raise UserError(f"--epochs is {self.epochs}; allowed: more than 0")
        if self.max_length < 3:
            raise UserError(f"--max-length is {self.max_length}; allowed: 3 and more")
        if not 0 < self.dev_fraction < 1:
            raise UserError(f"--dev-fraction is {self.dev_fraction}; allowed: 0 < fraction < 1")


@dataclass(frozen=True)
class Task:
    """Rows to train on, and those that select the best epoch."""

    columns: TaskColumns
    labels: Labels | None
    train: datasets.Dataset
    dev: datasets.Dataset


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tune a model, keep the epoch best on the dev data, return its metrics (also in metrics.json).

    Raises UserError for input that cannot be used, before training starts.
    """
    transformers.set_seed(config.seed)
    check_run(config)
    tokenizer = load_tokenizer(config.tokenizer or _tokenizer_of(config.model))
    task = load_tables(config)
    model = _model(config, task.labels, tokenizer)
    checkpoint = open_run(config, "finetune")
    kind = "regression" if config.regression else "classification"
    print(f"model: {model.config.name}, {model.num_parameters():,} parameters")
    print(f"data: {len(task.train):,} to train on, {len(task.dev):,} to select the best epoch")
    train, num_cut = _tokenize(task.train, tokenizer, config.max_length)
    dev, _ = _tokenize(task.dev, tokenizer, config.max_length)
    if num_cut:
        print(f"{num_cut} of {len(train)} training texts exceed {config.max_length} tokens and were cut")
    steps_per_epoch = math.ceil(len(train) / (config.batch_size * config.gradient_accumulation))

    def score(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions)
        gold = np.asarray(prediction.label_ids)
        if config.regression:
            return regression_metrics(logits.reshape(-1).tolist(), gold.reshape(-1).tolist())
        return classification_metrics(logits.argmax(-1).tolist(), gold.tolist())

    trainer = RunTrainer(
        model=model,
        args=training_arguments(
            config,
            max(1, round(config.epochs * steps_per_epoch)),
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model=HEADLINE[kind],
            greater_is_better=True,
            train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        ),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=score,
    )
    run_trainer(trainer, tokenizer, config.out, checkpoint)
    best = trainer.evaluate()
    metrics = {
        "model": model.config.name,
        "kind": kind,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        **{f"dev_{key.removeprefix('eval_')}": best[key] for key in best if key in _scores(kind)},
    }
    with atomic_writer(config.out / "task.json") as file:
        # What `evaluate` and `predict` need to read data of the same form.
        json.dump(
            {
                "text": task.columns.text,
                "text_pair": task.columns.text_pair,
                "label": task.columns.label,
                "max_length": config.max_length,
            },
            file,
            indent=2,
        )
    with atomic_writer(config.out / "metrics.json") as file:
        json.dump(metrics, file, indent=2)
    return metrics


def _scores(kind: str) -> set[str]:
    names = ("accuracy", "macro_f1") if kind == "classification" else ("pearson", "spearman", "mse")
    return {"eval_loss", *(f"eval_{name}" for name in names)}


def load_tables(config: FinetuneConfig) -> Task:
    """Read the training and dev data, and draw the second from the first where there is none. Raises UserError."""
    table = read_table(config.train, split="train" if _has_splits(config.train) else None)
    columns, messages = guess_columns(table, text=config.text, text_pair=config.text_pair, label=config.label)
    for message in messages:
        print(message)
    assert columns.label is not None
    labels = None if config.regression else build_labels(table, columns.label)
    train = load_task(table, columns, labels=labels, regression=config.regression)
    if config.dev is not None:
        dev_table: Table = read_table(config.dev, split="validation" if _has_splits(config.dev) else None)
        dev = load_task(dev_table, columns, labels=labels, regression=config.regression)
        return Task(columns, labels, train, dev)
    if labels is not None:
        train = train.cast_column("label", datasets.ClassLabel(names=list(labels.names)))
    try:
        parts = train.train_test_split(
            config.dev_fraction, seed=config.seed, stratify_by_column="label" if labels is not None else None
        )
    except ValueError as error:
        raise UserError(
            f"{config.train}: no dev part can be drawn from every class ({error}); "
            "give --dev or another --dev-fraction"
        ) from None
    print(f"no --dev given: {config.dev_fraction:.0%} of {config.train} selects the best epoch")
    return Task(columns, labels, parts["train"], parts["test"])


def _has_splits(source: str) -> bool:
    """A folder or a name of a data set may have splits; a file is one."""
    return not Path(source).is_file()


def _tokenizer_of(model: str) -> str:
    if not Path(model).is_dir() and "/" not in model:
        config_from_name(model, {})
        raise UserError(f"--model {model} starts from nothing, so --tokenizer is needed")
    return model


def _model(
    config: FinetuneConfig, labels: Labels | None, tokenizer: Any
) -> FunnelformerForSequenceClassification:
    settings = parse_options(config.model_options)
    if labels is None:
        settings |= {"num_labels": 1, "problem_type": "regression"}
    else:
        names = dict(enumerate(labels.names))
        settings |= {
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
            "problem_type": "single_label_classification",
        }
    if not Path(config.model).is_dir() and "/" not in config.model:
        settings = {**model_ids(tokenizer), **settings}
        model = FunnelformerForSequenceClassification(config_from_name(config.model, settings))
    else:
        # A model fine-tuned before may know other classes.
        model, _ = load_model(
            FunnelformerForSequenceClassification,
            config.model,
            may_miss=("classifier.",),
            may_differ=("classifier.output.",),
            **settings,
        )
    check_vocabulary(tokenizer, model.config.vocab_size, config.model)
    check_length(model.config, config.max_length, "--max-length")
    return model


def _tokenize(data: datasets.Dataset, tokenizer: Any, max_length: int) -> tuple[datasets.Dataset, int]:
    """Token ids with `labels`, and how many texts were cut."""

    def encode(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = rows.get("text_pair")
        encoded = tokenizer(
            rows["text"],
            pairs,
            truncation="longest_first" if pairs is not None else True,
            max_length=max_length,
        )
        cut = [bool(text.overflowing) for text in encoded.encodings]
        return {**encoded, "labels": rows["label"], "cut": cut}

    encoded = data.map(encode, batched=True, remove_columns=data.column_names, desc="tokenise")
    num_cut = sum(encoded["cut"])
    return encoded.remove_columns("cut"), num_cut
