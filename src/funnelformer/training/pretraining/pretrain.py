"""Pretraining from text files or prepared data."""

from pathlib import Path
from typing import Any, NamedTuple

import transformers

from ...base.errors import UserError
from ...base.files import atomic_writer
from ...base.markdown import markdown_table
from ...base.options import Tracker, model_options
from ...base.processes import first, num_processes, say, start_processes
from ...checkpoints.card import CARD, card_text, inherited, measurements, model_snippet, results
from ...checkpoints.model_source import is_layout
from ...checkpoints.provenance import source_name
from ...corpus.build import rows_from_text
from ...corpus.documents import Split, expand_sources
from ...corpus.manifest import MANIFEST
from ...corpus.masking import MaskedBlocks, Masking, NextEpoch
from ...corpus.prepared import is_prepared, open_prepared
from ...corpus.row_settings import RowSettings
from ...data.tokenizer import check_fits, load_tokenizer, model_ids
from ...inference.load import load_model
from ...inference.settings import check_length
from ...modeling import FunnelformerForMaskedLM, head_of
from ..run.facts import run_cost, write_metrics
from ..run.folder import check_run, config_from_name, open_run
from ..run.input_files import files_of, input_files, tokenizer_files
from ..run.learning_rate import choose_rate
from ..run.tracking import choose_tracker, tracker_settings
from ..run.trainer import run_trainer, training_arguments
from .config import _DEFAULT_BLOCK_SIZE, PretrainConfig
from .objectives import OBJECTIVES
from .probe import Probe
from .trainer import PretrainTrainer

__all__ = ["pretrain"]


@input_files.register
def _(config: PretrainConfig) -> list[Path]:
    """The manifest of prepared data, which has the counts, hashes and settings of all files."""
    files: list[Path] = tokenizer_files(config.tokenizer)
    for name in config.train:
        if is_prepared(name):
            files.append(Path(name) / MANIFEST)
            continue
        for source in expand_sources(name):
            files += files_of(source if isinstance(source, Path) else source.name)
    return files


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pretrain a model and return the final metrics (also in metrics.json).

    Under torchrun every process calls this, and the first process writes and prints.
    Raises UserError before training starts if the input cannot be used, and later if the loss becomes NaN.
    """
    tracker = choose_tracker(config.report_to)
    start_processes(cpu=config.device == "cpu")
    transformers.set_seed(config.seed)
    first(lambda: check_run(config))
    inputs = _read(config)
    checkpoint = first(lambda: open_run(config, "pretrain"))
    rate = choose_rate(
        config.learning_rate, inputs.model.config.hidden_size, from_nothing=is_layout(config.model)
    )
    if config.gradient_checkpointing:
        _enable_checkpointing(inputs.model)
    if config.parallel == "fsdp" and num_processes() == 1:
        say(
            "one process: nothing is sharded but the form of the checkpoints, which more processes can go on from"
        )
    trainer = _trainer(config, inputs, rate, tracker)
    run_trainer(trainer, inputs.tokenizer, config.out, checkpoint)
    metrics = _measure(config, inputs, trainer, rate)

    def finish() -> dict[str, Any]:
        with atomic_writer(config.out / CARD) as file:
            file.write(_card(config, inputs.model, metrics))
        return write_metrics(config.out, metrics)

    return first(finish)


class _Inputs(NamedTuple):
    """What a run begins with; its blocks are masked anew in every epoch."""

    tokenizer: Any
    model: Any
    splits: dict[Split, MaskedBlocks]
    probe: Probe | None


def _read(config: PretrainConfig) -> _Inputs:
    """Read and check all inputs. Raises UserError for any that cannot be used."""
    objective = OBJECTIVES[config.objective]
    folder = _prepared_folder(config)
    tokenizer = load_tokenizer(config.tokenizer)
    blocks = (
        open_prepared(folder, tokenizer, block_size=config.block_size, pairs=objective.pairs)
        if folder
        else {}
    )
    block_size = blocks["train"].features["input_ids"].length if folder else config.block_size
    block_size = block_size or _DEFAULT_BLOCK_SIZE
    model = _model(config, tokenizer, block_size)
    say(f"model: {model.config.name}, {model.num_parameters():,} parameters")
    if not folder:
        settings = RowSettings(
            block_size,
            form="structure" if objective.pairs else "single",
            validation_fraction=config.validation_fraction,
            seed=config.seed,
        )
        blocks = rows_from_text(config.train, tokenizer, settings, config.text_column)
    _check_rows(config, blocks)
    sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in blocks.items())
    say(f"corpus: blocks of {block_size} tokens: {sizes}")
    masking = Masking(config.masking, config.mlm_probability, config.num_predict)
    splits = {
        split: MaskedBlocks(
            rows, tokenizer, masking, config.seed, model.config.cls_token_type_id, objective.pairs
        )
        for split, rows in blocks.items()
    }
    probe = _probe(config, tokenizer, block_size)
    if probe is not None:
        first(probe.check)
    return _Inputs(tokenizer, model, splits, probe)


def _trainer(config: PretrainConfig, inputs: _Inputs, rate: float, tracker: Tracker) -> PretrainTrainer:
    objective, splits = OBJECTIVES[config.objective], inputs.splits
    report_to, callbacks = tracker_settings(tracker, config.out)
    return objective.trainer_class(
        model=inputs.model,
        args=training_arguments(
            config,
            config.steps,
            learning_rate=rate,
            eval_strategy="steps" if "validation" in splits else "no",
            eval_steps=config.evaluate_every,
            save_steps=config.save_every,
            prediction_loss_only=True,
            remove_unused_columns=False,
            torch_compile=config.compile,
            ddp_find_unused_parameters=False,  # there are none, with any objective, mixer or position
            report_to=report_to,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        data_collator=splits["train"].collate,
        # The held-out blocks stay at epoch 0: the same masks in every measurement, of every run.
        callbacks=[NextEpoch(splits["train"]), *callbacks],
        parallel=config.parallel,
        probe=inputs.probe,
        probe_every=config.probe_every or config.evaluate_every,
        logged=objective.logged,
        on_nan=config.on_nan,
        spike_factor=config.spike_factor,
        optimizer_preset=config.optimizer,
        out=config.out,
    )


def _measure(
    config: PretrainConfig, inputs: _Inputs, trainer: PretrainTrainer, rate: float
) -> dict[str, Any]:
    """What the run came to, with the scores on the held-out documents, if there are any."""
    model = inputs.model
    metrics: dict[str, Any] = {
        "model": model.config.name,
        "steps": trainer.state.global_step,
        "chosen": {"learning_rate": rate},
        "num_parameters": model.num_parameters(),
        "cost": run_cost(trainer),
        **trainer.nan_facts,
    }
    if "validation" in inputs.splits:
        measured = trainer.evaluate()
        names = ("loss", *OBJECTIVES[config.objective].logged, "masked_accuracy", "perplexity")
        metrics |= {f"validation_{name}": measured[f"eval_{name}"] for name in names}
    return metrics


# Of what is measured, what the Hub knows by name.
_MEASURED = {"validation_perplexity": "perplexity", "validation_masked_accuracy": "accuracy"}
_HELD_OUT = "held-out documents"


def _card(config: PretrainConfig, model: Any, metrics: dict[str, Any]) -> str:
    saved = getattr(model, "discriminator", model)
    scores = {key: value for key, value in metrics.items() if key.startswith("validation_")}
    cost = metrics["cost"]
    sections = {
        "Scores": markdown_table(
            [_HELD_OUT, "value"], [[key, f"{value:.4f}"] for key, value in scores.items()]
        )
        if scores
        else "No documents were held out.",
        "Training": markdown_table(
            ["what", "value"],
            [
                ["objective", config.objective],
                ["steps", f"{metrics['steps']:,}"],
                ["learning rate", f"{metrics['chosen']['learning_rate']:g}"],
                ["seconds, without evaluations and checkpoints", f"{cost['train_seconds']:.1f}"],
                ["device, processes", f"{cost['device']}, {cost['num_processes']}"],
            ],
        ),
    }
    # The head for sentence structure is pretraining's alone; its folder loads as a masked language model.
    head = head_of(type(saved).__name__)  # sharded, a class has a name before its own
    class_name = (FunnelformerForMaskedLM if head is None else head.model_class).__name__
    start = "from random weights" if is_layout(config.model) else f"from `{source_name(config.model)}`"
    return card_text(
        title=f"{model.config.name}, pretrained",
        introduction=f"An encoder of texts with {metrics['num_parameters']:,} parameters, pretrained {start}. "
        "It is meant to be fine-tuned.",
        snippet=model_snippet(class_name),
        sections=sections,
        pipeline_tag="fill-mask" if config.objective != "electra" else None,
        **measurements(
            results(
                {name: scores[key] for key, name in _MEASURED.items() if key in scores},
                "fill-mask",
                _HELD_OUT,
            ),
            model.config.name,
        ),
        **inherited(config.model, stated=config),
    )


def _probe(config: PretrainConfig, tokenizer: Any, block_size: int) -> Probe | None:
    if config.probe_train is None:
        return None
    settings = {
        "train": config.probe_train,
        "dev": config.probe_dev,
        "max_length": block_size,
        "precision": config.precision,
        "seed": config.seed,
        "device": config.device,
    }
    return Probe(settings, tokenizer, config.out)


def _enable_checkpointing(model: Any) -> None:
    # Renamed in transformers 5.23.
    new = getattr(model, "activation_checkpointing_enable", None)
    new() if new is not None else model.gradient_checkpointing_enable()


def _prepared_folder(config: PretrainConfig) -> str | None:
    """The folder of prepared data that --train names, or None for texts, which must exist."""
    prepared = [name for name in config.train if is_prepared(name)]
    if prepared and len(config.train) > 1:
        raise UserError(
            f"{prepared[0]}: holds prepared data; --train takes one such folder and nothing beside it"
        )
    if not prepared:
        expand_sources(config.train)
    return prepared[0] if prepared else None


def _check_rows(config: PretrainConfig, blocks: dict[Split, Any]) -> None:
    """Check the rows. Prepared data have their own held-out part; without one nothing is measured."""
    if not config.validation_fraction:
        blocks.pop("validation", None)
    num_rows = len(blocks["train"])
    batch = config.batch_size * config.gradient_accumulation * num_processes()
    if num_rows < batch:
        raise UserError(
            f"--train: the corpus gives {num_rows} sequences, too few for a step of {batch}; give more text, or a "
            "smaller --batch-size"
        )


def _model(config: PretrainConfig, tokenizer: Any, block_size: int) -> Any:
    objective = OBJECTIVES[config.objective]
    options = model_options(config.model_options, ("vocab_size",) if is_layout(config.model) else ())
    if not is_layout(config.model):
        # An encoder alone has neither decoder nor head; --set.decoder_layers=2 adds the first.
        model, _ = load_model(
            objective.model_class,
            config.model,
            may_miss=objective.heads,
            **{"sparse_prediction": True, **options},
        )
        check_fits(tokenizer, model.config, config.model)
    else:
        defaults = {**model_ids(tokenizer), "sparse_prediction": True, **options}
        model_config = config_from_name(config.model, defaults)
        check_fits(tokenizer, model_config, "--set.vocab_size")
        try:
            model = objective.model_class(model_config)
        except ValueError as error:
            raise UserError(f"--model {config.model}: {error}") from None
    check_length(model.config, block_size, "--block-size")
    return model
