"""Folders of sentence-transformers with a tiny BERT in them, as people publish them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from training.toy import ANIMALS, COLOURS, VERBS

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MODULES = "sentence_transformers.models."


def bert_tokenizer(lowercase: bool = True) -> Any:
    """BERT's tokenizer of the toy language's words; "the" has another id than "The"."""
    words = [*_SPECIAL, "the", "The", ".", "?", "query", ":", *COLOURS, *ANIMALS, *VERBS, "s", "##s", "##t"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.BertTokenizer(vocab=vocabulary, do_lower_case=lowercase, model_max_length=48)


def save_bert(folder: Path, num_layers: int = 4, model_class: str = "BertModel", **settings: Any) -> Path:
    """A BERT of width 16 with weights far from 0, and its tokenizer."""
    tokenizer = bert_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        **settings,
    )
    torch.manual_seed(5)
    model = getattr(transformers, model_class)(config).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        if "embeddings" in name and parameter.ndim == 2:
            parameter.data = noise
        else:
            parameter.data = 0.3 * noise + (1 if name.endswith("LayerNorm.weight") else 0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_modules(
    folder: Path,
    *,
    inner: str = "",
    pooling: str | dict[str, Any] = "mean",
    normalize: bool = True,
    max_length: int | None = 32,
    settings: dict[str, Any] | None = None,
    prompts: dict[str, Any] | None = None,
) -> Path:
    """The files of sentence-transformers about a model in `folder / inner`, in the form of its version 2."""
    if isinstance(pooling, str):
        pooling = {
            "word_embedding_dimension": 16,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": pooling == "max",
        }
    names = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    paths = [inner, "1_Pooling", "2_Normalize"]
    write(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": _MODULES + name}
            for number, (name, path) in enumerate(zip(names, paths, strict=False))
        ],
    )
    write(folder / "1_Pooling" / "config.json", pooling)
    length = {} if max_length is None else {"max_seq_length": max_length}
    write(
        folder / inner / "sentence_bert_config.json", {**length, "do_lower_case": False, **(settings or {})}
    )
    if prompts is not None:
        write(folder / "config_sentence_transformers.json", prompts)
    return folder


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def load_sentence_transformer(folder: Path) -> Any:
    """As that library reads it; it warns of what its own older versions wrote."""
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
