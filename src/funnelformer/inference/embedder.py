"""Vectors of texts: a model's encoder, how its states become one vector, and its folder for sentence_transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.nn import functional as F
from transformers import DataCollatorWithPadding

from ..base.bundled import located
from ..base.errors import UserError
from ..base.files import atomic_folder
from ..base.foreign_code import refuse_foreign_code
from ..base.options import Backend
from ..base.progress import progress_bar
from ..base.sentence_modules import MODULES, Pooling, SentenceEmbedding, read_modules, write_modules
from ..checkpoints.card import CARD, card_text, inherited, sentence_transformers_snippet
from ..checkpoints.folders import find_foreign
from ..checkpoints.provenance import source_name
from ..config import FunnelformerConfig
from ..data.tokenizer import check_vocabulary, load_tokenizer, save_tokenizer
from ..modeling import FunnelformerModel
from .batches import in_batches
from .finite import refuse_not_finite
from .load import check_length, load_model, read_settings, ready
from .onnx_model import OnnxModel, choose_backend

__all__ = ["Embedder", "load_embedder", "save_sentence_transformers", "vectors_of"]

_NUM_TOKENS = 512


@dataclass(frozen=True)
class Embedder:
    """An encoder, of PyTorch or exported, with its tokenizer, ready to give vectors of texts.

    The vector of a text is made of the encoder's states as `config.classifier_pooling` says: of the pooled sequence,
    without a decoder, see `modeling.model.sequence_vector`.
    max_length: tokens at which a text is cut. normalize: to length 1. prompt: what is put before every text.
    origin: what the model says of itself, which is kept where this does not say otherwise.
    source: what it was loaded from; None of one that was put together in Python.
    """

    model: FunnelformerModel | OnnxModel
    tokenizer: Any
    max_length: int
    normalize: bool = False
    prompt: str = ""
    origin: SentenceEmbedding = field(default_factory=SentenceEmbedding)
    source: str | None = None

    @classmethod
    def from_pretrained(cls, source: str, **options: Any) -> Embedder:
        """`load_embedder`, under the name that transformers and others have for it."""
        return load_embedder(source, **options)

    @property
    def pooling(self) -> Pooling:
        return cast(Pooling, self.model.config.classifier_pooling)

    @property
    def settings(self) -> SentenceEmbedding:
        """All of it as a model's config keeps it."""
        return replace(
            self.origin, pooling=self.pooling, normalize=self.normalize, max_length=self.max_length
        )

    @property
    def size(self) -> int:
        """Numbers of a vector, D."""
        return self.model.config.hidden_size

    @property
    def weights(self) -> FunnelformerModel:
        """The model of PyTorch. Raises UserError when it is an export."""
        if isinstance(self.model, OnnxModel):
            raise UserError(
                "sentence_transformers needs the weights, and an export has none; name the folder it was made from"
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
        whole = [self.prompt + text for text in texts] if self.prompt else list(texts)
        encoded = self.tokenizer(whole, truncation=True, max_length=self.max_length)
        columns = {name: encoded[name] for name in self.tokenizer.model_input_names if name in encoded}
        collator = DataCollatorWithPadding(self.tokenizer)
        if advance is not None:
            return np.stack(in_batches(self.model, self._forward, columns, collator, batch_size, advance))
        with progress_bar("embed", len(texts)) as shown:
            return self.vectors(texts, batch_size, shown)

    def _forward(self, **batch: Tensor) -> Tensor:
        vectors = refuse_not_finite(self.model.sequence_vectors(**batch))
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


def load_embedder(
    source: str,
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    only_runs: bool = False,
) -> Embedder:
    """Load an embedder from a folder or Hub name of any known format, or "mini", which comes with the package.

    Its decoder and head are left out.

    pooling, normalize, max_length: by default what the model says of itself (`config.sentence_embedding`, or modules of
        sentence_transformers); else the mean, as they are, and the length of fine-tuning or 512.
    prompt: the name of one of the model's prompts; by default its default one, if it has any.
    backend: "onnx" and "openvino" run the folder's graph; "auto" does where it has one and no weights, see
        `choose_backend`.
    only_runs: it will not be saved, see `ready`.
    Raises UserError when there is no model, or one whose vectors need more than this.
    """
    if max_length is not None and max_length < 3:
        raise UserError(f"--max-length is {max_length}; allowed: 3 and more")
    source = located(source)
    refuse_foreign_code(source)
    tokenizer = load_tokenizer(source)
    settings: dict[str, Any] = {"decoder_layers": 0, "decoder_skip_state": None}
    model: Any
    chosen = choose_backend(source, backend)
    if chosen != "torch":
        model = OnnxModel(source, engine=chosen)
        if not model.gives_vectors:
            raise UserError(f"{source}: its graph gives no vectors; export the model with --task embeddings")
    else:
        model, _ = load_model(FunnelformerModel, source, **settings)
        ready(model, device, only_runs=only_runs)
    check_vocabulary(tokenizer, model.config.vocab_size, source)
    saved = vectors_of(source, model.config)
    origin = saved or SentenceEmbedding()
    model.config.classifier_pooling = pooling or origin.pooling
    if (
        isinstance(model, OnnxModel)
        and model.config.classifier_pooling == "mean_tokens"
        and not model.gives_counts
    ):
        raise UserError(
            f"{source}: its graph gives no encoder_token_counts, which mean_tokens needs; export it again"
        )
    if max_length is not None:
        check_length(model.config, max_length, "--max-length")
    else:
        max_length = origin.max_length or read_settings(source).get("max_length", _NUM_TOKENS)
        if model.config.position == "absolute":
            max_length = min(max_length, model.config.max_position_embeddings)
    if normalize is None:
        normalize = origin.normalize
    return Embedder(model, tokenizer, max_length, normalize, origin.prompt(prompt, source), origin, source)


def vectors_of(source: str, config: FunnelformerConfig) -> SentenceEmbedding | None:
    """How a source's text becomes a vector: as its modules say, or its config; None where neither says anything."""
    modules = read_modules(located(source))
    if modules is None:
        return config.vectors
    found = modules.vectors
    if modules.is_ours:
        return replace(found, pooling=cast(Pooling, config.classifier_pooling))
    if find_foreign(source) is None and config.num_blocks > 1:
        raise UserError(
            f"{Path(source) / MODULES}: sentence_transformers' Pooling cannot average the states of a model that "
            "shortens; write the folder with embed --save-sentence-transformers"
        )
    return found


def save_sentence_transformers(embedder: Embedder, out: str | Path, *, overwrite: bool = False) -> None:
    """Write a folder that `sentence_transformers.SentenceTransformer` loads (after `import funnelformer`).

    Its vectors are those of `embedder`, see `sentence_modules.write_modules`.
    Raises UserError when the folder cannot be written, or the embedder is an exported one.
    """
    model, tokenizer, config = embedder.weights, embedder.tokenizer, embedder.weights.config
    with atomic_folder(out, overwrite=overwrite) as folder:
        before = tokenizer.model_max_length, config.max_position_embeddings, config.sentence_embedding
        # What it saves again has the tokenizer's length alone, cut to that of the positions.
        tokenizer.model_max_length = embedder.max_length
        if config.position != "absolute":
            config.max_position_embeddings = max(before[1], embedder.max_length)
        config.sentence_embedding = embedder.settings.to_dict()
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        tokenizer.model_max_length, config.max_position_embeddings, config.sentence_embedding = before
        write_modules(folder, embedder.settings)
        card = card_text(
            title=f"{config.name}, vectors of texts",
            introduction="A model that gives texts vectors"
            + (f", from `{source_name(embedder.source)}`." if embedder.source else "."),
            snippet=sentence_transformers_snippet(),
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            **(inherited(embedder.source) if embedder.source else {}),
        )
        (folder / CARD).write_text(card, encoding="utf-8")
