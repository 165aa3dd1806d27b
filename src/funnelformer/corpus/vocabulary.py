"""Train a WordPiece tokenizer on plain text, so that the same text gives the same bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from ..base.errors import UserError
from ..base.files import atomic_folder, expand_paths
from ..base.options import takes
from ..base.strict_json import json_text
from ..data.tokenizer import PREFIX, SPECIAL_TOKENS, as_fast, blank_tokenizer, load_tokenizer, save_tokenizer
from .config import TokenizerConfig
from .documents import iter_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["train_tokenizer"]


_MAX_ALPHABET = 1000


def _alphabet(documents: Iterable[str], normalizer: Any) -> list[str]:
    """Return the most frequent characters after normalisation, most frequent first, ties by code point."""
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(normalizer.normalize_str(document))
    characters = [character for character in counts if not character.isspace()]
    return sorted(characters, key=lambda character: (-counts[character], character))[:_MAX_ALPHABET]


def _inside_words(tokenizer: Tokenizer, alphabet: list[str]) -> list[str]:
    """Return the characters that can follow another in one word; punctuation and CJK stand alone."""

    def continues(character: str) -> bool:
        normal = tokenizer.normalizer.normalize_str("a" + character)
        return tokenizer.pre_tokenizer.pre_tokenize_str(normal) == [("a" + character, (0, 2))]

    return sorted(character for character in alphabet if continues(character))


def _train(paths: list[Path], config: TokenizerConfig) -> Tokenizer:
    """Train so that the same text gives the same bytes.

    The trainer numbers the "##x" pieces in the order of a hash table, whose seed differs in every process, and breaks
    ties between merges by these numbers. But it numbers special tokens first and in order, so we pass the "##x" pieces
    as special tokens, and take them off that list afterwards. The trainer also drops rare characters in hash order, so
    we choose the characters ourselves.
    """
    special = list(SPECIAL_TOKENS.values())
    tokenizer = blank_tokenizer(WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]), lowercase=not config.cased)
    alphabet = _alphabet(iter_documents(paths, config.text_column), tokenizer.normalizer)
    continuing = [PREFIX + character for character in _inside_words(tokenizer, alphabet)]
    smallest = len(special) + len(continuing) + len(alphabet)
    if config.vocab_size < smallest:
        raise UserError(
            f"vocab_size: {config.vocab_size} is too small; this text has {len(alphabet)} different characters, "
            f"which need {smallest}"
        )
    trainer = WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=special + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter_documents(paths, config.text_column), trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    return Tokenizer.from_str(json_text(state, ensure_ascii=False))


@takes(TokenizerConfig)
def train_tokenizer(config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer on the documents of `train` and save it in the folder `out`.

    The same text and arguments give the same files byte for byte; `AutoTokenizer.from_pretrained(out)` loads them. The
    text is read twice. Its 1000 most frequent characters are kept, and the others become `<unk>`.
    vocab_size: the largest number of tokens; a short text gives fewer.
    Raises UserError if the folder is not empty, if the text cannot be read (see `documents.iter_documents`), or if
    `vocab_size` is too small for the characters.
    """
    paths = expand_paths(config.train)
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        trained = _train(paths, config)
        save_tokenizer(as_fast(trained, SPECIAL_TOKENS, config.max_length), folder)
    return load_tokenizer(config.out)
