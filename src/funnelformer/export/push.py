"""`funnelformer push`: a model's folder to the Hugging Face Hub, without what a training left beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from ..base.errors import UserError, one_line
from ..base.hub import hub_problem
from ..base.options import takes
from ..base.sentence_modules import MODULES
from ..checkpoints.card import CARD
from ..checkpoints.native import GENERATOR
from ..checkpoints.weights import TRANSFORMERS_WEIGHTS
from ..data.tokenizer import TOKENIZER_FILES
from ..inference.engines import EXPORT_REPORT, MODEL_FILE
from ..inference.settings import TASK_FILE
from .config import PushConfig

__all__ = ["Pushed", "push"]

# What makes a model, and what its card shows; whatever else lies there stays unless it is asked for.
_KINDS = (
    CARD,
    "config.json",
    *TRANSFORMERS_WEIGHTS,
    "model-*.safetensors",
    f"{MODEL_FILE}*",
    *TOKENIZER_FILES,
    "vocab*.txt",
    TASK_FILE,
    EXPORT_REPORT,
    "metrics.json",
    "*.png",
    MODULES,
    "*sentence*.json",
    "?_*/config.json",
    "configuration_funnelformer.py",
    "modeling_funnelformer.py",
)
_WEIGHTS = (
    *(name for name in TRANSFORMERS_WEIGHTS if not name.endswith(".json")),
    "model-*.safetensors",
    MODEL_FILE,
)


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be.

    files: paths in the folder with their sizes in bytes, the card first. left: paths that stay behind.
    url: that of the commit; None for a dry run. licence: the card's; None if it names none.
    """

    files: dict[str, int]
    left: tuple[str, ...]
    url: str | None
    licence: str | None


@takes(PushConfig)
def push(config: PushConfig) -> Pushed:
    """Upload the model in the folder `model` to `name` on the Hub, in one commit; the repository is made if need be.

    The token comes from the environment (`HF_TOKEN`) or `hf auth login`.
    Raises UserError for a folder without a model or a card, if there is no token, and if the Hub refuses.
    """
    folder = config.model
    files = _files(folder, everything=config.everything)
    licence = _licence(folder / CARD)
    every = {path.relative_to(folder).as_posix() for path in _every(folder)}
    report = Pushed(files, tuple(sorted(every - files.keys())), None, licence)
    if config.dry_run:
        return report
    if get_token() is None:
        raise UserError("the Hub asks who you are: set HF_TOKEN, or run `hf auth login`")
    if (problem := hub_problem()) is not None:
        raise UserError(f"{config.name}: nothing was uploaded, {problem}")
    api = HfApi()
    operations = [CommitOperationAdd(name, folder / name) for name in files]
    try:
        api.create_repo(config.name, private=config.private or None, exist_ok=True)
        if config.revision not in (None, constants.DEFAULT_REVISION):
            api.create_branch(config.name, branch=str(config.revision), exist_ok=True)
        commit = api.create_commit(
            config.name, operations, commit_message=config.message, revision=config.revision
        )
    except HfHubHTTPError as error:
        raise UserError(f"{config.name}: the Hub refuses it: {one_line(error)}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{config.name}: the upload failed: {one_line(error.__cause__ or error)}") from error
    return Pushed(files, report.left, str(commit.commit_url), licence)


def _files(folder: Path, *, everything: bool) -> dict[str, int]:
    """The files to upload: path and size in bytes. Raises UserError if the folder holds no model or no card."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (folder / "config.json").is_file() or not any(any(folder.glob(name)) for name in _WEIGHTS):
        raise UserError(f"{folder}: no model; looked for config.json and {', '.join(_WEIGHTS)}")
    if not (folder / CARD).is_file():
        raise UserError(
            f"{folder}: has no card ({CARD}); funnelformer convert writes one into the folder it makes"
        )
    if everything:
        found = set(_every(folder))
    else:
        places = (folder, folder / GENERATOR)
        found = {path for place in places for kind in _KINDS for path in place.glob(kind) if path.is_file()}
    others = sorted(path.relative_to(folder).as_posix() for path in found - {folder / CARD})
    return {name: (folder / name).stat().st_size for name in (CARD, *others)}


def _every(folder: Path) -> Iterator[Path]:
    """All files except hidden ones."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _licence(card: Path) -> str | None:
    try:
        licence = ModelCard.load(card).data.to_dict().get("license")
    except Exception as error:  # of a file that anyone may have edited: yaml's errors have many bases
        raise UserError(f"{card}: its metadata cannot be read ({one_line(error)})") from error
    return licence if isinstance(licence, str) else None
