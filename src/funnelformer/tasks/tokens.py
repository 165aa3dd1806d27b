"""A tag for every token of a sentence, scored by the entities that the tags spell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from ..base.errors import UserError, short
from ..config.head_table import HEADS
from ..data.bad_rows import OnBadRow, refuse
from ..data.example_rows import Examples, Rows
from ..data.tables import Table, check_column
from ..data.values import BadValue, Labels, Reader, check_rows, read_label, read_text, written_list
from .kind import Encoded, Kind
from .passages import widest_context
from .releases.conll import is_tag
from .task import Task
from .windowing import Windowing
from .windows import describe_windows, overlapping

__all__ = ["Tokens", "WordWindows", "encode_words", "entity_scores"]

_OUTSIDE = "O"
_NO_LABEL = -100


def entity_scores(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """F1, precision and recall of whole entities (type, first and last token), by seqeval as conlleval counts them."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    golden, said = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    return {
        "f1": float(f1_score(golden, said, zero_division=0)),
        "precision": float(precision_score(golden, said, zero_division=0)),
        "recall": float(recall_score(golden, said, zero_division=0)),
    }


class Tokens(Kind, names=("tokens",)):
    """`FunnelformerForTokenClassification`: the first piece of a word has the word's tag, the others have none.

    A sentence longer than `max_length` is read in windows, each a feature, and a word has its tag in the one that shows
    it with the most context, in training too. A word without a piece is called O.
    windowing: how far apart they begin; by default half a window.
    """

    has_class_names = True
    head = HEADS["token_classification"]

    def __init__(self, task: Task, windowing: Windowing | None = None) -> None:
        super().__init__(task)
        self.windowing = windowing or Windowing()

    def in_windows(self, windowing: Windowing) -> Tokens:
        if str(windowing) != "mean":
            raise UserError(
                "--windows combines the scores of a text's windows; a tag is taken from one window"
            )
        return Tokens(self.task, windowing)

    def examples(self, table: Table, bad: OnBadRow = refuse) -> Rows:
        """Lists `tokens` and `tags`; without a column of tags every token is outside."""
        columns = self.task.columns
        fields: dict[str, tuple[str, Reader]] = {"tokens": (columns.text, _read_list(read_text))}
        if columns.label is not None:
            tokens, tags = (
                table.columns[check_column(name, table.columns, table.name)]
                for name in (columns.text, columns.label)
            )
            # The reader of a row's tags has to know its tokens, which are read before them.
            pairs = list(zip(tokens, tags, strict=True))
            table = dataclasses.replace(table, columns={**table.columns, columns.label: pairs})
            fields["tags"] = (columns.label, self._read_tags)
        data = check_rows(table, fields, bad)
        if not data["tokens"]:
            raise UserError(f"{table.name}: none of its {len(table)} rows can be used")
        data.setdefault("tags", [[_OUTSIDE] * len(tokens) for tokens in data["tokens"]])
        return Rows(data)

    def _read_tags(self, pair: tuple[Any, Any]) -> list[str]:
        tokens, value = _as_list(pair[0]), pair[1]
        tags: list[str] = _read_list(self._read_tag)(value)
        if len(tags) != len(tokens):
            raise BadValue(f"has {len(tags)} tags for {len(tokens)} tokens: {short(' '.join(tokens))}")
        return tags

    def _read_tag(self, value: Any) -> str:
        tag = read_label(value)
        if not is_tag(tag):
            raise BadValue(f"has {short(tag)}; a tag is O, or as B-person and I-person")
        if self.task.labels is not None:
            Labels(self.task.labels).id(tag)
        return tag

    def label_names(self, examples: Examples) -> tuple[str, ...]:
        names = {tag for tags in examples["tags"] for tag in tags}
        if len(names) == 1:
            raise UserError(f"only one tag, {next(iter(names))!r}, in the training data: nothing to learn")
        # An entity goes on with a tag that the training data need not have; O is first.
        types = sorted({name.partition("-")[2] for name in names} - {""})
        return (_OUTSIDE, *(f"{start}-{kind}" for kind in types for start in "BI"))

    def settings(self) -> dict[str, Any]:
        assert self.task.labels is not None
        return Labels(self.task.labels).settings()

    def lengths(self, examples: Examples, tokenizer: Any) -> np.ndarray:
        def measure(rows: dict[str, list[Any]]) -> dict[str, list[int]]:
            encoded = tokenizer(rows["tokens"], is_split_into_words=True, truncation=False)
            return {"length": [len(ids) for ids in encoded["input_ids"]]}

        measured = examples.map(measure, batched=True, remove_columns=examples.column_names, desc="measure")
        return np.asarray(measured["length"])

    def encode(self, examples: Examples, tokenizer: Any, max_length: int) -> Encoded:
        assert self.task.labels is not None
        ids = Labels(self.task.labels).id_of

        def tokenise(rows: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            found = encode_words(tokenizer, rows["tokens"], max_length, self.windowing.stride)
            labels = []
            for ids_of, owner, places in zip(
                found.features["input_ids"], found.owners, found.places, strict=True
            ):
                tags = rows["tags"][owner]
                labels.append(
                    [ids[tags[places[p]]] if p in places else _NO_LABEL for p in range(len(ids_of))]
                )
            words = [list(places.values()) for places in found.places]
            owners = [indices[owner] for owner in found.owners]
            return {**found.features, "labels": labels, "words": words, "owner": owners}

        encoded = examples.map(
            tokenise, batched=True, with_indices=True, remove_columns=examples.column_names, desc="tokenise"
        )
        owners = np.asarray(encoded["owner"][:])
        return Encoded(encoded.remove_columns("owner"), examples, num_cut=0, owners=owners)

    def remark(self, encoded: Encoded, max_length: int) -> str | None:
        is_whole = len(encoded.features) == len(encoded.examples)
        return None if is_whole else describe_windows(_owners(encoded), max_length)

    def saved(self) -> dict[str, Any]:
        return {} if self.windowing.stride is None else {"doc_stride": self.windowing.stride}

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Any]:
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def score(self, predictions: Any, gold: Any, encoded: Encoded) -> dict[str, float]:
        scores = entity_scores(self.tags(predictions, gold, encoded), list(encoded.examples["tags"]))
        return {name: scores[name] for name in self.task.scores}

    def tags(self, predictions: Any, gold: Any, encoded: Encoded) -> list[list[str]]:
        """The tag of every word, from logits [T, L] and labels [T] of each window."""
        assert self.task.labels is not None
        found = [[_OUTSIDE] * len(tokens) for tokens in encoded.examples["tokens"]]
        for logits, labels, words, owner in zip(
            predictions, gold, encoded.features["words"], _owners(encoded), strict=True
        ):
            places = np.flatnonzero(np.asarray(labels) != _NO_LABEL)
            for word, best in zip(words, np.asarray(logits)[places].argmax(-1), strict=True):
                found[owner][word] = self.task.labels[best]
        return found

    def of_sentences(
        self, predictions: Any, gold: Any, encoded: Encoded
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits [W, L] and labels [W] of the words of each sentence, of all its windows."""
        parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(len(encoded.examples))]
        for logits, labels, owner in zip(predictions, gold, _owners(encoded), strict=True):
            places = np.flatnonzero(np.asarray(labels) != _NO_LABEL)
            parts[owner].append((np.asarray(logits)[places], np.asarray(labels)[places]))
        for of_one in parts:
            logits, labels = zip(*of_one, strict=True)
            yield np.concatenate(logits), np.concatenate(labels)


def _owners(encoded: Encoded) -> np.ndarray:
    """The sentence of each feature."""
    return np.arange(len(encoded.features)) if encoded.owners is None else encoded.owners


@dataclass(frozen=True)
class WordWindows:
    """Sentences of words as a model reads them.

    features: what it reads of each window. owners: the sentence of each. places: of each window the place of the first
    piece of a word -> the number of that word in its sentence, for the words that no other window shows with more
    context.
    """

    features: dict[str, list[list[int]]]
    owners: list[int]
    places: list[dict[int, int]]


def encode_words(
    tokenizer: Any, sentences: Sequence[Sequence[str]], max_length: int, stride: int | None
) -> WordWindows:
    """Tokenise sentences of words into windows that begin `stride` pieces apart, by default half of one.

    A sentence that fits is one window, as without. Raises UserError for a stride that would leave pieces out.
    """
    encoded, owners, stride = overlapping(tokenizer, sentences, max_length, stride, is_split_into_words=True)
    places: list[dict[int, int]] = []
    for _, windows in groupby(range(len(owners)), key=owners.__getitem__):
        of_windows = [encoded.word_ids(number) for number in windows]
        leads = [next((p for p, word in enumerate(own) if word is not None), 0) for own in of_windows]
        pieces = [[word for word in own if word is not None] for own in of_windows]
        # The pieces of the sentence, each once: a window may begin within a word.
        whole = [word for own in pieces[:-1] for word in own[:stride]] + pieces[-1]
        starts = first_pieces(whole)
        firsts = [stride * number for number in range(len(pieces))]
        runs = widest_context(firsts, [len(own) for own in pieces])
        places += [
            {lead + piece - first: starts[piece] for piece in range(*run) if piece in starts}
            for lead, first, run in zip(leads, firsts, runs, strict=True)
        ]
    return WordWindows(dict(encoded), owners, places)


def first_pieces(words: Sequence[int | None]) -> dict[int, int]:
    """Place of the first piece of each word -> the word, from the word of each piece (None: a special token)."""
    places: dict[int, int] = {}
    for place, word in enumerate(words):
        if word is not None and (place == 0 or words[place - 1] != word):
            places[place] = word
    return places


def _read_list(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """A reader of a list of what `read` takes, with something in it; a text may spell the list, as in csv files."""

    def read_all(value: Any) -> list[Any]:
        value = _as_list(value)
        if not isinstance(value, list | tuple):
            raise BadValue(f"is not a list but {short(value)}")
        if not value:
            raise BadValue("is an empty list")
        return [read(item) for item in value]

    return read_all


def _as_list(value: Any) -> Any:
    """The list that a text spells; any other value as it is."""
    return value if (spelt := written_list(value)) is None else spelt
