"""A fine-tuned teacher: it is found and checked by its config alone, and loaded only when it has to answer."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from ...base.bundled import located
from ...base.errors import UserError, joined, one_line, short
from ...base.files import hash_file
from ...base.foreign_code import refuse_foreign_code, runs_foreign_code
from ...base.json_toml import read_json
from ...base.sentence_modules import model_folder, read_modules
from ...checkpoints.folders import detect, resolve
from ...checkpoints.model_source import Layout, find_model
from ...config.head_table import HEADS, Head, head_of
from ...config.model_config import FunnelformerConfig
from ...config.model_options import class_names
from ...data.tables import TaskColumns
from ...data.tokenizer import TOKENIZER_FILES, load_tokenizer
from ...inference.batches import most_padding
from ...inference.load import load_model, ready
from ...tasks.kind import Kind
from ...tasks.scores import DEFAULT_SCORES
from ...tasks.task import KindName, Task

__all__ = ["Answerer", "AnsweringTeacher", "find_teacher", "task_of", "teacher_files"]

# Tokens of padding in a batch of a model that transformers runs.
_FOREIGN_PADDING = 256
# Where neither the tokenizer nor the config says how long a text may be.
_NUM_TOKENS = 512
_SHOWN = 8
_MOST_LABELS = 100_000


@dataclass(frozen=True)
class Answerer:
    """A loaded teacher. ask: gives its outputs for a batch; inputs that it does not know are left out.

    most_padding: tokens of padding that are worth a shared batch.
    """

    ask: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    most_padding: int


@dataclass(frozen=True)
class AnsweringTeacher:
    """A model with a head for the kind of task that is learned.

    source: as it was named; folder: where its files lie. head: of the table of heads. is_ours: the model is one of ours
    or becomes one when it is loaded; else transformers runs it. max_length: tokens that it can read.
    labels: the names of its classes by their ids; None where its kind of task has none.
    digest: of the files that decide what it says.
    """

    source: str
    folder: Path
    head: Head
    is_ours: bool
    tokenizer: Any
    max_length: int
    labels: tuple[str, ...] | None
    digest: str

    def order(self, labels: Sequence[str]) -> list[int]:
        """The teacher's id of each of these labels."""
        assert self.labels is not None
        return [self.labels.index(name) for name in labels]

    def load(self, device: str, precision: str) -> Answerer:
        """Load the weights. Raises UserError if they cannot be loaded, or lack the head."""
        model = self._load_ours(device, precision) if self.is_ours else self._load_foreign(device)
        known = inspect.signature(type(model).forward).parameters
        wanted = [*self.tokenizer.model_input_names, "answer_mask"]
        names = [name for name in wanted if name in known]
        kind = model.device.type

        def ask(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            inputs = {name: batch[name].to(model.device) for name in names if name in batch}
            with (
                torch.inference_mode(),
                torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"),
            ):
                return model(**inputs, return_dict=True)

        return Answerer(ask, most_padding(model) if self.is_ours else _FOREIGN_PADDING)

    def _load_ours(self, device: str, precision: str) -> Any:
        model, random = load_model(self.head.model_class, str(self.folder), may_miss=self.head.parameters)
        self._check_head(random)
        return ready(model, device, only_runs=precision == "fp32")

    def _load_foreign(self, device: str) -> Any:
        auto_class = getattr(transformers, str(self.head.auto_class))
        try:
            model, report = auto_class.from_pretrained(
                str(self.folder), output_loading_info=True, trust_remote_code=False
            )
        except (
            Exception
        ) as error:  # of transformers, of torch, of safetensors: they have no common base class
            if runs_foreign_code(error):
                raise UserError(
                    f"--teacher {self.source}: is code to run; funnelformer runs no code of a model"
                ) from None
            raise UserError(f"--teacher {self.source}: cannot be loaded ({one_line(error)})") from None
        self._check_head(sorted(report["missing_keys"]))
        if device == "auto" and torch.accelerator.is_available():
            model = model.to(torch.accelerator.current_accelerator())
        return model.eval()

    def _check_head(self, random: Sequence[str]) -> None:
        if random:
            raise UserError(
                f"--teacher {self.source}: the weights lack {random[0]}, so it knows no task yet; fine-tune it first"
            )


def find_teacher(source: str, kind: Kind) -> AnsweringTeacher:
    """The teacher of a task, whose weights are not read yet.

    Raises UserError if the source is no model with a head of that kind, or has other labels than the task.
    """
    folder, content = _open(source)
    head = kind.head
    _check_architecture(source, content, head, f"a task of {kind.task.kind}")
    is_ours = _is_known(folder)
    labels = _labels(source, content, kind)
    if content.get("qa_head") == "conditional":
        raise UserError(
            f"--teacher {source}: has qa_head=conditional, whose ends depend on a start; allowed: simple"
        )
    inner = model_folder(folder)
    tokenizer = load_tokenizer(folder) if is_ours else _foreign_tokenizer(source, inner)
    length = _length(source, folder, tokenizer, content, is_ours)
    return AnsweringTeacher(source, folder, head, is_ours, tokenizer, length, labels, _digest_of(inner))


def task_of(source: str, columns: TaskColumns) -> Task:
    """The task on texts or pairs that a teacher has learned, by its config. Raises UserError if it has learned none."""
    _, content = _open(source)
    _check_architecture(source, content, HEADS["sequence_classification"], "what is learned of texts")
    names = _names(source, content)
    kind: KindName = "classification"
    if content.get("problem_type") == "regression" or len(names) == 1:
        kind = "regression"
    elif content.get("problem_type") == "multi_label_classification":
        kind = "multi-label"
    labels = None if kind == "regression" else names
    return Task("", kind, columns, labels, DEFAULT_SCORES[kind])


def _open(source: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a teacher, and its config. Raises UserError if there is no config, or if it names code to run."""
    if isinstance(find_model(source), Layout):
        raise UserError(
            f"--teacher {source}: is a layout, which has no trained weights; name a fine-tuned model"
        )
    folder = resolve(source)
    refuse_foreign_code(folder)
    file = model_folder(folder) / "config.json"
    if not file.is_file():
        raise UserError(f"--teacher {source}: has no config.json, so it is no fine-tuned model")
    return folder, read_json(file)


def _check_architecture(source: str, content: Mapping[str, Any], head: Head, what: str) -> None:
    names = content.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else "no architecture"
    if head_of(name) is not head:
        raise UserError(
            f"--teacher {source}: is {_article(name)}; {what} needs a model for "
            f"{head.export_task.replace('-', ' ')}"
        )


def teacher_files(source: str) -> list[Path]:
    """The files of a local teacher that decide its answers; an empty list for a name on the Hub."""
    folder = Path(located(source))
    return _deciding(model_folder(folder)) if folder.is_dir() else []


def _is_known(folder: Path) -> bool:
    """Whether it is one of ours or becomes one; a cross-encoder of sentence-transformers has modules of its own."""
    try:
        detect(folder)
        read_modules(folder)
    except UserError:
        return False
    return True


def _labels(source: str, content: Mapping[str, Any], kind: Kind) -> tuple[str, ...] | None:
    """The teacher's labels. Raises UserError if they are not those of the task."""
    if not kind.has_class_names:
        return None
    theirs = _names(source, content)
    wanted = kind.settings().get("problem_type")
    problem = content.get("problem_type")
    if wanted is not None and problem not in (None, wanted):
        raise UserError(f"--teacher {source}: its problem_type is {problem}, and the task's is {wanted}")
    if kind.task.kind == "regression":
        if len(theirs) != 1:
            raise UserError(
                f"--teacher {source}: gives {len(theirs)} numbers a text; a task of amounts needs one"
            )
        return None
    ours = kind.task.labels
    assert ours is not None
    if set(ours) != set(theirs):
        raise UserError(
            f"--teacher {source}: has the labels {_shown(theirs)}, and the data have {_shown(ours)}; they must have "
            "the same names (id2label in its config.json)"
        )
    return theirs


def _names(source: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the labels in a config; transformers' own where it has none."""
    number = content.get("num_labels")
    try:
        names = class_names(content.get("id2label"), content.get("label2id"), number)
    except UserError as error:
        raise UserError(f"--teacher {source}: {error}") from None
    if names is not None:
        return tuple(names.values())
    number = 2 if number is None else number
    if number > _MOST_LABELS:
        raise UserError(
            f"--teacher {source}: num_labels in its config.json is {number}; allowed: 1 to {_MOST_LABELS:,}"
        )
    return tuple(f"LABEL_{place}" for place in range(number))


def _foreign_tokenizer(source: str, folder: Path) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # network, JSON and tokenizers errors have no common base class
        raise UserError(f"--teacher {source}: no tokenizer could be loaded ({one_line(error)})") from None
    if not getattr(tokenizer, "is_fast", False) or tokenizer.pad_token_id is None:
        raise UserError(f"--teacher {source}: its tokenizer must be a fast one with a token for padding")
    return tokenizer


def _length(source: str, folder: Path, tokenizer: Any, content: Mapping[str, Any], is_ours: bool) -> int:
    """The number of tokens that the model can read; ours with relative positions read any number."""
    if is_ours:
        try:
            config = FunnelformerConfig.from_pretrained(folder, trust_remote_code=False)
        except (
            Exception
        ) as error:  # of transformers, of its strict dataclasses: they have no common base class
            raise UserError(f"--teacher {source}: {joined(error)}") from None
        return config.max_position_embeddings if config.position == "absolute" else 1 << 24
    reach = content.get("max_position_embeddings", _NUM_TOKENS)
    if isinstance(reach, bool) or not isinstance(reach, int) or reach < 3:
        raise UserError(
            f"--teacher {source}: max_position_embeddings in its config.json is no number of tokens"
        )
    length = tokenizer.model_max_length
    if isinstance(length, bool) or not isinstance(length, int | float) or not length >= 3:
        raise UserError(
            f"--teacher {source}: its tokenizer's model_max_length is {short(length)}, no number of tokens"
        )
    return int(min(reach, length))


def _deciding(folder: Path) -> list[Path]:
    """Config, weights and tokenizer."""
    weights = [file for ending in ("safetensors", "bin") for file in folder.glob(f"*.{ending}")]
    others = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    return sorted(file for file in {*weights, *others} if file.is_file())


def _digest_of(folder: Path) -> str:
    total = hashlib.sha256()
    for file in _deciding(folder):
        total.update(f"{file.name}\0{hash_file(file)}\n".encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def _article(name: str) -> str:
    return f"a {name}" if name[:1].isupper() else f"a model of {name}"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
