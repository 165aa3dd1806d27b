"""What `finetune` can be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ...base.card_options import CardOptions
from ...base.errors import UserError
from ...base.options import (
    FRACTION,
    SEED,
    ConfigKeys,
    LabelColumn,
    SkipBadRows,
    TextColumn,
    TextPairColumn,
    above,
    at_least,
    between,
    flag,
    grouped,
    model_options,
)
from ...tasks.windowing import Windowing, windowing_of
from ..run.config import RunConfig

__all__ = ["FinetuneConfig"]

_TEMPERATURE, _TEACHER_WEIGHT = 2.0, 0.5
LAYER_DECAY = between("0 < factor <= 1", lambda value: 0 < value <= 1)
MAX_LENGTH = between("3 or more, or auto", lambda value: value >= 3)
# Options that have no effect if no step is scored, or if no step is made.
_OF_SCORED_STEPS = (
    "epochs",
    "steps",
    "evaluate_every",
    "early_stopping",
    "group_by_length",
    "keep_checkpoints",
)
_OF_STEPS = (
    *("gradient_accumulation", "learning_rate", "weight_decay", "warmup", "schedule", "clip", "precision"),
    *("on_nan", "layer_decay", "log_every"),
)


@grouped(
    most="model train task epochs",
    data="data dev dev_fraction tokenizer text text_pair label regression multi_label label_separator "
    "skip_bad_rows split_seed cache",
    model="max_length doc_stride windows max_answer_length model_options",
    optimisation="teacher temperature teacher_weight frozen few_shot contrastive_epochs steps evaluate_every "
    "early_stopping layer_decay class_weights group_by_length",
    run="sweep seeds",
)
@dataclass(kw_only=True)
class FinetuneConfig(CardOptions, RunConfig):
    """What `finetune` can be told."""

    model: str
    "Folder of a pretrained model (any known format), or a layout such as B4-4-4H768 to start from nothing."
    task: str | None = None
    "A task of the papers, such as cola, mnli, imdb or yelp5, whose columns, labels and scores are known. Needs --data."
    data: str | None = None
    "Data of the --task: a folder with its official files or with folders of several tasks, or a `datasets` name."
    train: str | None = None
    "Training data: csv, tsv, jsonl, parquet (.gz, .zst, .bz2, .xz), a folder, or a `datasets` name."
    dev: str | None = None
    "Data that selects the best epoch; by default a part of the training data."
    dev_fraction: Annotated[float, FRACTION] = 0.1
    "Share of the training data that becomes the dev part; every class gives the same share."
    tokenizer: Path | None = None
    "Tokenizer; by default the model's own."
    text: TextColumn = None
    text_pair: TextPairColumn = None
    label: LabelColumn = None
    regression: Annotated[bool, Parameter(negative="")] = False
    "The label is an amount, not a class."
    multi_label: Annotated[bool, Parameter(negative="")] = False
    "A text has any number of labels: a list, or a text with --label-separator."
    label_separator: str | None = None
    "Text that separates the labels of a row."
    skip_bad_rows: SkipBadRows = False
    class_weights: str | None = None
    "Weight of each class in the loss: balanced, or numbers such as no=1,yes=3."
    max_length: Annotated[int | Literal["auto"], MAX_LENGTH] = 512
    "Tokens of a sequence; longer ones are cut. auto: a length that fits 99% of the training texts."
    doc_stride: Annotated[int | None, at_least(1)] = None
    "Read longer texts in windows of --max-length that begin this many tokens apart; by default they are cut. \
Passages of squad and squad2 (by default 128 apart) and sentences of ner (half a window) are always in windows."
    windows: str | None = None
    "How the windows of a text combine: mean of their logits, max for each class, or first:K, the mean of the first K. \
Without --doc-stride they begin half a window apart."
    max_answer_length: Annotated[int | None, at_least(1)] = None
    "Longest answer in tokens, for squad and squad2; 64 by default."
    epochs: Annotated[float, above(0)] = 3.0
    "Passes over the training data."
    teacher: str | None = None
    "Folder or Hub name of a model that was fine-tuned for the same task: its answers are learned beside the labels."
    temperature: Annotated[float | None, above(0)] = None
    "Number by which the logits of --teacher and of the model are divided before they are compared; 2 by default."
    teacher_weight: Annotated[float | None, between("0 < weight <= 1", lambda value: 0 < value <= 1)] = None
    "Share of the loss that comes from --teacher; the rest comes from the labels. 0.5 by default."
    cache: Path | None = None
    "Folder for the answers of --teacher, which other models, seeds and resumed runs use again; by default the folder \
teacher-outputs beside --out."
    frozen: Annotated[bool, Parameter(negative="")] = False
    "Leave the encoder as it is, compute the vector of each text once, and fit a linear head to the vectors: it takes \
seconds, not minutes."
    few_shot: Annotated[bool, Parameter(negative="")] = False
    "For 8 to 64 texts a class: train the encoder on pairs of texts, of one class or of two, then fit a head to its \
vectors."
    contrastive_epochs: Annotated[float, above(0)] = 20.0
    "For --few-shot: passes over the training texts; a batch compares all its pairs."
    steps: Annotated[int | None, at_least(1)] = None
    "Steps of training, in place of --epochs."
    evaluate_every: Annotated[int | None, at_least(1)] = None
    "Steps between two checkpoints, each scored on the dev data; by default one epoch."
    early_stopping: Annotated[int | None, at_least(1)] = None
    "Stop after this many dev scores in a row that did not beat the best."
    layer_decay: Annotated[float, LAYER_DECAY] = 1.0
    "Factor of the learning rate from each layer to the one below it; 1 means no decay; the paper uses 0.75 on SQuAD."
    sweep: list[str] = field(default_factory=list)
    "Run a grid: lr=1e-5,2e-5 (batch, epochs, any option); one --sweep for each option. Each point has --seeds runs."
    seeds: Annotated[int, at_least(1)] = 1
    "Number of runs, with seeds counted from --seed, each in a folder of --out, and a table of means."
    split_seed: Annotated[int | None, SEED] = None
    "Seed for choosing the dev part; by default --seed."
    group_by_length: Annotated[bool, Parameter(negative="")] = False
    "Put texts of similar length in a batch: less padding, so faster where lengths differ much."
    model_options: ConfigKeys = field(default_factory=dict)

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        CardOptions.__post_init__(self)
        if self.max_length == "auto" and (windowing := self.windowing) is not None:
            raise UserError(f"{windowing.option} needs --max-length as a number: the tokens of a window")
        if self.regression and self.multi_label:
            raise UserError("--regression and --multi-label exclude each other")
        if self.label_separator is not None and not (self.multi_label and self.label_separator):
            raise UserError(
                "--label-separator needs --multi-label, and must be the text between the labels of a row"
            )
        self.cache = None if self.cache is None else Path(self.cache)
        self._check_fitted()
        self._check_taught()
        model_options(self.model_options)

    @property
    def windowing(self) -> Windowing | None:
        """How long texts are read in windows; None if they are cut. Raises UserError for an unknown --windows."""
        if self.doc_stride is None and self.windows is None:
            return None
        return windowing_of(self.doc_stride, self.windows)

    @property
    def fits_head(self) -> bool:
        """Whether the head is fitted to vectors (--frozen, --few-shot) and not trained together with the encoder."""
        return self.frozen or self.few_shot

    @property
    def chosen_temperature(self) -> float:
        return self.temperature or _TEMPERATURE

    @property
    def chosen_weight(self) -> float:
        """The teacher's share of the loss, 0 to 1."""
        return self.teacher_weight or _TEACHER_WEIGHT

    @property
    def cache_folder(self) -> Path:
        return self.cache or self.out.absolute().parent / "teacher-outputs"

    def _check_taught(self) -> None:
        """Raise UserError for options of a teacher without a teacher, and if it or its temperature has no effect."""
        if self.teacher is None:
            for name in ("temperature", "teacher_weight", "cache"):
                if self._is_given(name):
                    raise UserError(f"{flag(name)} needs --teacher")
        elif self.fits_head:
            how = "--frozen" if self.frozen else "--few-shot"
            raise UserError(
                f"{how} fits the head to the labels alone, so --teacher would have no effect; leave it out"
            )
        elif self.regression and self.temperature is not None:
            raise UserError("--temperature is for classes, and --regression has none; leave it out")

    def _check_fitted(self) -> None:
        """Raise UserError for options that have no effect with --frozen or --few-shot."""
        if self.frozen and self.few_shot:
            raise UserError(
                "--frozen and --few-shot exclude each other: one keeps the encoder, one trains it"
            )
        if not self.few_shot and self._is_given("contrastive_epochs"):
            raise UserError("--contrastive-epochs needs --few-shot")
        if not self.fits_head:
            return
        how = (
            "--frozen trains no step" if self.frozen else "--few-shot trains on pairs and then fits the head"
        )
        for name in (*_OF_SCORED_STEPS, *(_OF_STEPS if self.frozen else ())):
            if self._is_given(name):
                raise UserError(f"{how}, so {flag(name)} would have no effect; leave it out")
        if self.few_shot and self.batch_size % 2:
            raise UserError(
                f"--batch-size is {self.batch_size}; allowed with --few-shot: even numbers, because texts come in pairs"
            )

    def _is_given(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(FinetuneConfig, name, None))
