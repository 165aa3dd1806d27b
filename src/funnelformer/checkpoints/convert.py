"""Convert a model's folder from one format to another, and check the result before it takes its name."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..base.errors import UserError, reject_unknown
from ..base.files import atomic_folder
from ..base.json_toml import read_json, read_small_text
from ..base.markdown import as_text
from ..base.options import parse_options, takes
from ..base.sentence_modules import model_folder, read_modules, write_modules
from ..base.weight_files import TRANSFORMERS_WEIGHTS
from ..config.model_config import FunnelformerConfig
from ..data.tokenizer import TOKENIZER_FILES, load_tokenizer, save_tokenizer, tokenizer_from_vocab
from ..modeling import HEADS
from . import native, original_tf, original_torch
from .archives import is_archive, unpacked
from .card import (
    CARD,
    card_text,
    inherited,
    model_snippet,
    pipeline_of,
    remote_snippet,
    sentence_transformers_snippet,
    stock_snippet,
    vectors_snippet,
)
from .compare import build_model, difference, encoder_only, has_stock, probe_output, reference_model
from .config import ConvertConfig
from .folders import map_folder, resolve
from .foreign_options import make_config
from .forms import ENCODERS, WRITTEN
from .loaded import Exported, Loaded, Part
from .provenance import source_name
from .shortening import deal, without_token_head
from .verify import STOCK, compare_with_cases, compare_with_stock, read_cases

__all__ = ["Report", "TensorRow", "convert"]

# Their folders are our own.
_OURS = ("funnelformer", "remote-code")
_TIED = "lm_head.decoder.weight"
_MODEL_FILES = (
    "config.json",
    *TRANSFORMERS_WEIGHTS,
    *original_torch.CONFIGS,
    *original_torch.WEIGHTS,
    original_tf.INDEX,
)
# Two implementations of one model measure up to 3e-5 (float32, outputs of size 1 to 6); deeper models round
# more, and a wrong map gives 0.1 or more.
_MAX_DIFFERENCE = 1e-2


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    num_tensors: tensors of the source that were used. ignored: those left out, with the reason.
    table: our name, the source's, the target's (empty where it has none), shape there, of every tensor that was used.
    layout: of the result. num_layers: of the source. layers: those of the source in the order they have now, where a
        layout or layers were asked for.
    tokenizer: the files copied or made. difference: largest absolute difference between the source's and the
    written model's outputs on a probe batch, the source taken with the overrides; None in a dry run.
    verified: what was compared with the source's own outputs -> largest absolute difference.
    """

    source: str
    source_format: str
    target: Path
    target_format: str
    architecture: str
    num_tensors: int
    ignored: dict[str, str]
    table: list[TensorRow]
    layout: str
    num_layers: int
    layers: tuple[int, ...] | None = None
    tokenizer: tuple[str, ...] = ()
    difference: float | None = None
    verified: dict[str, float] = field(default_factory=dict)


class TensorRow(NamedTuple):
    """One tensor in its three names; `shape` is ours."""

    source: str
    ours: str
    target: str
    shape: tuple[int, ...]


@takes(ConvertConfig)
def convert(config: ConvertConfig) -> Report:
    """Convert the model in `source` and write it to the folder `target`.

    layout, layers: put the encoder's layers in other blocks, or keep some of them, see `shortening.deal`. If the result
        has no states of tokens, a head that reads them is left out.
    overrides: config keys to change on the way, such as `{"padding": "transformers"}`; `decoder_layers=0`
        drops the decoder.
    verify: "transformers" compares the outputs with that library's, if it can load the source; the name of a .npz file
        compares them with the cases recorded in it.
    The folder appears complete or not at all. Raises UserError if the source cannot be read, if the target's format
    cannot hold the model, or if the written model's outputs differ from the source's.
    """
    source, target = Path(config.source), config.target
    if source.is_dir() and target.resolve() == source.resolve():
        raise UserError(f"{target}: is the source itself; choose another folder")
    _check_target(target, config.to, config.overwrite)
    if config.verify is not None and config.verify != STOCK:
        read_cases(Path(config.verify))
    if is_archive(config.source):
        with unpacked(config.source) as folder:
            return _convert(folder, config)
    return _convert(resolve(config.source), config)


def _convert(source: Path, wishes: ConvertConfig) -> Report:
    """source: the folder itself, unpacked."""
    loaded = map_folder(source)
    if wishes.verify == STOCK and not has_stock(loaded):
        raise UserError(
            f"{source}: --verify {STOCK} is for that library's own folders; give recorded cases (.npz)"
        )
    changed = _changed(loaded, wishes)
    exported = _export(changed, wishes.to)
    report = _report(loaded, changed, exported, wishes)
    if wishes.dry_run:
        # otherwise the comparison builds it
        build_model(changed.config, changed.state_dict, changed.architecture)
        return report
    written_as = exported.architecture
    is_shortened = written_as == "model" and any(name != _TIED for name in exported.ignored)
    # Half of the memory: nothing is held twice, and the source is let go before the result is read.
    del loaded, exported
    with atomic_folder(wishes.target, overwrite=wishes.overwrite) as folder:
        files = _write(changed, source, wishes.to, folder)
        card = _card(
            replace(changed, architecture=written_as),
            wishes,
            source,
            report.layers,
            has_tokenizer="tokenizer_config.json" in files,
            is_same=report.layers is None and not wishes.overrides and written_as == changed.architecture,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        if wishes.to != "funnelformer":
            changed = replace(changed, pretraining=None)
        if is_shortened:
            changed = encoder_only(changed)
        changed = _let_go(changed)
        # What refers to itself, as a model does, holds its mapped file until it is collected.
        gc.collect()
        expected = _outputs(changed)
        del changed
        gc.collect()
        worst = _check_written(folder, expected, wishes.target)
        verified = _verify(source, folder, wishes)
    return replace(report, tokenizer=files, difference=worst, verified=verified)


def _changed(loaded: Loaded, wishes: ConvertConfig) -> Loaded:
    """The model as it is to be written: its layers dealt anew, its options changed."""
    if wishes.deals_layers:
        loaded = deal(loaded, source_name(wishes.source), layout=wishes.layout, layers=wishes.layers)
    changed = _apply(loaded, parse_options(wishes.overrides))
    return without_token_head(changed) if wishes.deals_layers else changed


def _report(loaded: Loaded, changed: Loaded, exported: Exported, wishes: ConvertConfig) -> Report:
    """What is known before anything is written."""
    ignored = {**changed.ignored, **exported.ignored}
    if changed.pretraining is not None and wishes.to != "funnelformer":
        ignored["the generator, the optimizer's moments and the step"] = f"{wishes.to} holds one model alone"
    made_from = changed.config.made_from if wishes.deals_layers else None
    return Report(
        source=wishes.source,
        source_format=loaded.source,
        target=wishes.target,
        target_format=wishes.to,
        architecture=changed.architecture,
        num_tensors=len(changed.state_dict.keys() - ignored.keys()),
        ignored=ignored,
        table=_table(changed, exported),
        layout=changed.config.name,
        num_layers=loaded.config.num_hidden_layers,
        layers=tuple(made_from["layers"]) if made_from else None,
    )


def _write(model: Loaded, source: Path, to: str, folder: Path) -> tuple[str, ...]:
    """Write weights, config and tokenizer into `folder`; returns the names of the tokenizer's files."""
    WRITTEN[to].save(model.config, model.state_dict, model.architecture, folder)
    if to == "funnelformer" and model.pretraining is not None:
        native.save_pretraining(model.pretraining, folder)
    files = _copy_tokenizer(source, to, folder)
    if model.architecture == "model" and model.config.vectors is not None:
        if to in _OURS:
            write_modules(folder, model.config.vectors)
        elif to in ENCODERS:  # of one block, whose states are the tokens'
            write_modules(folder, model.config.vectors, model.config.hidden_size)
    return files


def _check_written(folder: Path, expected: list[Tensor], target: Path) -> float:
    """The largest difference between the outputs of the model in `folder` and those of the source.

    Raises UserError for one that rounding does not explain.
    """
    written = _let_go(map_folder(folder))
    gc.collect()
    found = _outputs(written)
    worst = max(difference(*pair) for pair in zip(expected, found, strict=True))
    if not worst <= _MAX_DIFFERENCE:
        raise UserError(f"{target}: not written, the converted model's outputs differ by {worst:.2g}")
    return worst


def _card(
    loaded: Loaded,
    wishes: ConvertConfig,
    folder: Path,
    layers: Sequence[int] | None,
    *,
    has_tokenizer: bool,
    is_same: bool,
) -> str:
    """loaded: the model as it is written. folder: the source's, with its files.

    layers: the source's layers that its places have, where they were dealt anew.
    is_same: it gives the source's outputs.
    """
    source, to, head = wishes.source, wishes.to, HEADS[loaded.architecture]
    snippet = {"remote-code": remote_snippet, "transformers": stock_snippet}.get(
        to, stock_snippet if to in ENCODERS else model_snippet
    )
    config, name = loaded.config, source_name(source)
    gives_vectors = loaded.architecture == "model" and config.vectors is not None and has_tokenizer
    made = "" if layers is None else f" by `funnelformer convert --layout {config.name.partition(' ')[0]}`"
    code = snippet(head.class_name, has_tokenizer=has_tokenizer)
    library = "funnelformer" if snippet is model_snippet else "transformers"
    if gives_vectors and to == "funnelformer":
        code = vectors_snippet()
    elif gives_vectors and to in ENCODERS:
        code, library = sentence_transformers_snippet(needs_us=False), "sentence-transformers"
    return card_text(
        title=f"{name} as {config.name}",
        introduction=f"An encoder of texts, made from `{name}`{made}.\n\n{_origin(config, layers, wishes.overrides)}",
        snippet=code,
        library_name=library,
        pipeline_tag="sentence-similarity" if gives_vectors else pipeline_of(head.export_task),
        **inherited(source, folder, stated=wishes, is_same=is_same),
    )


def _origin(config: FunnelformerConfig, layers: Sequence[int] | None, overrides: Mapping[str, str]) -> str:
    if layers is None and overrides:
        changes = ", ".join(f"{key} = {value}" for key, value in overrides.items())
        return f"The weights are those of the source, whose config was changed: {as_text(changes)}."
    if layers is None:
        return "The weights and the outputs are those of the source."
    made_from = config.made_from or {}
    lines = [
        f"The source is {made_from['source_layout']}, of the type {made_from['model_type']}. Its layers, counted from "
        f"0, stand here in this order: {', '.join(map(str, layers))}; in blocks of "
        f"{', '.join(map(str, config.blocks))}.",
    ]
    if config.num_blocks > 1:
        lines.append("Between two blocks the sequence is halved.")
    lines.append(
        "The weights are those of the source, and nothing was trained since: outputs differ from the source's, and "
        "fine-tuning is what makes up for it."
    )
    return " ".join(lines)


def _let_go(loaded: Loaded) -> Loaded:
    """Without the tensors of a folder that stock transformers reads by itself: mapped twice, they count twice."""
    return replace(loaded, state_dict={}) if has_stock(loaded) else loaded


def _outputs(loaded: Loaded) -> list[Tensor]:
    """The output of each of its models on a probe batch."""
    outputs = [probe_output(reference_model(loaded), loaded.config)]
    if loaded.pretraining is not None and loaded.pretraining.generator is not None:
        generator = loaded.pretraining.generator
        outputs.append(probe_output(reference_model(generator), generator.config))
    return outputs


def _verify(source: Path, folder: Path, wishes: ConvertConfig) -> dict[str, float]:
    """What `verify` compares, with the largest difference. Raises UserError for one that rounding does not explain."""
    verify = wishes.verify
    if verify is None:
        return {}
    written = map_folder(folder)
    verified = (
        compare_with_stock(map_folder(source), written)
        if verify == STOCK
        else compare_with_cases(written, verify)
    )
    if verified and not max(verified.values()) <= _MAX_DIFFERENCE:
        what = max(verified, key=verified.__getitem__)
        raise UserError(
            f"{wishes.target}: not written, {verify}: {what} differs by {verified[what]:.2g} from the source's own"
        )
    return verified


def _table(changed: Loaded, exported: Exported) -> list[TensorRow]:
    models = {"": changed.state_dict}
    if changed.pretraining is not None and changed.pretraining.generator is not None:
        models["generator."] = changed.pretraining.generator.state_dict
    return [
        TensorRow(
            changed.names.get(prefix + ours, ""),
            prefix + ours,
            exported.names.get(prefix + ours, ""),
            tuple(tensor.shape),
        )
        for prefix, state in models.items()
        for ours, tensor in state.items()
    ]


def _check_target(target: Path, to: str, overwrite: bool) -> None:
    if target.is_file():
        raise UserError(f"{target}: is a file, a folder is needed")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{target} is not empty; choose another or pass --overwrite")
    written = {
        "original-torch": (original_torch.CONFIGS[0], original_torch.WEIGHTS[0]),
        "original-tf": (original_tf.CONFIG, original_tf.INDEX),
    }.get(to, ("config.json", "model.safetensors"))
    for name in _MODEL_FILES:
        # such a file would stay and be read in place of the new one, or beside it
        if name not in written and (target / name).exists():
            raise UserError(f"{target}: holds {name} of another model; choose another folder")


def _apply(loaded: Loaded, overrides: Mapping[str, Any]) -> Loaded:
    if not overrides:
        return loaded
    reject_unknown(overrides, {field.name for field in fields(FunnelformerConfig)}, "overrides")
    if "blocks" in overrides:
        raise UserError("overrides: blocks does not move the layers; use --layout, as --layout B2-2-2")
    part, ignored = _change(loaded, overrides)
    ignored |= loaded.ignored
    pretraining = loaded.pretraining
    if pretraining is not None and ignored != loaded.ignored:
        ignored["the generator, the optimizer's moments and the step"] = (
            "they are of the model with its decoder"
        )
        pretraining = None
    elif pretraining is not None and pretraining.generator is not None:
        pretraining = replace(pretraining, generator=_change(pretraining.generator, overrides)[0])
    # from here on it is no longer what its folder's library would make of it
    return replace(
        loaded,
        config=part.config,
        state_dict=part.state_dict,
        ignored=ignored,
        source="funnelformer",
        pretraining=pretraining,
    )


def _change(part: Part, overrides: Mapping[str, Any]) -> tuple[Part, dict[str, str]]:
    """A model with other options, and the tensors that go with them."""
    values, state = {**part.config.to_dict(), **overrides}, part.state_dict
    dropped: set[str] = set()
    if overrides.get("decoder_layers") == 0:
        values["decoder_skip_state"] = None
        dropped = {name for name in state if name.startswith(("decoder.", "funnelformer.decoder."))}
        state = {name: tensor for name, tensor in state.items() if name not in dropped}
    config = make_config(values, "overrides")
    reasons = dict.fromkeys(sorted(dropped), "decoder_layers=0 was asked for")
    return Part(config, state, part.architecture), reasons


def _export(loaded: Loaded, to: str) -> Exported:
    """The model in the target's form. Raises UserError naming what that cannot hold."""
    if to == "funnelformer":
        return Exported(
            loaded.config, loaded.state_dict, {}, {name: name for name in loaded.names}, loaded.architecture
        )
    return WRITTEN[to].export(loaded.config, loaded.state_dict, loaded.architecture)


def _copy_tokenizer(source: Path, to: str, folder: Path) -> tuple[str, ...]:
    """Copy the tokenizer, or make it from the original's vocabulary; the original's form has that alone."""
    if to.startswith("original-"):
        vocabulary = _vocabulary(source)
        if vocabulary is None:
            return ()
        (folder / original_torch.VOCABULARY).write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return (original_torch.VOCABULARY,)
    modules = read_modules(source)
    if modules is not None and modules.lower_case:
        # The folder's modules lower-case a text; in the new folder the tokenizer does.
        load_tokenizer(source).save_pretrained(folder)
        return tuple(name for name in TOKENIZER_FILES if (folder / name).is_file())
    source = model_folder(source)
    present = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in present:
        shutil.copyfile(source / name, folder / name)
    if not present and (source / original_torch.VOCABULARY).is_file():
        save_tokenizer(tokenizer_from_vocab(source / original_torch.VOCABULARY), folder)
        present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return tuple(present)


def _vocabulary(source: Path) -> list[str] | None:
    """The tokens by id, from the original's file, vocab.txt, or a WordPiece tokenizer.json."""
    for name in (original_torch.VOCABULARY, "vocab.txt"):
        if (source / name).is_file():
            return read_small_text(source / name).splitlines()
    if not (source / "tokenizer.json").is_file():
        return None
    model = read_json(source / "tokenizer.json").get("model")
    if not isinstance(model, dict) or model.get("type") != "WordPiece":
        return None
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(type(number) is int for number in vocabulary.values()):
        raise UserError(
            f"{source / 'tokenizer.json'}: its 'vocab' is not a table of tokens and whole numbers"
        )
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise UserError(
            f"{source / 'tokenizer.json'}: the ids of its tokens have gaps; a vocab.txt cannot hold them"
        )
    return sorted(vocabulary, key=vocabulary.__getitem__)
