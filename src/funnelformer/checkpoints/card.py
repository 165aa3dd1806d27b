"""The README.md of every folder with a model: one template, the metadata that the Hub reads, code that runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..base.card_options import CardOptions
from ..base.markdown import as_text
from ..modeling import HEADS, Head
from .model_source import Folder, Hub, Layout, find_model
from .provenance import hub_name

__all__ = [
    "CARD",
    "card_text",
    "inherited",
    "measurements",
    "model_snippet",
    "onnx_snippet",
    "pipeline_of",
    "predictor_snippet",
    "remote_snippet",
    "results",
    "sentence_transformers_snippet",
    "stock_snippet",
    "vectors_snippet",
]

CARD = "README.md"
_TEMPLATE = Path(__file__).with_name("card.jinja")
# What a model keeps of the card of the one it was made from.
_LICENSE = ("license", "license_name", "license_link")
# And of one that gives the same outputs.
_MEASURED = ("datasets", "metrics", "model_name", "eval_results")
_FOLDER = 'folder = "."  # where this file lies'


def card_text(
    *,
    title: str,
    introduction: str,
    snippet: str,
    sections: Mapping[str, str] | None = None,
    library_name: str = "funnelformer",
    pipeline_tag: str | None = None,
    **metadata: Any,
) -> str:
    """The text of a card.

    introduction, sections: Markdown. snippet: Python that runs in the card's folder.
    metadata: more of `ModelCardData`, as `inherited` gives it, datasets and results.
    """
    data = ModelCardData(
        library_name=library_name, pipeline_tag=pipeline_tag, tags=["funnelformer"], **metadata
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=as_text(title),
        introduction=introduction,
        snippet=snippet,
        sections=dict(sections or {}),
    )
    return str(card).strip() + "\n"


def inherited(
    source: str | Path,
    folder: Path | None = None,
    *,
    stated: CardOptions | None = None,
    is_same: bool = False,
) -> dict[str, Any]:
    """Licence, language and base model for the card of a model that was made from `source`; only what is known.

    source: as it was named; a layout is made from nothing. folder: with its files, where it is not `source` itself.
    stated: what the user says of licence and languages, which goes before what the source says.
    is_same: the model gives the source's outputs, so the source's data and measurements are its own.
    """
    said = {} if stated is None else {key: getattr(stated, key) for key in ("license", "language")}
    said = {key: value for key, value in said.items() if value}
    model = Folder(folder) if folder is not None else find_model(source)
    if isinstance(model, Layout):
        return said
    data = _data_of(model)
    theirs = {} if data is None else data.to_dict()
    found = {key: theirs[key] for key in _LICENSE if isinstance(theirs.get(key), str)}
    # A folder does not know its name on the Hub, but what it was made from itself.
    for key, value in (
        ("base_model", hub_name(source) or theirs.get("base_model")),
        ("language", theirs.get("language")),
    ):
        if isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            found[key] = value
    if is_same and data is not None:
        found |= {key: value for key in _MEASURED if (value := getattr(data, key, None))}
    if "license" in said:  # of another licence the source's name and link say nothing
        found = {key: value for key, value in found.items() if key not in _LICENSE}
    return {**found, **said}


def pipeline_of(task: str) -> str | None:
    """The Hub's name for the task of an export; None where the Hub has none."""
    return {"token-detection": None, "embeddings": "feature-extraction"}.get(task, task)


def results(
    scores: Mapping[str, float], task: str | None, dataset: str, *, split: str | None = None, hub: str = ""
) -> list[EvalResult]:
    """Scores by their names as the Hub reads them. dataset: a name for people. hub: its name there, if it has one."""
    return [
        EvalResult(
            task_type=task or "feature-extraction",
            dataset_type=hub or re.sub(r"[^\w.-]+", "-", dataset),
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name,
            metric_value=value,
        )
        for name, value in scores.items()
    ]


def measurements(found: Sequence[EvalResult], model_name: str) -> dict[str, Any]:
    """The metadata that holds results; none without them."""
    if not found:
        return {}
    metrics = list(dict.fromkeys(result.metric_type for result in found))
    return {"metrics": metrics, "model_name": model_name, "eval_results": list(found)}


def model_snippet(model_class: str, *, has_tokenizer: bool = True) -> str:
    """Code that loads a model of ours from its folder and calls it once."""
    return _snippet(model_class, "funnelformer", model_class, "", has_tokenizer)


def remote_snippet(model_class: str, *, has_tokenizer: bool = True) -> str:
    """The same call without this package, by the code that lies in the folder."""
    auto = _head_of(model_class).auto_class or "AutoModelForPreTraining"
    return _snippet(model_class, "transformers", auto, ", trust_remote_code=True", has_tokenizer)


def stock_snippet(model_class: str, *, has_tokenizer: bool = True) -> str:
    """The same call in stock transformers, for a folder of a form it knows."""
    auto = _head_of(model_class).auto_class or "AutoModelForPreTraining"
    return _snippet(model_class, "transformers", auto, "", has_tokenizer)


def _head_of(model_class: str) -> Head:
    return next(head for head in HEADS.values() if head.class_name == model_class)


def _snippet(model_class: str, library: str, loader: str, how: str, has_tokenizer: bool) -> str:
    """loader: the class of `library` that loads the model; how: what it is told beside the folder."""
    head = _head_of(model_class)
    imports = [f"from {library} import {loader}"]
    if not has_tokenizer:
        batch = "ids = torch.arange(4, 12)[None]\n"
        given = "ids[None]" if head.has_choices else "ids"
        given += f", attention_mask=torch.ones_like({given})"  # without one, transformers looks for padding
    else:
        texts = '["one choice", "another"]' if head.has_choices else '"a text"'
        batch = f'batch = AutoTokenizer.from_pretrained(folder)({texts}, padding=True, return_tensors="pt")\n'
        given = "**{name: value[None] for name, value in batch.items()}" if head.has_choices else "**batch"
        imports = (
            [f"from transformers import {', '.join(sorted([loader, 'AutoTokenizer']))}"]
            if library == "transformers"
            else ["from transformers import AutoTokenizer", "", *imports]
        )
    lines = "\n".join(["import torch", *imports])
    return (
        f"{lines}\n\n{_FOLDER}\nmodel = {loader}.from_pretrained(folder{how}).eval()\n{batch}"
        f"with torch.no_grad():\n    output = model({given})\n"
        f"print(output.{head.outputs[0]}.shape)"
    )


def vectors_snippet() -> str:
    """Code that gives the vectors of texts."""
    return (
        f"from funnelformer import load_embedder\n\n{_FOLDER}\n"
        'print(load_embedder(folder).vectors(["a text", "another"]).shape)'
    )


def predictor_snippet() -> str:
    """Code that gives the labels of texts."""
    return (
        f"from funnelformer import load_predictor\n\n{_FOLDER}\npredictor = load_predictor(folder)\n"
        'print(predictor.probabilities(predictor.logits(["a text", "another"])))'
    )


def sentence_transformers_snippet(*, needs_us: bool = True) -> str:
    """Code that gives vectors with sentence-transformers. needs_us: the model in the folder is one of ours."""
    ours = "import funnelformer\n\n" if needs_us else ""
    return (
        f"from sentence_transformers import SentenceTransformer\n\n{ours}"
        f'{_FOLDER}\nprint(SentenceTransformer(folder).encode(["a text", "another"]).shape)'
    )


def onnx_snippet(file: str, inputs: tuple[str, ...], *, has_tokenizer: bool, has_choices: bool) -> str:
    """Code that runs a graph in ONNX Runtime. inputs: names of the graph's inputs."""
    lines = ["import numpy as np", "import onnxruntime"]
    texts = '["one choice", "another"]' if has_choices else '["a text"]'
    if has_tokenizer:
        lines.append("from transformers import AutoTokenizer")
        read = [
            f'batch = dict(AutoTokenizer.from_pretrained(folder)({texts}, padding=True, return_tensors="np"))'
        ]
    else:
        read = [
            "ids = np.arange(4, 12)[None]",
            "batch = {'input_ids': ids, 'attention_mask': np.ones_like(ids), 'token_type_ids': np.zeros_like(ids)}",
        ]
    if "answer_mask" in inputs:
        read.append("batch['answer_mask'] = np.ones_like(batch['input_ids'])  # where an answer may be")
    each = "batch[entry.name][None]" if has_choices else "batch[entry.name]"
    return "\n".join(
        [
            *lines,
            "",
            _FOLDER,
            f'session = onnxruntime.InferenceSession(f"{{folder}}/{file}")',
            *read,
            f"outputs = session.run(None, {{entry.name: {each} for entry in session.get_inputs()}})",
            "print([output.shape for output in outputs])",
        ]
    )


def _data_of(model: Folder | Hub) -> ModelCardData | None:
    """The metadata of a source's own card; None where it has none, or none that can be read."""
    try:
        return ModelCard.load(model.name if isinstance(model, Hub) else model.path / CARD).data
    except (
        Exception
    ):  # of a file that others wrote: missing, no UTF-8, no YAML, and yaml's errors have many bases
        return None
