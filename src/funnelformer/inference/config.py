"""What the commands that use a model can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..base.card_options import CardOptions
from ..base.errors import UserError
from ..base.options import (
    BackendOption,
    DeviceOption,
    Engine,
    LabelColumn,
    LongestText,
    ModelFolder,
    TaskOfData,
    TextColumn,
    TextPairColumn,
    TextsInBatch,
    at_least,
    check_ranges,
    flag,
    grouped,
)
from ..base.sentence_modules import Pooling
from ..tasks.window_options import WindowOptions

__all__ = ["EmbedConfig", "EngineOptions", "EvaluateConfig", "PredictConfig", "RankConfig"]


@grouped(run="engine ray_address workers worker_cpus worker_gpus", output="rows_per_part resume")
@dataclass(kw_only=True)
class EngineOptions:
    """Where a command over many rows runs: in this process, or on the machines of a Ray cluster."""

    engine: Engine = "local"
    "ray spreads the rows over a cluster; data may then be a pattern or a folder, and all names may begin with s3://."
    ray_address: str | None = None
    "Address of the cluster, as 10.0.0.1:6379; by default one of this machine alone is started."
    workers: Annotated[int | None, at_least(1)] = None
    "Most workers, each with a model; by default as many as the cluster has CPUs (or GPUs) for."
    worker_cpus: Annotated[int, at_least(1)] = 1
    "CPUs of a worker."
    worker_gpus: Annotated[float, at_least(0)] = 0
    "GPUs of a worker."
    rows_per_part: Annotated[int, at_least(1)] = 4096
    "Rows of a part, which is what is made again when a worker dies."
    resume: bool = False
    "Go on with a run: make only the parts that are not there."

    def check_engine(self, **unused: object) -> None:
        """Raise UserError for an option of the engine without it, and for one in `unused` that it does not take."""
        if self.engine == "ray":
            for name, value in unused.items():
                if value not in (None, False):
                    raise UserError(f"{flag(name)} does not go with --engine ray")
            return
        given = {"ray_address": None, "workers": None, "worker_cpus": 1, "worker_gpus": 0, "resume": False}
        for name, default in {**given, "rows_per_part": 4096}.items():
            if getattr(self, name) != default:
                raise UserError(f"{flag(name)} needs --engine ray")


@grouped(
    most="model data task out batch_size",
    data="part text text_pair label skip_bad_rows max_length",
    run="device backend",
)
@dataclass
class EvaluateConfig(WindowOptions):
    """What `evaluate` can be told."""

    model: ModelFolder
    data: str
    "csv, tsv, jsonl, parquet (compressed or not), a folder, or a `datasets` name."
    _: KW_ONLY
    task: TaskOfData = None
    part: str | None = None
    "Part of the task to read, such as dev-matched; by default one with labels that was not trained on. For other \
folders and names it is a split; by default test."
    out: Path | None = None
    "File for the metrics (JSON)."
    text: TextColumn = None
    text_pair: TextPairColumn = None
    label: LabelColumn = None
    skip_bad_rows: bool = False
    "Leave out rows that cannot be used, and count them."
    max_length: LongestText = None
    batch_size: TextsInBatch = 32
    device: DeviceOption = "auto"
    backend: BackendOption = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)


@grouped(
    most="model data out format batch_size",
    data="task part text text_pair max_length",
    run="device backend",
    output="submit_to",
)
@dataclass
class PredictConfig(WindowOptions, EngineOptions):
    """What `predict` can be told."""

    model: ModelFolder
    data: str = "-"
    'txt (one text a line), csv, tsv, jsonl, parquet; "-" is stdin; a folder, or a `datasets` name.'
    _: KW_ONLY
    task: TaskOfData = None
    part: str | None = None
    "Part of the task, such as dev-matched; by default the first test part. For other folders and names, a split."
    submit_to: Annotated[Path | None, Parameter(name="--submit")] = None
    "Zip file for the GLUE leaderboard; predictions for the task's test parts are added to it. For squad and \
squad2, a folder for predictions.json, nbest_predictions.json and null_odds.json."
    out: Path | None = None
    "File to write; by default stdout."
    format: Literal["jsonl", "csv"] | None = None
    "Format of the output; by default the file's suffix decides, otherwise jsonl."
    text: TextColumn = None
    text_pair: TextPairColumn = None
    max_length: LongestText = None
    batch_size: TextsInBatch = 32
    device: DeviceOption = "auto"
    backend: BackendOption = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)
        self.check_engine(
            task=self.task,
            part=self.part,
            submit=self.submit_to,
            format=self.format,
            **self.asked,
        )


@grouped(
    most="model data out pooling batch_size",
    data="text max_length doc_stride prompt",
    model="normalize",
    run="device backend",
    output="save_to overwrite",
)
@dataclass
class EmbedConfig(CardOptions, EngineOptions):
    """What `embed` can be told."""

    model: str
    "Folder of a model, pretrained or fine-tuned, of any known format; or a name on the Hub."
    data: str | None = None
    'txt (one text a line), csv, tsv, jsonl, parquet; "-" is stdin.'
    _: KW_ONLY
    out: Path | None = None
    "File to write: .npy (the vectors alone), .parquet or .jsonl (with the columns of the input)."
    text: TextColumn = None
    pooling: Pooling | None = None
    "cls takes the encoder's first state; mean averages all states; mean_tokens weighs each by the tokens it holds. \
By default the model's own pooling, otherwise the mean."
    normalize: Annotated[bool | None, Parameter(negative="--no-normalize")] = None
    "Scale every vector to length 1."
    max_length: Annotated[int | None, at_least(3)] = None
    "Longest text in tokens; longer ones are cut. By default the model's own length, that of fine-tuning, or 512."
    doc_stride: Annotated[int | None, at_least(1)] = None
    "Read longer texts in windows that begin this many tokens apart, in place of cutting them. The vector of a text is \
the mean of those of its windows, each counted as often as it has tokens."
    prompt: str | None = None
    "Name of one of the model's prompts, to put before every text."
    batch_size: TextsInBatch = 32
    device: DeviceOption = "auto"
    backend: BackendOption = "auto"
    save_to: Annotated[Path | None, Parameter(name="--save-sentence-transformers")] = None
    "Folder to write that SentenceTransformer loads, with this pooling, length and normalisation."
    overwrite: bool = False
    "Replace the files of that folder if it is not empty."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)
        if self.save_to is None and (self.license or self.language):
            given = "--license" if self.license else "--language"
            raise UserError(f"{given} is for the card of --save-sentence-transformers")
        if self.save_to is not None and self.doc_stride is not None:
            raise UserError(
                "--doc-stride: sentence_transformers reads no windows; leave it out, or --save-sentence-transformers"
            )
        self.check_engine(save_sentence_transformers=self.save_to, overwrite=self.overwrite)


@grouped(
    most="model documents query top_k out",
    data="label text max_length",
    run="batch_size device backend",
)
@dataclass
class RankConfig:
    """What `rank` can be told."""

    model: str
    "Folder of a model fine-tuned on pairs of texts, with classes or amounts."
    documents: str = "-"
    'txt (one a line), csv, tsv, jsonl, parquet; "-" is stdin.'
    _: KW_ONLY
    query: str
    "First text of every pair."
    top_k: Annotated[int | None, at_least(1)] = None
    "Number of documents to write; by default all."
    label: str | None = None
    "Class whose probability is the score; by default the second of two."
    out: Path | None = None
    "File to write (JSON lines); by default stdout."
    text: str | None = None
    "Column of the document."
    max_length: Annotated[int | None, at_least(3)] = None
    "Longest pair in tokens; longer ones are cut. By default as in training."
    batch_size: Annotated[int, at_least(1)] = 32
    "Pairs in a batch."
    device: DeviceOption = "auto"
    backend: BackendOption = "auto"

    def __post_init__(self) -> None:
        check_ranges(self)
