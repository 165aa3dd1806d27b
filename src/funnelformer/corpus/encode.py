"""Documents as one long array of token ids, with the places where documents, sentences and words begin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..base.options import Sentences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["EncodedDocuments", "encode_documents", "split_sentences"]

# A sentence ends after . ! ? and closing quotes or brackets, before white space and what may begin another.
_END = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]*[^\W_a-z])")


@dataclass(frozen=True)
class EncodedDocuments:
    """The token ids of documents, without special tokens. No document and no sentence is empty.

    ids: [N] int32, all documents one after another. word_starts: [N] bool, True where a word begins.
    sentences: offsets into `ids`, [number of sentences + 1]. documents: offsets into `sentences`,
    [number of documents + 1].
    """

    ids: np.ndarray
    word_starts: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1

    @property
    def document_lengths(self) -> np.ndarray:
        """Tokens of each document."""
        return np.diff(self.sentences[self.documents])


def split_sentences(document: str, how: Sentences) -> list[str]:
    """The sentences of a document: its lines that are not blank, or with "punctuation" also the sentences in a line."""
    lines = [line for line in document.split("\n") if line.strip()]
    if how == "lines":
        return lines
    return [sentence for line in lines for sentence in _split_line(line)]


def _split_line(line: str) -> list[str]:
    cuts = [0, *(match.end() for match in _END.finditer(line)), len(line)]
    return [part for start, end in pairwise(cuts) if (part := line[start:end].strip())]


def encode_documents(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerFast, how: Sentences = "lines"
) -> EncodedDocuments:
    """Tokenise documents sentence by sentence, without special tokens. Documents without any token are left out."""
    split = [split_sentences(document, how) for document in documents]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encoded = backend.encode_batch(list(chain.from_iterable(split)), add_special_tokens=False)
    lengths = np.array([len(encoding.ids) for encoding in encoded], dtype=np.int64)
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(e.ids for e in encoded), dtype=np.int32, count=total)
    words = np.fromiter(chain.from_iterable(e.word_ids for e in encoded), dtype=np.int64, count=total)
    word_starts = np.ones(total, dtype=bool)
    word_starts[1:] = words[1:] != words[:-1]
    word_starts[(lengths.cumsum() - lengths)[lengths > 0]] = True
    # A sentence may have no token, if it is only control characters; count those of each document that have one.
    owner = np.repeat(np.arange(len(split)), [len(sentences) for sentences in split])
    counts = np.bincount(owner[lengths > 0], minlength=len(split))
    return EncodedDocuments(ids, word_starts, _offsets(lengths[lengths > 0]), _offsets(counts[counts > 0]))


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], counts.cumsum()]).astype(np.int64)
