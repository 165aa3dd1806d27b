"""Masked-language-model pretraining from text files."""

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import transformers
from cyclopts import Parameter
from transformers import Trainer

from ..data.corpus import tokenize_corpus
from ..data.files import atomic_writer, expand_paths
from ..data.tokenizer import check_vocabulary, load_tokenizer, model_ids
from ..errors import UserError
from ..inference import check_length, load_model
from ..modeling import FunnelformerForMaskedLM
from .masking import MaskedBlocks, NextEpoch
from .run import RunConfig, check_run, config_from_name, flag, open_run, parse_options
from .trainer import run_trainer, training_arguments

__all__ = ["PretrainConfig", "pretrain"]


@Parameter(name="*")
@dataclass(kw_only=True)
class PretrainConfig(RunConfig):
    """What `pretrain` can be told."""

    train: Annotated[list[str], Parameter(consume_multiple=True, negative="")]
    "Text files or globs: txt (empty line between documents), jsonl, csv, tsv, parquet; .gz, .zst, .bz2, .xz."
    tokenizer: Path
    "Tokenizer folder (see `funnelformer tokenizer`) or vocabulary file."
    model: str = "B4-4-4H768"
    "Layout (B4-4-4H768, L12H768, funnel-small, ...), or the folder of a model to go on from."
    model_options: Annotated[dict[str, str], Parameter(name="--set", negative="")] = field(
        default_factory=dict
    )
    "Config keys of the model, as --set.pooling=max --set.embedding_size=128."
    text_column: str | None = None
    "Column of the text in tables."
    block_size: int = 128
    "Tokens of a training sequence."
    mlm_probability: float = 0.15
    "Fraction of the tokens that are predicted."
    steps: int = 10_000
    "Optimizer steps."
    validation_fraction: float = 0.01
    "Fraction of the documents held out to measure the loss."
    evaluate_every: int = 1000
    "Steps between two measurements on the held-out documents."
    save_every: int = 1000
    "Steps between two checkpoints."

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokenizer = Path(self.tokenizer)
        if not 0 < self.mlm_probability < 1:
            raise UserError(f"--mlm-probability is {self.mlm_probability}; allowed: 0 < fraction < 1")
        for name, least in (("steps", 1), ("evaluate_every", 1), ("save_every", 1), ("block_size", 8)):
            if getattr(self, name) < least:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; allowed: {least} and more")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(
                f"--validation-fraction is {self.validation_fraction}; allowed: 0 <= fraction < 1"
            )


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pretrain a model with masked language modelling; return the final metrics (also in metrics.json).

    Raises UserError for input that cannot be used, before training starts.
    """
    transformers.set_seed(config.seed)
    check_run(config)
    expand_paths(config.train)
    tokenizer = load_tokenizer(config.tokenizer)
    model = _model(config, tokenizer)
    print(f"model: {model.config.name}, {model.num_parameters():,} parameters")
    splits = {
        split: MaskedBlocks(
            tokenize_corpus(
                config.train,
                tokenizer,
                config.block_size,
                text_column=config.text_column,
                split=split,
                validation_fraction=config.validation_fraction,
                show_progress=sys.stderr.isatty(),
            ),
            tokenizer,
            config.mlm_probability,
            config.seed,
        )
        for split in (("train", "validation") if config.validation_fraction else ("train",))
    }
    sizes = ", ".join(f"{split} {len(blocks):,}" for split, blocks in splits.items())
    print(f"corpus: blocks of {config.block_size} tokens: {sizes}")
    has_validation = "validation" in splits
    checkpoint = open_run(config, "pretrain")
    trainer = Trainer(
        model=model,
        args=training_arguments(
            config,
            config.steps,
            eval_strategy="steps" if has_validation else "no",
            eval_steps=config.evaluate_every,
            save_steps=config.save_every,
            prediction_loss_only=True,
            remove_unused_columns=False,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        data_collator=splits["train"].collate,
        # The held-out blocks stay at epoch 0: the same masks in every measurement, of every run.
        callbacks=[NextEpoch(splits["train"])],
    )
    run_trainer(trainer, tokenizer, config.out, checkpoint)
    metrics: dict[str, Any] = {"model": model.config.name, "steps": trainer.state.global_step}
    if has_validation:
        loss = trainer.evaluate()["eval_loss"]
        metrics |= {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 700.0))}
    with atomic_writer(config.out / "metrics.json") as file:
        json.dump(metrics, file, indent=2)
    return metrics


def _model(config: PretrainConfig, tokenizer: Any) -> FunnelformerForMaskedLM:
    options = parse_options(config.model_options)
    if Path(config.model).is_dir() or "/" in config.model:
        # An encoder alone has neither decoder nor head; --set.decoder_layers=2 adds the first.
        model, _ = load_model(
            FunnelformerForMaskedLM,
            config.model,
            may_miss=("lm_head.", "funnelformer.decoder."),
            **{"sparse_prediction": True, **options},
        )
        check_vocabulary(tokenizer, model.config.vocab_size, config.model)
    else:
        defaults = {**model_ids(tokenizer), "sparse_prediction": True, **options}
        model_config = config_from_name(config.model, defaults)
        check_vocabulary(tokenizer, model_config.vocab_size, "--set.vocab_size")
        try:
            model = FunnelformerForMaskedLM(model_config)
        except ValueError as error:
            raise UserError(f"--model {config.model}: {error}") from None
    check_length(model.config, config.block_size, "--block-size")
    return model
