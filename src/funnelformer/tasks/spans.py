"""Questions answered by a span of a passage, or by nothing: read in windows, scored as SQuAD's scripts do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import UserError, short
from ..config.head_table import HEADS
from ..config.model_options import ModelOptions
from ..data.bad_rows import OnBadRow, refuse
from ..data.example_rows import Examples, Rows
from ..data.padding import pad_batch
from ..data.tables import Table, check_column
from ..data.values import text_problem
from .kind import Encoded, Kind
from .passages import Place, cut_passage, encode_passages, most_question_tokens, token_span
from .releases.squad import WHERE
from .scores import softmax
from .span_search import NUM_BEST, best_spans
from .squad_scores import answer_metrics
from .windowing import Windowing

if TYPE_CHECKING:
    import datasets

__all__ = ["SAVED", "Answer", "Candidate", "Questions", "Windows"]

# Of `Spans`, what a model's folder keeps.
SAVED = ("doc_stride", "max_answer_length", "null_threshold")
# Outside of every input: the model's loss passes it over.
_NOWHERE = 1 << 20
# Of each window, with the type that `datasets` stores; a star marks a list of them.
_FEATURES = {
    "input_ids": "*int32",
    **dict.fromkeys(("token_type_ids", "attention_mask", "answer_mask"), "*int8"),
    **dict.fromkeys(("start_positions", "end_positions", "example", "begin", "first", "size"), "int32"),
    "widest": "*int32",
    "is_cut": "bool",
    "is_lost": "bool",
}
_EXAMPLE = {"id": "string", "context": "string", "question": "string", "texts": "*string", "starts": "*int64"}


def _stored(types: Mapping[str, str]) -> datasets.Features:
    import datasets

    return datasets.Features(
        {
            name: datasets.List(datasets.Value(kind[1:])) if kind[0] == "*" else datasets.Value(kind)
            for name, kind in types.items()
        }
    )


@dataclass(frozen=True)
class Candidate:
    """A possible answer: characters `begin` up to `end` of the passage; the empty one has none. score: of the model."""

    text: str
    probability: float
    score: float
    begin: int
    end: int


@dataclass(frozen=True)
class Answer:
    """What a model says to a question.

    best: its most probable candidates, the most probable first, where a question may lack an answer the empty one among
    them. null_odds: log-odds of no answer; None where every question has one. text: what is given as the answer, empty
    when the odds are above the threshold.
    """

    id: str
    best: tuple[Candidate, ...]
    null_odds: float | None
    text: str

    @property
    def spoken(self) -> str:
        """The best candidate that is not empty, whatever the odds; empty only when there is none."""
        return next((candidate.text for candidate in self.best if candidate.text), "")

    @property
    def probability(self) -> float:
        """The probability of `text`."""
        return next((candidate.probability for candidate in self.best if candidate.text == self.text), 0.0)


@dataclass(frozen=True, kw_only=True)
class Windows(Encoded):
    """Windows in the order of the examples that they are of, and the tokenizer, which maps tokens to characters."""

    tokenizer: Any


class Questions(Kind, names=("span",)):
    """`FunnelformerForQuestionAnswering` on `[CLS] question [SEP] window of the passage [SEP]`."""

    head = HEADS["question_answering"]

    def in_windows(self, windowing: Windowing) -> Questions:
        """Passages are read in windows anyway; `task.spans` says how far apart these begin."""
        if str(windowing) != "mean":
            raise UserError(
                "--windows combines the scores of a text's windows; an answer is taken from one of them"
            )
        return self

    def examples(self, table: Table, bad: OnBadRow = refuse) -> Rows:
        """Rows with id, context, question, texts and starts of the answers; these are empty where data have none."""
        assert self.task.spans is not None
        is_labelled = self.task.columns.label is not None
        for name in ("id", "context", "question", *(["answers"] if is_labelled else [])):
            check_column(name, table.columns, table.name)
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        for index in range(len(table)):
            row = {name: values[index] for name, values in table.columns.items()}
            where = row.get(WHERE) or table.where(index)
            if isinstance(row["id"], str | int):
                where += f" (id {row['id']!r})"
            try:
                example = _example(row, seen)
                texts, starts = _answers(row, self.task.spans.may_lack_answer) if is_labelled else ([], [])
            except _BadQuestion as problem:
                bad(f"{where}: {problem}")
                continue
            seen.add(example["id"])
            rows.append({**example, "texts": texts, "starts": starts})
        if not rows:
            raise UserError(f"{table.name}: none of its {len(table)} rows can be used")
        return Rows.from_list(rows, partial(_stored, _EXAMPLE))

    def settings(self) -> dict[str, Any]:
        return {}

    def lengths(self, examples: Examples, tokenizer: Any) -> np.ndarray:
        """Tokens of each whole passage with its question."""

        def measure(rows: dict[str, list[Any]]) -> dict[str, list[int]]:
            encoded = tokenizer(rows["question"], rows["context"], truncation=False)
            return {"length": [len(ids) for ids in encoded["input_ids"]]}

        measured = examples.map(measure, batched=True, remove_columns=examples.column_names, desc="measure")
        return np.asarray(measured["length"])

    def encode(self, examples: Examples, tokenizer: Any, max_length: int) -> Windows:
        """Windows with the place of the first gold answer; [CLS], place 0, in those that do not hold it whole."""
        spans = self.task.spans
        assert spans is not None

        def tokenise(rows: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
            found: dict[str, list[Any]] = {name: [] for name in _FEATURES}
            questions = encode_passages(tokenizer, rows["question"])
            passages = encode_passages(tokenizer, rows["context"])
            answers = zip(rows["texts"], rows["starts"], strict=True)
            for number, question, passage, (texts, starts) in zip(
                numbers, questions, passages, answers, strict=True
            ):
                span = None
                if texts:
                    span = token_span(passage.offsets, starts[0], starts[0] + len(texts[0]))
                windows = cut_passage(tokenizer, question, passage, max_length, spans.doc_stride)
                for count, window in enumerate(windows):
                    place = window.place
                    first, last = (0, 0) if span is None else (end - place.first for end in span)
                    holds = span is not None and first >= 0 and last < place.size
                    is_lost = bool(texts) and span is None
                    nowhere = _NOWHERE if is_lost else 0
                    found["input_ids"].append(window.input_ids)
                    found["token_type_ids"].append(window.token_type_ids)
                    found["attention_mask"].append([1] * len(window.input_ids))
                    found["answer_mask"].append(window.answer_mask)
                    found["start_positions"].append(place.begin + first if holds else nowhere)
                    found["end_positions"].append(place.begin + last if holds else nowhere)
                    found["example"].append(number)
                    found["begin"].append(place.begin)
                    found["first"].append(place.first)
                    found["size"].append(place.size)
                    found["widest"].append(list(place.widest))
                    found["is_cut"].append(count == 0 and bool(question.overflowing))
                    found["is_lost"].append(count == 0 and is_lost)
            return found

        features = examples.map(
            tokenise,
            batched=True,
            batch_size=100,
            with_indices=True,
            remove_columns=examples.column_names,
            **({} if isinstance(examples, Rows) else {"features": _stored(_FEATURES)}),
            desc="tokenise",
        )
        return Windows(features, examples, sum(features["is_cut"][:]), tokenizer=tokenizer)

    def remark(self, encoded: Encoded, max_length: int) -> str | None:
        remarks = [
            f"{len(encoded.examples):,} questions in {len(encoded.features):,} windows of {max_length} tokens"
        ]
        if encoded.num_cut:
            remarks.append(
                f"{encoded.num_cut:,} questions of more than {most_question_tokens(max_length)} tokens cut"
            )
        if lost := sum(encoded.features["is_lost"][:]):
            remarks.append(f"{lost:,} with an answer of no token left out")
        return "; ".join(remarks)

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Any]:
        return _WindowCollator(tokenizer)

    def pad(self, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Pad on the right, so that the positions of answers do not change."""
        return pad_batch(tokenizer, rows, side="right")

    def reduce(self, outputs: Any, config: ModelOptions) -> Any:
        """The best spans of each window, see `best_spans`: 63 numbers, however long the window is.

        outputs: start_logits, end_logits and of the conditional head start_index and null_logits; arrays, or tensors,
            for which the spans are one, too.
        """
        assert self.task.spans is not None
        longest, beam = self.task.spans.max_answer_length, config.qa_end_beam
        if isinstance(outputs[0], np.ndarray):
            return best_spans(*outputs, max_answer_length=longest, end_beam=beam)
        import torch

        arrays = [(x.float() if x.is_floating_point() else x).detach().cpu().numpy() for x in outputs]
        spans = best_spans(*arrays, max_answer_length=longest, end_beam=beam)
        return torch.from_numpy(spans).to(outputs[0].device)

    def tuned(self, scores: Mapping[str, float]) -> Questions:
        """With the threshold of the best F1."""
        assert self.task.spans is not None
        threshold = scores.get("dev_best_f1_thresh", self.task.spans.null_threshold)
        spans = dataclasses.replace(self.task.spans, null_threshold=threshold)
        return Questions(dataclasses.replace(self.task, spans=spans))

    def saved(self) -> dict[str, Any]:
        assert self.task.spans is not None
        return {name: getattr(self.task.spans, name) for name in SAVED}

    def score(self, predictions: Any, gold: Any, encoded: Encoded) -> dict[str, float]:
        assert isinstance(encoded, Windows)
        return self.score_answers(self.answers(predictions, encoded), encoded.examples["texts"])

    def score_answers(self, answers: Iterable[Answer], golds: Iterable[list[str]]) -> dict[str, float]:
        """SQuAD's scores, in percent, see `answer_metrics`."""
        assert self.task.spans is not None
        said = [(answer.spoken, answer.null_odds) for answer in answers]
        odds = [odds for _, odds in said if odds is not None] if self.task.spans.may_lack_answer else None
        return answer_metrics([text for text, _ in said], list(golds), odds, self.task.spans.null_threshold)

    def answers(self, spans: Any, encoded: Windows) -> Iterator[Answer]:
        """The answer to each example, in their order, from the best spans [W, N, 3] of all windows."""
        features = encoded.features
        columns = [features[name][:] for name in ("begin", "first", "size", "widest")]
        places = [Place(*values) for values in zip(*columns, strict=True)]
        bounds = np.searchsorted(np.asarray(features["example"][:]), np.arange(len(encoded.examples) + 1))
        context, offsets = "", []
        for number, example in enumerate(encoded.examples):
            if example["context"] != context:  # the questions on a passage come one after another
                context = example["context"]
                offsets = encode_passages(encoded.tokenizer, [context])[0].offsets
            own = slice(bounds[number], bounds[number + 1])
            yield self.answer(example["id"], context, offsets, places[own], spans[own])

    def answer(
        self, name: str, context: str, offsets: Sequence[tuple[int, int]], places: Sequence[Place], spans: Any
    ) -> Answer:
        """The answer to one question, from the best spans [W, N, 3] of its windows.

        offsets: characters, from and up to, of each token of the passage. A span counts in the window that shows its
        first token with the most context. The empty candidate has the probability that the log-odds say, the least of
        all windows; the others share the rest.
        """
        assert self.task.spans is not None
        found: dict[str, tuple[float, int, int]] = {}
        odds = np.inf
        for place, best_of_window in zip(places, spans, strict=True):
            odds = min(odds, float(best_of_window[0][2]))
            lowest, highest = place.widest
            for first, last, score in np.asarray(best_of_window[1:], dtype=np.float64):
                begin, end = (int(token) + place.first - place.begin for token in (first, last))
                if np.isfinite(score) and lowest <= begin < highest and end < place.first + place.size:
                    begin, end = offsets[begin][0], offsets[end][1]
                    text = context[begin:end]
                    if text.strip() and (text not in found or score > found[text][0]):
                        found[text] = (float(score), begin, end)
        ranked = sorted(found.items(), key=lambda entry: -entry[1][0])[:NUM_BEST]
        scores = np.array([score for _, (score, _, _) in ranked])
        shares = softmax(scores) if ranked else scores
        null = float(1 / (1 + np.exp(-np.clip(odds, -500, 500)))) if self.task.spans.may_lack_answer else 0.0
        best = [
            Candidate(text, (1 - null) * float(share), score, begin, end)
            for (text, (score, begin, end)), share in zip(ranked, shares, strict=True)
        ]
        if not self.task.spans.may_lack_answer:
            return Answer(name, tuple(best), None, best[0].text if best else "")
        is_empty = not best or odds > self.task.spans.null_threshold
        text = "" if is_empty else best[0].text
        best = sorted([*best, Candidate("", null, odds, 0, 0)], key=lambda candidate: -candidate.probability)
        return Answer(name, tuple(best), odds, text)


class _BadQuestion(ValueError):  # noqa: N818 - a remark on a row, which `examples` makes a UserError
    """What is wrong with a row, in a few words."""


def _example(row: dict[str, Any], seen: set[str]) -> dict[str, str]:
    """The texts of a row, or raise _BadQuestion."""
    name = row["id"]
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name:
        raise _BadQuestion("has no id")
    if name in seen:
        raise _BadQuestion("another question has this id")
    for column in ("context", "question"):
        if row[column] is None:
            raise _BadQuestion(f"no {column}")
        if problem := text_problem(row[column]):
            raise _BadQuestion(f"{column} {problem}")
    return {"id": name, "context": row["context"], "question": row["question"]}


def _answers(row: dict[str, Any], may_lack_answer: bool) -> tuple[list[str], list[int]]:
    """Texts and first characters of the answers of a row, or raise _BadQuestion."""
    texts, starts = _lists(row["answers"])
    impossible = row.get("is_impossible")
    if impossible and texts:
        raise _BadQuestion("has answers, but is_impossible says that there are none")
    if not texts and not may_lack_answer:
        raise _BadQuestion("has no answer; squad2 is the task of questions that may lack one")
    if not texts and impossible is False:
        raise _BadQuestion("has no answer, but is_impossible says that there is one")
    context = row["context"]
    for text, start in zip(texts, starts, strict=True):
        if problem := text_problem(text):
            raise _BadQuestion(f"an answer {problem}")
        if isinstance(start, bool) or not isinstance(start, int):
            raise _BadQuestion(f"answer_start is {short(start)}, not a whole number")
        end = start + len(text)
        if start < 0 or end > len(context):
            raise _BadQuestion(
                f"the answer {short(text)} at characters {start} to {end} is outside of the passage, which has "
                f"{len(context)}"
            )
        if context[start:end] != text:
            raise _BadQuestion(
                f"the answer {short(text)} is not at character {start}, where the passage has "
                f"{short(context[start:end])}"
            )
    return texts, starts


def _lists(answers: Any) -> tuple[list[Any], list[Any]]:
    """Texts and starts: from a list of answers (the release), or an answer of lists (the flattened form)."""
    if answers is None:
        return [], []
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return texts, starts
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return [answer.get("text") for answer in answers], [answer.get("answer_start") for answer in answers]
    raise _BadQuestion(f"answers are {short(answers)}, not lists of text and answer_start")


@dataclass(frozen=True)
class _WindowCollator:
    """Pads windows on the right, where the places of answers stay what they are."""

    tokenizer: Any

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        names = [name for name in (*self.tokenizer.model_input_names, "answer_mask") if name in features[0]]
        rows = [{name: feature[name] for name in names} for feature in features]
        padded = pad_batch(self.tokenizer, rows, side="right")
        batch = {name: torch.from_numpy(array) for name, array in padded.items()}
        for name in ("start_positions", "end_positions"):
            if name in features[0]:
                batch[name] = torch.tensor([feature[name] for feature in features])
        return batch
