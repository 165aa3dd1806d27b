"""What the commands that use a model can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..base.options import Backend, Device, at_least, check_ranges, grouped
from ..base.sentence_modules import Pooling

__all__ = ["EmbedConfig", "EvaluateConfig", "PredictConfig", "RankConfig"]


@grouped(
    most="model data task out batch_size",
    data="part text text_pair label skip_bad_rows max_length",
    run="device backend",
)
@dataclass
class EvaluateConfig:
    """What `evaluate` can be told."""

    model: str
    "Folder of the model."
    data: str
    "csv, tsv, jsonl, parquet (compressed or not), a folder, or a `datasets` name."
    _: KW_ONLY
    task: str | None = None
    "Task whose official files the data are; of a folder, and of its name on the Hub, by default the one learned."
    part: str | None = None
    "Part of these, as dev-matched; by default what has labels and was not trained on. Of other folders and names a \
split; by default test."
    out: Path | None = None
    "File for the metrics (JSON)."
    text: str | None = None
    "Column of the text."
    text_pair: str | None = None
    "Column of the second text."
    label: str | None = None
    "Column of the label."
    skip_bad_rows: bool = False
    "Leave out rows that cannot be used, and count them."
    max_length: Annotated[int | None, at_least(3)] = None
    "Tokens at which a text is cut; by default as in training."
    batch_size: Annotated[int, at_least(1)] = 32
    "Texts a batch."
    device: Device = "auto"
    "auto takes an accelerator when there is one."
    backend: Backend = "auto"
    "onnx runs an export in ONNX Runtime; auto does where the folder has one and no weights."

    def __post_init__(self) -> None:
        check_ranges(self)


@grouped(
    most="model data out format batch_size",
    data="task part text text_pair max_length",
    run="device backend",
    output="submit_to",
)
@dataclass
class PredictConfig:
    """What `predict` can be told."""

    model: str
    "Folder of the model."
    data: str = "-"
    'txt (one text a line), csv, tsv, jsonl, parquet; "-" is stdin; a folder, or a `datasets` name.'
    _: KW_ONLY
    task: str | None = None
    "Task whose official files the data are; of a folder, and of its name on the Hub, by default the one learned."
    part: str | None = None
    "Part of these, as dev-matched; by default the first test part. Of other folders and names a split."
    submit_to: Annotated[Path | None, Parameter(name="--submit")] = None
    "Zip for the leaderboard of GLUE, to which the predictions for the task's test parts are added; of squad and \
squad2 a folder for predictions.json, nbest_predictions.json and null_odds.json."
    out: Path | None = None
    "File to write; by default stdout."
    format: Literal["jsonl", "csv"] | None = None
    "Form of the output; by default that of the file's suffix, else jsonl."
    text: str | None = None
    "Column of the text."
    text_pair: str | None = None
    "Column of the second text."
    max_length: Annotated[int | None, at_least(3)] = None
    "Tokens at which a text is cut; by default as in training."
    batch_size: Annotated[int, at_least(1)] = 32
    "Texts a batch."
    device: Device = "auto"
    "auto takes an accelerator when there is one."
    backend: Backend = "auto"
    "onnx runs an export in ONNX Runtime; auto does where the folder has one and no weights."

    def __post_init__(self) -> None:
        check_ranges(self)


@grouped(
    most="model data out pooling batch_size",
    data="text max_length prompt",
    model="normalize",
    run="device backend",
    output="save_to overwrite",
)
@dataclass
class EmbedConfig:
    """What `embed` can be told."""

    model: str
    "Folder of a model, pretrained or fine-tuned, of any known format; or a name on the Hub."
    data: str | None = None
    'txt (one text a line), csv, tsv, jsonl, parquet; "-" is stdin.'
    _: KW_ONLY
    out: Path | None = None
    "File to write: .npy (the vectors alone), .parquet or .jsonl (with the columns of the input)."
    text: str | None = None
    "Column of the text."
    pooling: Pooling | None = None
    "cls: the first of the encoder's states; mean: of all of them; mean_tokens: each as often as the tokens it holds; \
by default as the model was made, else the mean."
    normalize: Annotated[bool | None, Parameter(negative="--no-normalize")] = None
    "Give every vector the length 1."
    max_length: Annotated[int | None, at_least(3)] = None
    "Tokens at which a text is cut; by default as the model was made, else as in fine-tuning, or 512."
    prompt: str | None = None
    "Name of one of the model's prompts, which is put before every text."
    batch_size: Annotated[int, at_least(1)] = 32
    "Texts a batch."
    device: Device = "auto"
    "auto takes an accelerator when there is one."
    backend: Backend = "auto"
    "onnx runs an export in ONNX Runtime; auto does where the folder has one and no weights."
    save_to: Annotated[Path | None, Parameter(name="--save-sentence-transformers")] = None
    "Folder to write that SentenceTransformer loads, with this pooling, length and normalisation."
    overwrite: bool = False
    "Replace the files of such a folder that is not empty."

    def __post_init__(self) -> None:
        check_ranges(self)


@grouped(
    most="model documents query top_k out",
    data="label text max_length",
    run="batch_size device",
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
    "Tokens at which a pair is cut; by default as in training."
    batch_size: Annotated[int, at_least(1)] = 32
    "Pairs a batch."
    device: Device = "auto"
    "auto takes an accelerator when there is one."

    def __post_init__(self) -> None:
        check_ranges(self)
