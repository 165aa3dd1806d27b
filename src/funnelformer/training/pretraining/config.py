"""What `pretrain` can be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ...base.errors import UserError
from ...base.options import (
    FRACTION,
    FRACTION_FROM_0,
    Files,
    Parallel,
    Strategy,
    Tracker,
    above,
    at_least,
    flag,
    grouped,
    model_options,
)
from ..run.config import RunConfig

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
class PretrainConfig(RunConfig):
    """What `pretrain` can be told."""

    train: Files
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
    block_size: Annotated[int | None, at_least(8)] = None
    "Tokens of a training sequence; by default that of prepared data, 128 for text."
    masking: Strategy = "single_token"
    "What is hidden: single tokens, whole words, or spans of 1 to 5 tokens or words."
    mlm_probability: Annotated[float, FRACTION] = 0.15
    "Fraction of the tokens that are predicted."
    num_predict: Annotated[int | None, at_least(1)] = None
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
    spike_factor: Annotated[float, above(1)] = 1.5
    "A loss above this many times its running mean is a warning in the log."
    report_to: Tracker | None = None
    "Where the log goes beside log.jsonl; by default tensorboard where it is installed."
    steps: Annotated[int, at_least(1)] = 10_000
    "Optimizer steps."
    validation_fraction: Annotated[float, FRACTION_FROM_0] = 0.01
    "Fraction of the documents held out to measure loss, accuracy and perplexity."
    evaluate_every: Annotated[int, at_least(1)] = 1000
    "Steps between two measurements on the held-out documents."
    save_every: Annotated[int, at_least(1)] = 1000
    "Steps between two checkpoints."
    probe_train: str | None = None
    "Labelled texts, as `finetune --train` takes them: now and then a copy of the model is fine-tuned on them, and \
what it reaches goes to the log."
    probe_dev: str | None = None
    "Labelled texts to measure that on; by default a part of --probe-train."
    probe_every: Annotated[int | None, at_least(1)] = None
    "Steps between two such fine-tunings; by default those of --evaluate-every."

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokenizer = Path(self.tokenizer)
        # A new model may have room for more ids than the tokenizer has.
        model_options(self.model_options, free=("vocab_size",))
        for name in ("probe_dev", "probe_every"):
            if getattr(self, name) is not None and self.probe_train is None:
                raise UserError(f"{flag(name)} needs --probe-train")


_DEFAULT_BLOCK_SIZE = 128
