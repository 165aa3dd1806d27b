"""An embedder as a folder for sentence_transformers."""

from __future__ import annotations

from pathlib import Path

from ..base.card_options import CardOptions
from ..base.files import atomic_folder
from ..base.sentence_modules import write_modules
from ..checkpoints.card import CARD, card_text, inherited, sentence_transformers_snippet
from ..checkpoints.provenance import source_name
from ..data.tokenizer import save_tokenizer
from .embedder import Embedder
from .settings import allow_length

__all__ = ["save_sentence_transformers"]


def save_sentence_transformers(
    embedder: Embedder, out: str | Path, *, overwrite: bool = False, stated: CardOptions | None = None
) -> None:
    """Write a folder that `sentence_transformers.SentenceTransformer` loads (after `import funnelformer`).

    Its vectors are those of `embedder`, see `sentence_modules.write_modules`.
    stated: licence and languages for its card.
    Raises UserError when the folder cannot be written, or the embedder is an exported one.
    """
    model, tokenizer, config = embedder.weights, embedder.tokenizer, embedder.weights.config
    # A student's scores, say, are those of its vectors; a classifier's are not.
    is_same = embedder.settings == config.vectors
    with atomic_folder(out, overwrite=overwrite) as folder:
        before = tokenizer.model_max_length, config.max_position_embeddings, config.sentence_embedding
        # What it saves again has the tokenizer's length alone, cut to that of the positions.
        allow_length(config, tokenizer, embedder.max_length)
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
            **(inherited(embedder.source, stated=stated, is_same=is_same) if embedder.source else {}),
        )
        (folder / CARD).write_text(card, encoding="utf-8")
