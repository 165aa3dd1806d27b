"""What `distill` can be told."""

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ...base.card_options import CardOptions
from ...base.errors import UserError
from ...base.options import (
    FRACTION_FROM_0,
    Engine,
    Files,
    Parallel,
    SkipBadRows,
    above,
    at_least,
    between,
    flag,
    grouped,
    model_options,
)
from ...checkpoints.config import Layers
from ...spread.engine_options import ClusterOptions
from ..run.config import NumSteps, RunConfig, Warmup

__all__ = ["ANSWERS", "LESSONS", "DistillConfig"]

# What a student can learn of its teacher.
LESSONS = ("vectors", "states", "logits", "scores")
# Those that the student has a head for, so that it gives no vectors; each is learned alone.
ANSWERS = ("logits", "scores")
_TEMPERATURE = 2.0
# What says nothing to a student with a head.
_OF_VECTORS = (
    *("pairs", "labelled", "embedding_size", "state_share", "state_texts", "similarity_weight"),
    *("frozen_share", "parallel"),
)
_SHARE = between("0 <= share <= 1", lambda value: 0 <= value <= 1)


@grouped(
    most="teacher model train steps",
    data="text text_pair skip_bad_rows tokenizer cache validation_fraction pairs retrieval labelled",
    model="layout layers max_length embedding_size model_options",
    optimisation="learn temperature state_share state_texts similarity_weight frozen_share dropout evaluate_every",
    run="parallel",
)
@dataclass(kw_only=True)
class DistillConfig(CardOptions, ClusterOptions, RunConfig):
    """What `distill` can be told."""

    teacher: str
    "Folder or Hub name of the model to learn from; it gives vectors of texts, or with --learn logits or scores labels \
of texts or scores of pairs."
    model: str
    "The student: a folder or Hub name of an encoder to begin from (with --layout or --layers: shortened first), or a \
layout such as B2-2-2H384 to begin from nothing."
    train: Files
    "Texts without labels: txt (a text a line), jsonl, csv, tsv, parquet, or globs; .gz, .zst, .bz2, .xz."
    layout: str | None = None
    "Blocks to put the layers of --model in, such as B2-2-2."
    layers: Layers = None
    "Layers of --model to keep, counted from 0, such as 0,2,3,5."
    learn: Annotated[list[str], Parameter(consume_multiple=True, negative="")] = field(
        default_factory=lambda: ["vectors"]
    )
    "What the student learns, with a weight in the loss where it is not 1: vectors states=0.5. vectors: the teacher's \
vectors of the texts, and the similarities within a batch. states: the teacher's states after each block, averaged \
over the student's windows; only for students made from the teacher. Or one of these alone: logits, the labels of \
a classifier; scores, the scores that a cross-encoder gives pairs of a query and a passage."
    engine: Engine = "local"
    "ray spreads the teacher's reading over a cluster; all its machines see --teacher and --cache by these names."
    temperature: Annotated[float | None, above(0)] = None
    "For logits: divides those of the teacher and of the student before they are compared; 2 by default."
    steps: NumSteps = 10_000
    text: str | None = None
    "Column with the text, for tables; of pairs the first."
    text_pair: str | None = None
    "Column with the second text, for logits and scores of pairs."
    skip_bad_rows: SkipBadRows = False
    tokenizer: Path | None = None
    "Tokenizer of a student that begins from nothing; by default the teacher's."
    cache: Path | None = None
    "Folder for the tokens of the texts and the teacher's outputs, which other students, seeds and resumed runs use \
again; by default the folder teacher-outputs beside --out."
    validation_fraction: Annotated[float, FRACTION_FROM_0] = 0.01
    "Fraction of the texts held out to measure agreement with the teacher; at most 2,000 of them are measured."
    pairs: Annotated[list[str], Parameter(consume_multiple=True, negative="")] = field(default_factory=list)
    "Tables of text pairs with a similarity. Their Spearman correlation is measured during the run, and the checkpoint \
where it is best is kept."
    retrieval: Annotated[list[str], Parameter(consume_multiple=True, negative="")] = field(
        default_factory=list
    )
    "Questions with their passages, in SQuAD's form. The run also measures how well it finds a question's passage; \
with --learn scores, among 20 that TF-IDF has found."
    labelled: Annotated[list[str], Parameter(consume_multiple=True, negative="")] = field(
        default_factory=list
    )
    "Tables of a text and a label. The run also measures a logistic regression on the student's vectors."
    max_length: Annotated[int | None, at_least(3)] = None
    "Tokens at which the student cuts a text; by default those of the teacher."
    embedding_size: Annotated[int | None, at_least(8)] = None
    "Width of the student's token embeddings: fewer parameters. They begin as the best approximation of this rank to \
those of --model."
    model_options: Annotated[dict[str, str], Parameter(name="--set", negative="")] = field(
        default_factory=dict
    )
    "Keys of the student's config, such as --set.pooling=max."
    state_share: Annotated[float, _SHARE] = 0.1
    "Share of the steps, from the first on, that also learn the states."
    state_texts: Annotated[int, at_least(1)] = 20_000
    "Texts whose states are kept on disk for those steps, about 1.3 KB a token at a width of 384."
    similarity_weight: Annotated[float, at_least(0)] = 1.0
    "Weight, within vectors, of the squared differences between the cosines of a batch's texts and the teacher's."
    frozen_share: Annotated[float, _SHARE] = 0.0
    "Share of the steps, from the first on, that leave the token embeddings as they are."
    dropout: Annotated[float, FRACTION_FROM_0] = 0.0
    "Dropout in this run; the student's config keeps its own for fine-tuning."
    evaluate_every: Annotated[int, at_least(1)] = 500
    "Steps between two checkpoints, each measured."
    parallel: Parallel = "ddp"
    "How several processes hold the student. ddp: each holds all of it. fsdp: each holds a share."
    warmup: Warmup = 0.08

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        CardOptions.__post_init__(self)
        self.tokenizer = None if self.tokenizer is None else Path(self.tokenizer)
        self.cache = None if self.cache is None else Path(self.cache)
        self.lessons  # noqa: B018  # checks
        model_options(self.model_options)
        self._check_answers()
        self.check_engine()

    @property
    def learns_answers(self) -> bool:
        """Whether the student has a head, and learns the answers of the teacher's head."""
        return any(name in ANSWERS for name in self.lessons)

    def _check_answers(self) -> None:
        """Raises UserError for options that do not go with `--learn`."""
        names = list(self.lessons)
        if not self.learns_answers:
            for name in ("temperature", "text_pair"):
                if getattr(self, name) is not None:
                    raise UserError(f"{flag(name)} is of --learn logits and scores")
            return
        if len(names) > 1 or self.lessons[names[0]] != 1:
            raise UserError(
                f"--learn {' '.join(self.learn)}: {names[-1]} is learned alone, and without a weight"
            )
        given = [name for name in _OF_VECTORS if _differs(self, name)]
        if names[0] == "logits" and self.retrieval:
            given.append("retrieval")
        if given:
            raise UserError(f"--learn {names[0]}: {flag(given[0])} would have no effect; leave it out")
        if names[0] == "scores" and self.temperature is not None:
            raise UserError("--temperature is of classes, and scores have none; leave it out")

    @property
    def chosen_temperature(self) -> float:
        return self.temperature or _TEMPERATURE

    @property
    def lessons(self) -> dict[str, float]:
        """What is learned, with its weight in the loss. Raises UserError for unknown or incompatible lessons."""
        found: dict[str, float] = {}
        for entry in self.learn:
            name, _, weight = entry.partition("=")
            if name not in LESSONS or name in found:
                raise UserError(
                    f"--learn {entry!r}: {'is given twice' if name in found else 'cannot be learned'}; allowed: "
                    f"{', '.join(LESSONS)}, each once, or with a weight as {LESSONS[0]}=0.5"
                )
            found[name] = _weight(entry, weight) if "=" in entry else 1.0
        return found

    @property
    def cache_folder(self) -> Path:
        return self.cache or self.out.absolute().parent / "teacher-outputs"


def _differs(config: DistillConfig, name: str) -> bool:
    """Whether an option is not as it is by default."""
    (entry,) = (entry for entry in fields(config) if entry.name == name)
    default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    return bool(getattr(config, name) != default)


def _weight(entry: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise UserError(f"--learn {entry!r}: allowed: a weight above 0, such as 0.5")
    return weight
