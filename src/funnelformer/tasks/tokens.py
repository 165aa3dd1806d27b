"""A tag for every token of a sentence, scored by the entities that the tags spell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..base.errors import UserError, short
from ..data.bad_rows import OnBadRow, refuse
from ..data.example_rows import Examples, Rows
from ..data.tables import Table, check_column
from ..data.values import BadValue, Labels, Reader, check_rows, read_label, read_text, written_list
from ..head_table import HEADS
from .kind import Encoded, Kind
from .releases.conll import is_tag

__all__ = ["Tokens", "entity_scores", "first_pieces"]

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

    A word that was cut off, or has no piece, is called O.
    """

    has_class_names = True
    head = HEADS["token_classification"]

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

        def tokenise(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            encoded = tokenizer(
                rows["tokens"], is_split_into_words=True, truncation=True, max_length=max_length
            )
            labels, words = [], []
            for number, tags in enumerate(rows["tags"]):
                pieces = encoded.word_ids(number)
                starts = first_pieces(pieces)
                labels.append(
                    [
                        ids[tags[starts[place]]] if place in starts else _NO_LABEL
                        for place in range(len(pieces))
                    ]
                )
                words.append(list(starts.values()))
            cut = [bool(text.overflowing) for text in encoded.encodings]
            return {**encoded, "labels": labels, "words": words, "cut": cut}

        encoded = examples.map(tokenise, batched=True, remove_columns=examples.column_names, desc="tokenise")
        return Encoded(encoded.remove_columns("cut"), examples, sum(encoded["cut"]))

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Any]:
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def score(self, predictions: Any, gold: Any, encoded: Encoded) -> dict[str, float]:
        scores = entity_scores(self.tags(predictions, gold, encoded), list(encoded.examples["tags"]))
        return {name: scores[name] for name in self.task.scores}

    def tags(self, predictions: Any, gold: Any, encoded: Encoded) -> list[list[str]]:
        """The tag of every word, from logits [T, L] and labels [T] of each sentence."""
        assert self.task.labels is not None
        found = []
        for logits, labels, words, tokens in zip(
            predictions, gold, encoded.features["words"], encoded.examples["tokens"], strict=True
        ):
            places = np.flatnonzero(np.asarray(labels) != _NO_LABEL)
            tags = [_OUTSIDE] * len(tokens)
            for word, best in zip(words, np.asarray(logits)[places].argmax(-1), strict=True):
                tags[word] = self.task.labels[best]
            found.append(tags)
        return found


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
