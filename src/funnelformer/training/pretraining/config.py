"""What `pretrain` can be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ...base.card_options import CardOptions
from ...base.errors import UserError
from ...base.options import (
    FRACTION,
    FRACTION_FROM_0,
    ConfigKeys,
    Files,
    Parallel,
    Strategy,
    TextColumn,
    Tracker,
    above,
    at_least,
    flag,
    grouped,
    model_options,
)
from ..run.config import NumSteps, RunConfig

__all__ = ["PretrainConfig"]


@grouped(
    most="model train tokenizer steps",
    data="text_column block_size validation_fraction masking mlm_probability num_predict probe_train probe_dev",
    model="model_options objective",
    optimisation="optimizer evaluate_every on_nan spike_factor",
    run="parallel gradient_checkpointing compile probe_every",
    output="save_every report_to",
)
@dataclass(kw_only=True)
class PretrainConfig(CardOptions, RunConfig):
    """What `pretrain` can be told."""

    train: Files
    "A folder of `funnelformer prepare`, or text files or globs to prepare in memory: txt (empty line between \
documents), jsonl, csv, tsv, parquet; .gz, .zst, .bz2, .xz."
    tokenizer: Path
    "Tokenizer folder (see `funnelformer tokenizer`) or vocabulary file."
    model: str = "B4-4-4H768"
    "Layout (B4-4-4H768, L12H768, funnel-small, ...), or the folder of a model to go on from."
    model_options: ConfigKeys = field(default_factory=dict)
    objective: Literal["mlm", "mlm+sso", "electra"] = "mlm"
    "mlm: predict hidden tokens. mlm+sso: also predict how two parts of the text relate (PoNet's objective). electra: \
a generator fills in the hidden tokens, and the model tells which tokens were replaced."
    text_column: TextColumn = None
    block_size: Annotated[int | None, at_least(8)] = None
    "Tokens of a training sequence; by default that of prepared data, 128 for text."
    masking: Strategy = "single_token"
    "What is hidden: single tokens, whole words, or spans of 1 to 5 tokens or words."
    mlm_probability: Annotated[float, FRACTION] = 0.15
    "Fraction of the tokens to predict."
    num_predict: Annotated[int | None, at_least(1)] = None
    "Number of tokens to predict in every sequence, in place of a fraction."
    optimizer: Literal["modern", "paper"] = "modern"
    "modern: torch's AdamW, betas 0.9 and 0.98. paper: the original's, betas 0.9 and 0.99, which decays everything."
    parallel: Parallel = "ddp"
    "How several processes hold the model. ddp: each holds all of it. fsdp: each holds a share of the weights, \
gradients and optimizer state, for models that do not fit one device; checkpoints are sharded too."
    gradient_checkpointing: Annotated[bool, Parameter(negative="")] = False
    "Compute layers again in the backward pass: less memory, more time."
    compile: Annotated[bool, Parameter(negative="")] = False
    "Compile the model with torch.compile."
    spike_factor: Annotated[float, above(1)] = 1.5
    "Warn in the log when the loss is above this many times its running mean."
    report_to: Tracker | None = None
    "Where the log goes besides log.jsonl; by default to tensorboard, if it is installed."
    steps: NumSteps = 10_000
    validation_fraction: Annotated[float, FRACTION_FROM_0] = 0.01
    "Fraction of the documents held out to measure loss, accuracy and perplexity."
    evaluate_every: Annotated[int, at_least(1)] = 1000
    "Steps between two measurements on the held-out documents."
    save_every: Annotated[int, at_least(1)] = 1000
    "Steps between two checkpoints."
    probe_train: str | None = None
    "Labelled texts in a form that `finetune --train` reads: now and then a copy of the model is fine-tuned on them, \
and its scores go to the log."
    probe_dev: str | None = None
    "Labelled texts to score that copy on; by default a part of --probe-train."
    probe_every: Annotated[int | None, at_least(1)] = None
    "Steps between two probes (see --probe-train); by default as --evaluate-every."

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        CardOptions.__post_init__(self)
        self.tokenizer = Path(self.tokenizer)
        # A new model may have room for more ids than the tokenizer has.
        model_options(self.model_options, free=("vocab_size",))
        for name in ("probe_dev", "probe_every"):
            if getattr(self, name) is not None and self.probe_train is None:
                raise UserError(f"{flag(name)} needs --probe-train")


_DEFAULT_BLOCK_SIZE = 128
