"""Vectors of texts: a model's encoder, how its states become one vector, and its folder for sentence_transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn import functional as F
from transformers import DataCollatorWithPadding

from .data.files import atomic_folder
from .data.json_toml import read_json, read_json_value
from .data.tokenizer import check_vocabulary, load_tokenizer, save_tokenizer
from .errors import UserError
from .export.onnx_model import OnnxModel, is_export
from .inference import Backend, check_length, in_batches, load_model, progress_bar, read_settings, ready
from .modeling import FunnelformerModel

__all__ = ["Embedder", "Pooling", "load_embedder", "save_sentence_transformers"]

Pooling = Literal["mean", "cls"]

_MODULES = "modules.json"
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
_NUM_TOKENS = 512


@dataclass(frozen=True)
class Embedder:
    """An encoder, of PyTorch or exported, with its tokenizer, ready to give vectors of texts.

    The vector of a text is the mean of the encoder's states, or the first of them (`config.classifier_pooling`): of the
    pooled sequence, without a decoder, see `modeling.model.sequence_vector`.
    max_length: tokens at which a text is cut. normalize: to length 1.
    """

    model: FunnelformerModel | OnnxModel
    tokenizer: Any
    max_length: int
    normalize: bool = False

    @property
    def pooling(self) -> str:
        return self.model.config.classifier_pooling

    @property
    def size(self) -> int:
        """Numbers of a vector, D."""
        return self.model.config.hidden_size

    @property
    def weights(self) -> FunnelformerModel:
        """The model of PyTorch. Raises UserError when it is an export."""
        if isinstance(self.model, OnnxModel):
            raise UserError(
                "sentence_transformers wants the weights, and an export has none; name the folder it was made from"
            )
        return self.model

    def vectors(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        advance: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return float32 [N, D] in the order of `texts`; batches and their padding change nothing.

        advance: told how many texts more are done; by default a progress bar on a terminal.
        """
        if not texts:
            return np.zeros((0, self.size), dtype=np.float32)
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        columns = {name: encoded[name] for name in self.tokenizer.model_input_names if name in encoded}
        collator = DataCollatorWithPadding(self.tokenizer)
        if advance is not None:
            return np.stack(in_batches(self.model, self._forward, columns, collator, batch_size, advance))
        with progress_bar("embed", len(texts)) as shown:
            return self.vectors(texts, batch_size, shown)

    def _forward(self, **batch: Tensor) -> Tensor:
        vectors = self.model.sequence_vectors(**batch)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


def load_embedder(
    source: str,
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    only_runs: bool = False,
) -> Embedder:
    """Load an embedder from a folder or Hub name of any known format; its decoder and head are left out.

    pooling, normalize, max_length: by default what the folder says that sentence_transformers or `save_sentence_
    transformers` wrote; else the mean, as they are, and the length of fine-tuning or 512.
    backend: "onnx" runs the folder's graph in ONNX Runtime; "auto" does where it has one and no weights.
    only_runs: it will not be saved, see `ready`.
    Raises UserError when there is no model, or one whose vectors need more than this.
    """
    if max_length is not None and max_length < 3:
        raise UserError(f"--max-length is {max_length}; allowed: 3 and more")
    saved = _read_modules(source)
    tokenizer = load_tokenizer(source)
    settings: dict[str, Any] = {"decoder_layers": 0, "decoder_skip_state": None}
    if pooling is not None or saved is None:
        settings["classifier_pooling"] = pooling or "mean"
    model: Any
    if backend == "onnx" or (backend == "auto" and is_export(source)):
        model = OnnxModel(source)
        if not model.gives_vectors:
            raise UserError(f"{source}: its graph gives no vectors; export the model with --task embeddings")
        model.config.update(settings)
    else:
        model, _ = load_model(FunnelformerModel, source, **settings)
        ready(model, device, only_runs=only_runs)
    check_vocabulary(tokenizer, model.config.vocab_size, source)
    if max_length is not None:
        check_length(model.config, max_length, "--max-length")
    else:
        known = read_settings(source)
        max_length = known.get("max_length", _NUM_TOKENS) if saved is None else tokenizer.model_max_length
        if model.config.position == "absolute":
            max_length = min(max_length, model.config.max_position_embeddings)
    if normalize is None:
        normalize = saved is not None and _NORMALIZE in saved
    return Embedder(model, tokenizer, max_length, normalize)


def _read_modules(source: str) -> list[str] | None:
    """What sentence_transformers does to a text, of a folder in its form; None of another."""
    file = Path(source) / _MODULES
    if not file.is_file():
        return None
    try:
        types = [entry["type"] for entry in read_json_value(file)]
        # The classes have moved between versions.
        names = [name.rsplit(".", 1)[1] for name in types]
    except UserError:
        raise
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UserError(f"{file}: is no list of modules with their types") from None
    settings = read_json(Path(source) / "sentence_bert_config.json")
    output = settings.get("module_output_name")
    if names not in (["Transformer"], ["Transformer", "Normalize"]) or output != "sentence_embedding":
        raise UserError(
            f"{file}: the modules {', '.join(names)} are not those that --save-sentence-transformers writes; "
            "load the folder with sentence_transformers"
        )
    return [_TRANSFORMER, _NORMALIZE][: len(names)]


def save_sentence_transformers(embedder: Embedder, out: str | Path, *, overwrite: bool = False) -> None:
    """Write a folder that `sentence_transformers.SentenceTransformer` loads (after `import funnelformer`).

    Its vectors are those of `embedder`. It names modules of sentence_transformers alone, so nothing of ours has to be
    trusted as remote code: the stock Transformer calls `FunnelformerModel.sequence_vectors`, which hands over the
    pooled vector itself. (Its Pooling would average the pooled sequence with a mask of the unpooled one's length,
    and where the lengths differ takes padding for tokens.)
    Raises UserError when the folder cannot be written, or the embedder is an exported one.
    """
    model, tokenizer = embedder.weights, embedder.tokenizer
    with atomic_folder(out, overwrite=overwrite) as folder:
        # sentence_transformers cuts at the smaller one of these two.
        before = tokenizer.model_max_length, model.config.max_position_embeddings
        tokenizer.model_max_length = embedder.max_length
        if model.config.position != "absolute":
            model.config.max_position_embeddings = max(before[1], embedder.max_length)
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        tokenizer.model_max_length, model.config.max_position_embeddings = before
        types = [_TRANSFORMER, _NORMALIZE] if embedder.normalize else [_TRANSFORMER]
        modules = [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_Normalize" if number else "",
                "type": name,
            }
            for number, name in enumerate(types)
        ]
        _write_json(folder / _MODULES, modules)
        _write_json(
            folder / "sentence_bert_config.json",
            {
                "transformer_task": "feature-extraction",
                "modality_config": {"text": {"method": "sequence_vectors", "method_output_name": None}},
                "module_output_name": "sentence_embedding",
            },
        )
        _write_json(
            folder / "config_sentence_transformers.json",
            {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
        )
        if embedder.normalize:
            (folder / "1_Normalize").mkdir()
            key = "sentence_embedding"
            _write_json(
                folder / "1_Normalize" / "config.json", {"module_input_name": key, "module_output_name": key}
            )


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
