"""Training sequences of two parts, A and B, with a label for the place of B: after A, before A, or elsewhere."""

from __future__ import annotations

import numpy as np

from .encode import EncodedDocuments
from .rows import Rows

__all__ = ["ELSEWHERE", "FOLLOWS", "PRECEDES", "pair_rows"]

FOLLOWS, PRECEDES, ELSEWHERE = 0, 1, 2  # B comes right after A, right before it, from another document

_Span = tuple[int, int]


def pair_rows(
    text: EncodedDocuments,
    order: np.ndarray,
    labels: tuple[int, ...],
    generator: np.random.Generator,
    block_size: int,
    num_usable: int,
    cls_id: int,
    sep_id: int,
    pad_id: int,
) -> Rows:
    """Make rows `[CLS] A [SEP] B [SEP]` of at most `num_usable` ids, padded to `block_size` ids.

    A and B are neighbouring runs of whole sentences in a document, divided at a random sentence end; the second is B
    (FOLLOWS) or A (PRECEDES). With ELSEWHERE, B is a run from another document, at most as long as the true one, so
    that its length does not give the label away. All `labels` are equally likely. Text that B did not use begins the
    next pair. A sentence longer than half of the room is cut into equal parts. A document of one sentence is used only
    as B. If there is only one document, ELSEWHERE is left out, and without any other label there are no rows.
    Source: Devlin et al. 2019 (continuation or not), Wang et al. 2019 and Tan et al. 2022 (three classes).
    """
    room = num_usable - 3
    sentences, documents = _cut_long(text, room // 2)
    if text.num_documents < 2:
        labels = tuple(label for label in labels if label != ELSEWHERE)
    found: list[tuple[_Span, _Span, int]] = []
    for document in order if labels else ():
        first, end = documents[document], documents[document + 1]
        while end - first >= 2:
            last = int(np.searchsorted(sentences, sentences[first] + room, "right")) - 1
            last = min(last, end)
            cut = int(generator.integers(first + 1, last))
            label = labels[int(generator.integers(len(labels)))]
            if label == ELSEWHERE:
                other = (document + 1 + int(generator.integers(text.num_documents - 1))) % text.num_documents
                start = int(generator.integers(documents[other], documents[other + 1]))
                # A gets shorter until the first sentence of B fits, if necessary down to one sentence.
                while sentences[cut] - sentences[first] + sentences[start + 1] - sentences[start] > room:
                    cut -= 1
                limit = sentences[start] + sentences[last] - sentences[cut]
                stop = int(np.searchsorted(sentences, limit, "right")) - 1
                stop = min(max(stop, start + 1), documents[other + 1])
                found.append(((sentences[first], sentences[cut]), (sentences[start], sentences[stop]), label))
                first = cut
                continue
            parts = (sentences[first], sentences[cut]), (sentences[cut], sentences[last])
            found.append((*(parts if label == FOLLOWS else parts[::-1]), label))
            first = last
    return _assemble(text, found, block_size, cls_id, sep_id, pad_id)


def _cut_long(text: EncodedDocuments, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The offsets of sentences and documents when no sentence may be longer than `longest` tokens."""
    lengths = np.diff(text.sentences)
    pieces = -(-lengths // longest)
    piece = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)
    starts = np.repeat(text.sentences[:-1], pieces) + piece * np.repeat(lengths, pieces) // np.repeat(
        pieces, pieces
    )
    first_piece = np.concatenate([[0], pieces.cumsum()])
    return np.append(starts, text.sentences[-1]), first_piece[text.documents]


def _assemble(
    text: EncodedDocuments,
    found: list[tuple[_Span, _Span, int]],
    block_size: int,
    cls_id: int,
    sep_id: int,
    pad_id: int,
) -> Rows:
    num_rows = len(found)
    ids = np.full((num_rows, block_size), pad_id, dtype=np.int32)
    flags = np.ones((num_rows, block_size), dtype=bool)
    num_tokens, second = np.zeros(num_rows, dtype=np.int32), np.zeros(num_rows, dtype=np.int32)
    ids[:, 0] = cls_id
    for row, ((a, a_end), (b, b_end), _) in enumerate(found):
        middle = 1 + a_end - a
        end = middle + 1 + b_end - b
        ids[row, 1:middle], flags[row, 1:middle] = text.ids[a:a_end], text.word_starts[a:a_end]
        ids[row, middle] = ids[row, end] = sep_id
        ids[row, middle + 1 : end], flags[row, middle + 1 : end] = (
            text.ids[b:b_end],
            text.word_starts[b:b_end],
        )
        flags[row, [1, middle + 1]] = True  # a sentence that was cut may begin inside a word
        second[row], num_tokens[row] = middle + 1, end + 1
    labels = np.array([label for _, _, label in found], dtype=np.int16)
    return Rows(ids, flags, num_tokens, second, labels)
