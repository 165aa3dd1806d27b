"""The README.md of every folder with a model: one template, the metadata that the Hub reads, code that runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..base.markdown import as_text
from ..modeling import HEADS, Head
from .model_source import Folder, Layout, find_model
from .provenance import hub_name

__all__ = [
    "CARD",
    "card_text",
    "inherited",
    "model_snippet",
    "onnx_snippet",
    "predictor_snippet",
    "remote_snippet",
    "sentence_transformers_snippet",
    "vectors_snippet",
]

CARD = "README.md"
_TEMPLATE = Path(__file__).with_name("card.jinja")
# What a model keeps of the card of the one it was made from.
_LICENSE = ("license", "license_name", "license_link")
_FOLDER = 'folder = "."  # where this file lies'


def card_text(
    *,
    title: str,
    introduction: str,
    snippet: str,
    sections: Mapping[str, str] | None = None,
    library_name: str = "transformers",
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


def inherited(source: str | Path, folder: Path | None = None) -> dict[str, Any]:
    """Licence, language and base model for the card of a model that was made from `source`; only what is known.

    source: as it was named; a layout is made from nothing. folder: with its files, where it is not `source` itself.
    """
    if folder is None:
        found_source = find_model(str(source))
        if isinstance(found_source, Layout):
            return {}
        folder = found_source.path if isinstance(found_source, Folder) else Path(found_source.name)
    theirs = _data_of(folder)
    found = {key: theirs[key] for key in _LICENSE if isinstance(theirs.get(key), str)}
    # A folder does not know its name on the Hub, but what it was made from itself.
    for key, value in (
        ("base_model", hub_name(source) or theirs.get("base_model")),
        ("language", theirs.get("language")),
    ):
        if isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            found[key] = value
    return found


def model_snippet(model_class: str, *, has_tokenizer: bool = True) -> str:
    """Code that loads a model of ours from its folder and calls it once."""
    return _snippet(model_class, "funnelformer", model_class, "", has_tokenizer)


def remote_snippet(model_class: str, *, has_tokenizer: bool = True) -> str:
    """The same without this package, by the code in the folder."""
    auto = _head_of(model_class).auto_class or "AutoModelForPreTraining"
    return _snippet(model_class, "transformers", auto, ", trust_remote_code=True", has_tokenizer)


def _head_of(model_class: str) -> Head:
    return next(head for head in HEADS.values() if head.class_name == model_class)


def _snippet(model_class: str, library: str, loader: str, how: str, has_tokenizer: bool) -> str:
    """loader: the class of `library` that loads the model; how: what it is told beside the folder."""
    head = _head_of(model_class)
    imports = [f"from {library} import {loader}"]
    if not has_tokenizer:
        batch = "ids = torch.arange(8)[None]\n"
        given = "ids[None]" if head.has_choices else "ids"
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


def sentence_transformers_snippet() -> str:
    """The same with the library that such a folder is for."""
    return (
        "from sentence_transformers import SentenceTransformer\n\nimport funnelformer\n\n"
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
            "ids = np.arange(8)[None]",
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


def _data_of(folder: Path) -> dict[str, Any]:
    """The metadata of a source's own card; nothing where it has none, or none that can be read."""
    try:
        return dict(ModelCard.load(folder / CARD).data.to_dict())
    except (
        Exception
    ):  # of a file that others wrote: missing, no UTF-8, no YAML, and yaml's errors have many bases
        return {}
