"""Pretraining from text files or prepared data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import transformers
from cyclopts import Parameter

from ..data.build import RowSettings, rows_from_text
from ..data.corpus import Split, expand_sources
from ..data.files import atomic_writer
from ..data.manifest import MANIFEST
from ..data.prepared import is_prepared, open_prepared
from ..data.tokenizer import check_vocabulary, load_tokenizer, model_ids
from ..errors import UserError
from ..inference import check_length, load_model
from ..strict_json import dump_json
from ..version import stamped
from .input_files import files_of, tokenizer_files
from .learning_rate import choose_rate
from .masking import MaskedBlocks, Masking, NextEpoch, Strategy
from .objectives import OBJECTIVES
from .probe import Probe
from .processes import first, num_processes, say, start_processes
from .run import METRICS_FILE, RunConfig, check_run, config_from_name, flag, model_options, open_run
from .sharded_trainer import Parallel
from .tracking import Tracker, choose_tracker, tracker_settings
from .trainer import run_trainer, training_arguments

__all__ = ["PretrainConfig", "pretrain"]

_LEAST = (("block_size", 8), ("num_predict", 1), ("probe_every", 1))
_DEFAULT_BLOCK_SIZE = 128


@Parameter(name="*")
@dataclass(kw_only=True)
class PretrainConfig(RunConfig):
    """What `pretrain` can be told."""

    train: Annotated[list[str], Parameter(consume_multiple=True, negative="")]
    "A folder of `funnelformer prepare`, or text files or globs to prepare in memory: txt (empty line between \
documents), jsonl, csv, tsv, parquet; .gz, .zst, .bz2, .xz."
    tokenizer: Path
    "Tokenizer folder (see `funnelformer tokenizer`) or vocabulary file."
    model: str = "B4-4-4H768"
    "Layout (B4-4-4H768, L12H768, funnel-small, ...), or the folder of a model to go on from."
    model_options: Annotated[dict[str, str], Parameter(name="--set", negative="")] = field(
        default_factory=dict
    )
    "Config keys of the model, as --set.pooling=max --set.embedding_size=128."
    objective: Literal["mlm", "mlm+sso", "electra"] = "mlm"
    "mlm: predict hidden tokens. mlm+sso: also how two parts of the text stand to each other (PoNet's). electra: a \
generator fills the hidden tokens in, the model tells which of all tokens are replaced."
    text_column: str | None = None
    "Column of the text in tables."
    block_size: int | None = None
    "Tokens of a training sequence; by default that of prepared data, 128 for text."
    masking: Strategy = "single_token"
    "What is hidden: single tokens, whole words, or spans of 1 to 5 tokens or words."
    mlm_probability: float = 0.15
    "Fraction of the tokens that are predicted."
    num_predict: int | None = None
    "Tokens of every sequence that are predicted, in place of a fraction."
    optimizer: Literal["modern", "paper"] = "modern"
    "modern: torch's AdamW, betas 0.9 and 0.98. paper: the original's, betas 0.9 and 0.99, with decay of everything."
    parallel: Parallel = "ddp"
    "What several processes hold. ddp: each the whole model. fsdp: each a share of weights, gradients and optimizer \
state, for models that one device cannot hold; checkpoints are sharded too."
    gradient_checkpointing: Annotated[bool, Parameter(negative="")] = False
    "Compute layers again in the backward pass: less memory, more time."
    compile: Annotated[bool, Parameter(negative="")] = False
    "Compile the model with torch.compile."
    spike_factor: float = 1.5
    "A loss above this many times its running mean is a warning in the log."
    report_to: Tracker | None = None
    "Where the log goes beside log.jsonl; by default tensorboard where it is installed."
    steps: int = 10_000
    "Optimizer steps."
    validation_fraction: float = 0.01
    "Fraction of the documents held out to measure loss, accuracy and perplexity."
    evaluate_every: int = 1000
    "Steps between two measurements on the held-out documents."
    save_every: int = 1000
    "Steps between two checkpoints."
    probe_train: str | None = None
    "Labelled texts, as `finetune --train` takes them: now and then a copy of the model is fine-tuned on them, and \
what it reaches goes to the log."
    probe_dev: str | None = None
    "Labelled texts to measure that on; by default a part of --probe-train."
    probe_every: int | None = None
    "Steps between two such fine-tunings; by default those of --evaluate-every."

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokenizer = Path(self.tokenizer)
        self.parsed_options()
        if not 0 < self.mlm_probability < 1:
            raise UserError(f"--mlm-probability is {self.mlm_probability}; allowed: 0 < fraction < 1")
        for name, least in (("steps", 1), ("evaluate_every", 1), ("save_every", 1), *_LEAST):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; allowed: {least} and more")
        for name in ("probe_dev", "probe_every"):
            if getattr(self, name) is not None and self.probe_train is None:
                raise UserError(f"{flag(name)} needs --probe-train")
        if not self.spike_factor > 1:
            raise UserError(f"--spike-factor is {self.spike_factor}; allowed: more than 1")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(
                f"--validation-fraction is {self.validation_fraction}; allowed: 0 <= fraction < 1"
            )

    @property
    def is_from_nothing(self) -> bool:
        return not Path(self.model).is_dir() and "/" not in self.model

    def parsed_options(self) -> dict[str, Any]:
        """What `--set` says. Raises UserError for a key that something else decides."""
        # A new model may have room for more ids than the tokenizer has.
        return model_options(self.model_options, ("vocab_size",) if self.is_from_nothing else ())

    def input_files(self) -> list[Path]:
        """Of prepared data the list of what is in them, which has the counts and settings of all files."""
        files: list[Path] = tokenizer_files(self.tokenizer)
        for name in self.train:
            if is_prepared(name):
                files.append(Path(name) / MANIFEST)
                continue
            for source in expand_sources(name):
                files += files_of(source if isinstance(source, Path) else source.name)
        return files


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pretrain a model; return the final metrics (also in metrics.json).

    Under torchrun every process calls it, and the first one writes and prints.
    Raises UserError for input that cannot be used, before training starts, and for a loss that is NaN.
    """
    tracker = choose_tracker(config.report_to)
    start_processes(cpu=config.device == "cpu")
    transformers.set_seed(config.seed)
    first(lambda: check_run(config))
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
    has_validation = "validation" in splits
    probe = _probe(config, tokenizer, block_size)
    if probe is not None:
        first(probe.check)
    checkpoint = first(lambda: open_run(config, "pretrain"))
    rate = choose_rate(config.learning_rate, model.config.hidden_size, from_nothing=config.is_from_nothing)
    if config.gradient_checkpointing:
        _enable_checkpointing(model)
    if config.parallel == "fsdp" and num_processes() == 1:
        say(
            "one process: nothing is sharded but the form of the checkpoints, which more processes can go on from"
        )
    report_to, callbacks = tracker_settings(tracker, config.out)
    trainer = objective.trainer_class(
        model=model,
        args=training_arguments(
            config,
            config.steps,
            learning_rate=rate,
            eval_strategy="steps" if has_validation else "no",
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
        probe=probe,
        probe_every=config.probe_every or config.evaluate_every,
        logged=objective.logged,
        on_nan=config.on_nan,
        spike_factor=config.spike_factor,
        optimizer_preset=config.optimizer,
        out=config.out,
    )
    run_trainer(trainer, tokenizer, config.out, checkpoint)
    metrics: dict[str, Any] = {"model": model.config.name, "steps": trainer.state.global_step}
    metrics["chosen"] = {"learning_rate": rate}
    if config.on_nan == "skip":
        metrics["skipped_updates"] = trainer.num_skipped
    if has_validation:
        measured = trainer.evaluate()
        names = ("loss", *objective.logged, "masked_accuracy", "perplexity")
        metrics |= {f"validation_{name}": measured[f"eval_{name}"] for name in names}

    def write() -> None:
        with atomic_writer(config.out / METRICS_FILE) as file:
            dump_json(stamped(metrics), file)

    first(write)
    return metrics


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
            f"{prepared[0]}: holds prepared data; --train takes one such folder, and nothing else"
        )
    if not prepared:
        expand_sources(config.train)
    return prepared[0] if prepared else None


def _check_rows(config: PretrainConfig, blocks: dict[Split, Any]) -> None:
    """Prepared data have their own hold-out; without any, nothing is measured."""
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
    options = config.parsed_options()
    if not config.is_from_nothing:
        # An encoder alone has neither decoder nor head; --set.decoder_layers=2 adds the first.
        model, _ = load_model(
            objective.model_class,
            config.model,
            may_miss=objective.heads,
            **{"sparse_prediction": True, **options},
        )
        check_vocabulary(tokenizer, model.config.vocab_size, config.model)
    else:
        defaults = {**model_ids(tokenizer), "sparse_prediction": True, **options}
        model_config = config_from_name(config.model, defaults)
        check_vocabulary(tokenizer, model_config.vocab_size, "--set.vocab_size")
        try:
            model = objective.model_class(model_config)
        except ValueError as error:
            raise UserError(f"--model {config.model}: {error}") from None
    check_length(model.config, block_size, "--block-size")
    return model
