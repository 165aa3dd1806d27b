"""Convert a model's folder from one format to another, and check the result before it takes its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..config import FunnelformerConfig
from ..errors import UserError, did_you_mean, reject_unknown
from . import native, original_torch, transformers_funnel
from .folders import Loaded, load_folder, load_foreign
from .options import make_config
from .probe import build_model, encoder_only, max_difference, reference_model
from .weights import TRANSFORMERS_WEIGHTS

__all__ = ["TARGETS", "Report", "convert"]

TARGETS = ("funnelformer", "transformers", "original-torch")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_MODEL_FILES = ("config.json", *TRANSFORMERS_WEIGHTS, *original_torch.CONFIGS, *original_torch.WEIGHTS)
# Two implementations of one model measure up to 3e-5 (float32, outputs of size 1 to 6); deeper models round
# more, and a wrong map gives 0.1 or more.
_MAX_DIFFERENCE = 1e-2


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    num_tensors: tensors of the source that were used. ignored: those left out, with the reason.
    tokenizer: the files copied or made. difference: largest absolute difference between the source's and the
    written model's outputs on a probe batch, the source taken with the overrides; None in a dry run.
    """

    source: Path
    source_format: str
    target: Path
    target_format: str
    architecture: str
    num_tensors: int
    ignored: dict[str, str]
    tokenizer: tuple[str, ...]
    difference: float | None


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "funnelformer",
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Report:
    """Convert the model in `source`, a folder or a name on the Hub, and write it to the folder `target`.

    to: one of `TARGETS`. overwrite: allow a folder that holds a model of the same format.
    dry_run: write nothing.
    overrides: config keys to change on the way, such as `{"padding": "transformers"}`; `decoder_layers=0`
        drops the decoder.
    The folder appears complete or not at all. Raises UserError for what cannot be read, or held by the
    target's format, or when the written model's outputs differ from the source's.
    """
    if to not in TARGETS:
        raise UserError(f"to: {to!r} is no format; allowed: {', '.join(TARGETS)}{did_you_mean(to, TARGETS)}")
    target = Path(target)
    loaded = load_foreign(source)
    if target.resolve() == loaded.folder.resolve():
        raise UserError(f"{target}: is the source; choose another folder")
    _check_target(target, to, overwrite)
    changed = _apply(loaded, overrides or {})
    ignored = {**changed.ignored, **_export(changed, to)}
    report = Report(
        source=loaded.folder,
        source_format=loaded.source,
        target=target,
        target_format=to,
        architecture=changed.architecture,
        num_tensors=len(changed.state_dict.keys() - ignored.keys()),
        ignored=ignored,
        tokenizer=(),
        difference=None,
    )
    if dry_run:
        # otherwise the comparison builds it
        build_model(changed.config, changed.state_dict, changed.architecture)
        return report
    from ..data.files import atomic_folder

    with atomic_folder(target, overwrite=overwrite) as folder:
        _save(changed, to, folder)
        files = _copy_tokenizer(loaded.folder, to, folder)
        difference = _compare(changed, load_folder(folder))
        if not difference <= _MAX_DIFFERENCE:
            raise UserError(
                f"{target}: not written, the converted model's outputs differ by {difference:.2g}"
            )
    return replace(report, tokenizer=files, difference=difference)


def _check_target(target: Path, to: str, overwrite: bool) -> None:
    if target.is_file():
        raise UserError(f"{target}: is a file, a folder is needed")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{target} is not empty; choose another or pass --overwrite")
    written = {
        "original-torch": (original_torch.CONFIGS[0], original_torch.WEIGHTS[0]),
    }.get(to, ("config.json", "model.safetensors"))
    for name in _MODEL_FILES:
        # such a file would stay and be read in place of the new one, or beside it
        if name not in written and (target / name).exists():
            raise UserError(f"{target}: holds {name} of another model; choose another folder")


def _apply(loaded: Loaded, overrides: Mapping[str, Any]) -> Loaded:
    if not overrides:
        return loaded
    reject_unknown(overrides, {field.name for field in fields(FunnelformerConfig)}, "overrides")
    values = {**loaded.config.to_dict(), **overrides}
    state, ignored = loaded.state_dict, dict(loaded.ignored)
    if overrides.get("decoder_layers") == 0:
        values["decoder_skip_state"] = None
        dropped = {name for name in state if name.startswith(("decoder.", "funnelformer.decoder."))}
        ignored |= dict.fromkeys(sorted(dropped), "decoder_layers=0 was asked for")
        state = {name: tensor for name, tensor in state.items() if name not in dropped}
    # from here on it is no longer what its folder's library would make of it
    return replace(
        loaded,
        config=make_config(values, "overrides"),
        state_dict=state,
        ignored=ignored,
        source="funnelformer",
    )


def _export(loaded: Loaded, to: str) -> dict[str, str]:
    """Check that the format holds the model, and return our tensors that it leaves out."""
    arguments = loaded.config, loaded.state_dict, loaded.architecture
    if to == "transformers":
        return transformers_funnel.export(*arguments)[2]
    if to == "original-torch":
        return original_torch.export(*arguments)[2]
    return {}


def _save(loaded: Loaded, to: str, folder: Path) -> None:
    form = {"transformers": transformers_funnel, "original-torch": original_torch}.get(to, native)
    form.save(loaded.config, loaded.state_dict, loaded.architecture, folder)


def _compare(source: Loaded, written: Loaded) -> float:
    if written.source == "original-torch" and written.architecture == "model":
        source = encoder_only(source)
    return max_difference(reference_model(source), reference_model(written), written.config)


def _copy_tokenizer(source: Path, to: str, folder: Path) -> tuple[str, ...]:
    """Copy the tokenizer, or make it from the original's vocabulary; the original's form has that alone."""
    if to == "original-torch":
        vocabulary = _vocabulary(source)
        if vocabulary is None:
            return ()
        (folder / original_torch.VOCABULARY).write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return (original_torch.VOCABULARY,)
    present = [name for name in _TOKENIZER_FILES if (source / name).is_file()]
    for name in present:
        shutil.copyfile(source / name, folder / name)
    if not present and (source / original_torch.VOCABULARY).is_file():
        from ..data.tokenizer import tokenizer_from_vocab

        tokenizer_from_vocab(source / original_torch.VOCABULARY).save_pretrained(folder)
        present = [name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    return tuple(present)


def _vocabulary(source: Path) -> list[str] | None:
    """The tokens by id, from the original's file, vocab.txt, or a WordPiece tokenizer.json."""
    for name in (original_torch.VOCABULARY, "vocab.txt"):
        if (source / name).is_file():
            return (source / name).read_text(encoding="utf-8").splitlines()
    if not (source / "tokenizer.json").is_file():
        return None
    model = json.loads((source / "tokenizer.json").read_text(encoding="utf-8")).get("model", {})
    if model.get("type") != "WordPiece":
        return None
    return sorted(model["vocab"], key=model["vocab"].__getitem__)
