"""`funnelformer export`: a model's folder as one that needs no PyTorch, checked before it is written."""

from __future__ import annotations

import copy
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from ..base.errors import UserError
from ..base.files import atomic_folder, check_file
from ..base.options import Int8, takes
from ..base.packages import need
from ..base.sentence_modules import SentenceEmbedding, model_folder, write_length
from ..base.strict_json import json_text
from ..base.version import __version__
from ..checkpoints.card import CARD, card_text, inherited, measurements, onnx_snippet, pipeline_of, results
from ..checkpoints.folders import find_foreign, map_folder
from ..checkpoints.provenance import source_name
from ..config.model_config import FunnelformerConfig
from ..data.tokenizer import TOKENIZER_FILES, check_fits, load_tokenizer, save_tokenizer
from ..inference.engines import EXPORT_REPORT, MODEL_FILE, import_onnxruntime, open_session
from ..inference.load import load_model
from ..inference.onnx_model import OnnxModel
from ..inference.predictor import Predictor
from ..inference.settings import DEFAULT_LENGTH, TASK_FILE, read_settings
from ..modeling import HEAD_PREFIXES, HEADS, FunnelformerModel
from .calibration import read_calibration
from .check import check_graph, grid, summary, table
from .config import ExportConfig
from .graph import export_graph
from .int8 import products_of, quantise, quantise_measured
from .signatures import INPUTS, Target, find_target, of_head, target_of

__all__ = ["export"]

_INT8_FILE = "model.int8.onnx"
_EMBEDDINGS = "embeddings"


@takes(ExportConfig)
def export(config: ExportConfig) -> dict[str, Any]:
    """Write a folder with `model.onnx`, config, tokenizer, the task's settings and `export.json`; return the last.

    int8: "dynamic", or "static" with ranges from `calibration`. That file of texts also shows which products the
        outputs are most sensitive to: these stay in float32 until the score, or without labels the answers, hold.
    Raises UserError when the model cannot be exported, or the graph differs; then nothing is written.
    """
    need("onnx", "onnxscript", "onnxruntime")
    if config.calibration is not None:
        check_file(config.calibration)
    source = _read(config)
    network, target = source.network, source.target
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        file = folder / MODEL_FILE
        export_graph(network, target, file, inputs=source.inputs, opset=config.opset)
        differences = check_graph(network, open_session(file), target, config.check_to)
        config.say(table(differences) if config.all_shapes else summary(differences))
        _write_settings(folder, source)
        worst = max(differences, key=lambda difference: difference.relative)
        report: dict[str, Any] = {
            "task": source.task,
            "opset": config.opset,
            "inputs": source.inputs,
            "outputs": list(target.outputs),
            "checked": {"cases": len(grid(network.config, config.check_to)), "largest": asdict(worst)},
            "bytes": _size(folder, MODEL_FILE),
        }
        if config.int8 is not None:
            report["int8"] = _make_int8(folder, source, config.int8, config)
        report["versions"] = _versions()
        (folder / EXPORT_REPORT).write_text(json_text(report, indent=2) + "\n", encoding="utf-8")
        (folder / CARD).write_text(_card(config, source, report), encoding="utf-8")
    return report


class _Source(NamedTuple):
    """What is exported. inputs: of the graph. settings: of the task, as they go into its folder."""

    network: Any
    tokenizer: Any
    task: str
    target: Target
    inputs: list[str]
    settings: dict[str, Any]


def _read(config: ExportConfig) -> _Source:
    """Read the model with what lies beside it. Raises UserError for one that cannot be exported as was asked."""
    model = config.model
    task = config.task or _task_of(model)
    target = find_target(task)
    network, random = load_model(target.model_class, model, may_miss=HEAD_PREFIXES, **target.settings)
    if random:
        raise UserError(f"{model}: has no parameter {random[0]}, so no head for {task}")
    if task == _EMBEDDINGS:
        network.config.classifier_pooling = (network.config.vectors or SentenceEmbedding()).pooling
    target = of_head(target, network.config)
    network.eval()
    tokenizer = _tokenizer(model, network.config)
    if tokenizer is None and config.calibration is not None:
        raise UserError(f"{model}: has no tokenizer, which --calibration needs")
    names = [name for name in INPUTS if tokenizer is None or name in tokenizer.model_input_names]
    settings = _settings(model, network.config)
    if config.asked:
        if tokenizer is None:
            raise UserError(f"{model}: has no tokenizer, which could cut texts in windows")
        predictor = _predictor(network, tokenizer, settings).in_windows(config)
        settings = {**settings, **{name: predictor.task[name] for name in config.asked}}
    return _Source(network, tokenizer, task, target, [*names, *target.inputs], settings)


def _predictor(network: Any, tokenizer: Any, settings: dict[str, Any]) -> Predictor:
    return Predictor(network, tokenizer, {"max_length": DEFAULT_LENGTH, **settings})


def _card(config: ExportConfig, source: _Source, report: dict[str, Any]) -> str:
    model, task, int8 = config.model, source.task, config.int8
    return card_text(
        title=f"{source_name(model)} in ONNX",
        introduction=f"The graph of `{source_name(model)}` ({source.network.config.name}) for {task}, for ONNX "
        f"Runtime; {'its weights are int8' if int8 else 'its outputs are those of PyTorch'}.",
        snippet=onnx_snippet(
            MODEL_FILE,
            tuple(source.inputs),
            has_tokenizer=source.tokenizer is not None,
            has_choices=source.target.has_choices,
        ),
        library_name="onnx",
        pipeline_tag=pipeline_of(task),
        **inherited(model, stated=config, is_same=int8 is None and task == _task_of(model)),
        **_measurements(report, task, model),
    )


def _measurements(report: dict[str, Any], task: str, model: str) -> dict[str, Any]:
    """For the card: the scores of an int8 graph on labelled texts, where it was made with some."""
    scores = report.get("int8", {}).get("scores")
    if scores is None:
        return {}
    data = source_name(report["int8"]["calibration"])
    return measurements(results(scores["int8"], task, data), f"{source_name(model)}-int8")


def _task_of(model: str) -> str:
    """The task of the class a folder's model has; of an encoder that was trained to give vectors, these."""
    foreign = find_foreign(model)
    if foreign is not None:
        loaded = map_folder(foreign)
        config, architecture = loaded.config, HEADS[loaded.architecture].class_name
    else:
        config = FunnelformerConfig.from_pretrained(model, trust_remote_code=False)
        architecture = (config.architectures or [FunnelformerModel.__name__])[0]
    is_encoder = architecture == FunnelformerModel.__name__ and config.vectors is not None
    return _EMBEDDINGS if is_encoder else target_of(architecture)


def _tokenizer(model: str, config: Any) -> Any:
    """The tokenizer beside the model; None where there is none."""
    folder = model_folder(model)
    if (
        folder.is_dir()
        and not any((folder / name).is_file() for name in TOKENIZER_FILES)
        and not any(folder.glob("vocab*.txt"))
    ):
        return None
    tokenizer = load_tokenizer(model)
    check_fits(tokenizer, config, model)
    return tokenizer


def _settings(model: str, config: Any) -> dict[str, Any]:
    """The settings that fine-tuning noted of its task; without these, the length that absolute positions reach."""
    if settings := read_settings(model):
        return settings
    if config.position != "absolute":
        return {}
    return {"max_length": min(DEFAULT_LENGTH, config.max_position_embeddings)}


def _write_settings(folder: Path, source: _Source) -> None:
    config, tokenizer, settings = copy.deepcopy(source.network.config), source.tokenizer, source.settings
    config.architectures = [source.target.model_class.__name__]
    # Whole, unlike `save_pretrained`'s: others read a size where it is one of the defaults, too, and know no blocks.
    values = {**config.to_dict(), "num_hidden_layers": config.num_hidden_layers}
    (folder / "config.json").write_text(json_text(values, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        # Where FastEmbed cuts a text, and where text-embeddings-inference does: as we do.
        length = (config.vectors and config.vectors.max_length) or settings.get("max_length", DEFAULT_LENGTH)
        tokenizer.model_max_length = length
        save_tokenizer(tokenizer, folder)
        write_length(folder, length)
    if settings:
        (folder / TASK_FILE).write_text(json_text(settings, indent=2) + "\n", encoding="utf-8")


def _make_int8(folder: Path, source: _Source, mode: Int8, config: ExportConfig) -> dict[str, Any]:
    """Replace the float32 graph by the int8 one, and say what that changed."""
    file, quantised = folder / MODEL_FILE, folder / _INT8_FILE
    network, say = source.network, config.say
    report: dict[str, Any] = {"mode": mode}
    if config.calibration is None:
        quantise(file, quantised, mode, products_of(file))
    else:
        predictor = _predictor(network, source.tokenizer, source.settings)
        examples = read_calibration(predictor, config.calibration, source.inputs)
        name, judge, least = examples.judge(folder, file)
        result = quantise_measured(file, quantised, mode, examples.batches, judge, least)
        for choice in result.choices:
            form = "int8" if choice.is_int8 else "float32"
            say(f"{choice.group}: {choice.error:.1%} of the outputs' spread: {form}")
        report |= {"examples": examples.num_examples, "judged_by": name, "least": least, **asdict(result)}
        scores = {"torch": examples.scores(network)}
        for form, path in (("onnx", file), ("int8", quantised)):
            scores[form] = examples.scores(OnnxModel(folder, path))
        if scores["torch"] is not None:
            report["scores"] = scores
            for form, found in scores.items():
                assert found is not None
                say(f"{form}: " + ", ".join(f"{key} {value:.4f}" for key, value in found.items()))
    # Above, float32 has been held to its tolerance; int8 must be finite, of the right sizes, and say how far it is.
    differences = check_graph(
        network, open_session(quantised), source.target, config.check_to, tolerance=None
    )
    report["largest"] = asdict(max(differences, key=lambda difference: difference.relative))
    report |= {"bytes": _size(folder, _INT8_FILE), "calibration": config.calibration}
    for old in folder.glob(f"{MODEL_FILE}*"):
        old.unlink()
    quantised.rename(file)
    return report


def _size(folder: Path, name: str) -> int:
    """Bytes of a graph and of the weights beside it."""
    return sum(file.stat().st_size for file in folder.glob(f"{name}*"))


def _versions() -> dict[str, str]:
    import onnx
    import onnxscript

    onnxruntime = import_onnxruntime()

    return {
        "funnelformer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **{module.__name__: module.__version__ for module in (onnx, onnxscript, onnxruntime)},
    }
