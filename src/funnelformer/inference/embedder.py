"""Vectors of texts: a model's encoder, with how its states become one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..base.bundled import located
from ..base.errors import UserError
from ..base.foreign_code import refuse_foreign_code
from ..base.options import Backend
from ..base.progress import progress_bar
from ..base.sentence_modules import MODULES, Pooling, SentenceEmbedding, read_modules
from ..config.model_options import ModelOptions
from ..data.padding import pad_batch
from ..data.plain_tokenizer import load_plain_tokenizer
from ..data.tokenizer import check_fits, load_tokenizer
from ..tasks.windows import check_stride, encode_windows
from .batches import in_batches, most_padding
from .finite import refuse_not_finite
from .onnx_model import OnnxModel, choose_backend
from .settings import DEFAULT_LENGTH, check_asked_length, check_length, read_settings

if TYPE_CHECKING:
    from ..modeling import FunnelformerModel
    from .config import EmbedConfig

__all__ = ["Embedder", "asked_embedder", "load_embedder", "mean_of_windows", "vectors_of"]


@dataclass(frozen=True)
class Embedder:
    """An encoder, of PyTorch or exported, with its tokenizer, ready to give vectors of texts.

    `config.classifier_pooling` says how the encoder's states become one vector: they are those of the shortened
    sequence, and no decoder runs, see `modeling.model.sequence_vector`.
    max_length: number of tokens after which a text is cut. normalize: scale each vector to length 1. prompt: text put
        before every text.
    origin: what the model says of itself; it holds wherever the arguments above say nothing else.
    source: folder or name that it was loaded from; None if it was put together in Python.
    doc_stride: read a longer text in windows of `max_length` that begin so many tokens apart; its vector is the mean of
        theirs, each counted as often as it has tokens. None: cut it.
    """

    model: FunnelformerModel | OnnxModel
    tokenizer: Any
    max_length: int
    normalize: bool = False
    prompt: str = ""
    origin: SentenceEmbedding = field(default_factory=SentenceEmbedding)
    source: str | None = None
    doc_stride: int | None = None

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
        """The number of values in a vector, D."""
        return self.model.config.hidden_size

    @property
    def weights(self) -> FunnelformerModel:
        """The PyTorch model. Raises UserError if this is an export."""
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
        """Return float32 [N, D] in the order of `texts`; how they are batched and padded changes nothing.

        advance: told how many texts more are done; by default a progress bar on a terminal.
        """
        if not texts:
            return np.zeros((0, self.size), dtype=np.float32)
        whole = [self.prompt + text for text in texts] if self.prompt else list(texts)
        if advance is None:
            with progress_bar("embed", len(texts)) as shown:
                return self.vectors(texts, batch_size, shown)
        owners = None
        if self.doc_stride is None:
            encoded = self.tokenizer(whole, truncation=True, max_length=self.max_length)
        else:
            encoded, owners = encode_windows(self.tokenizer, whole, self.max_length, self.doc_stride)
            advance = _in_texts(advance, len(texts), len(owners))
        columns = {name: encoded[name] for name in self.tokenizer.model_input_names if name in encoded}
        forward, padding = self._runner(), most_padding(self.model)

        def pad(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
            return pad_batch(self.tokenizer, rows)

        def vectors(batch: dict[str, np.ndarray]) -> np.ndarray:
            return refuse_not_finite(forward(batch))

        found = np.stack(in_batches(vectors, columns, pad, batch_size, padding, advance))
        if owners is None or len(owners) == len(texts):
            return found
        lengths = np.array([len(ids) for ids in columns["input_ids"]])
        return mean_of_windows(found, lengths, np.unique(owners, return_index=True)[1], self.normalize)

    def _runner(self) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        if isinstance(self.model, OnnxModel):
            graph = self.model
            if not self.normalize:
                return lambda batch: graph.sequence_vectors(**batch)
            return lambda batch: _unit(graph.sequence_vectors(**batch))
        from .torch_calls import torch_vectors

        return torch_vectors(self.model, self.normalize)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Each row at length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def mean_of_windows(
    vectors: np.ndarray, lengths: np.ndarray, begins: np.ndarray, normalize: bool
) -> np.ndarray:
    """The vectors [N, D] of texts from those of their windows [W, D], each counted as often as it has tokens.

    lengths: [W] tokens of each window. begins: [N] the first window of each text. normalize: to length 1.
    """
    counts = lengths.astype(np.float32)[:, None]
    means: np.ndarray = np.add.reduceat(vectors * counts, begins) / np.add.reduceat(counts, begins)
    return _unit(means) if normalize else means


def _in_texts(advance: Callable[[int], None], num_texts: int, num_windows: int) -> Callable[[int], None]:
    """Told of windows that are done, it tells `advance` of as large a share of the texts, all of them in the end."""
    done = 0

    def told(number: int) -> None:
        nonlocal done
        before, done = done * num_texts // num_windows, done + number
        advance(done * num_texts // num_windows - before)

    return told


def asked_embedder(config: EmbedConfig, *, only_runs: bool) -> Embedder:
    """The embedder of the command's options; see `load_embedder`."""
    return load_embedder(
        config.model,
        pooling=config.pooling,
        normalize=config.normalize,
        max_length=config.max_length,
        prompt=config.prompt,
        device=config.device,
        backend=config.backend,
        doc_stride=config.doc_stride,
        only_runs=only_runs,
    )


def load_embedder(
    source: str,
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    doc_stride: int | None = None,
    only_runs: bool = False,
) -> Embedder:
    """Load an embedder from a folder or Hub name of any known format, or "mini", which comes with the package.

    Its decoder and head are left out.

    pooling, normalize, max_length: by default what the model says of itself (`config.sentence_embedding`, or
        the modules of sentence_transformers). If it says nothing, the mean of the states, vectors that are not
        scaled, and the length of fine-tuning or 512 tokens.
    prompt: the name of one of the model's prompts; by default the model's default prompt, if it has one.
    backend: "onnx" and "openvino" run the folder's graph; "auto" does so if the folder has a graph and no weights, see
        `choose_backend`.
    doc_stride: tokens between the beginnings of two windows of a long text, see `Embedder`; by default it is cut.
    only_runs: you will not save the model, so it may be made faster, see `ready`.
    Raises UserError if there is no model, or if its vectors need modules that are not known here.
    """
    check_asked_length(max_length)
    source = located(source)
    refuse_foreign_code(source)
    model, tokenizer, is_foreign = _load(source, backend, device, only_runs)
    check_fits(tokenizer, model.config, source)
    saved = vectors_of(source, model.config, is_foreign)
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
        max_length = origin.max_length or read_settings(source).get("max_length", DEFAULT_LENGTH)
        if model.config.position == "absolute":
            max_length = min(max_length, model.config.max_position_embeddings)
    if doc_stride is not None:
        check_stride(tokenizer, max_length, doc_stride)
    if normalize is None:
        normalize = origin.normalize
    prompt = origin.prompt(prompt, source)
    return Embedder(model, tokenizer, max_length, normalize, prompt, origin, source, doc_stride)


def _load(source: str, backend: Backend, device: str, only_runs: bool) -> tuple[Any, Any, bool]:
    """The model, its tokenizer, and whether the weights are in the form of another library."""
    chosen = choose_backend(source, backend)
    if chosen == "torch":
        from .load import load_encoder

        tokenizer = load_tokenizer(source)
        model, is_foreign = load_encoder(source, device, only_runs=only_runs)
        return model, tokenizer, is_foreign
    plain = load_plain_tokenizer(source)
    graph = OnnxModel(source, engine=chosen)
    if not graph.gives_vectors:
        raise UserError(f"{source}: its graph gives no vectors; export the model with --task embeddings")
    return graph, plain, False


def vectors_of(source: str, config: ModelOptions, is_foreign: bool) -> SentenceEmbedding | None:
    """How the model in `source` makes a vector of a text, from its modules or its config; None if neither says."""
    modules = read_modules(source)
    if modules is None:
        return config.vectors
    found = modules.vectors
    if modules.is_ours:
        return replace(found, pooling=cast(Pooling, config.classifier_pooling))
    if not is_foreign and config.num_blocks > 1:
        raise UserError(
            f"{Path(source) / MODULES}: sentence_transformers' Pooling cannot average the states of a model that "
            "shortens; write the folder with embed --save-sentence-transformers"
        )
    return found
