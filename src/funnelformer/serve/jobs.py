"""The work of each route: it turns a request into tokens for the model, and the model's outputs into the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from ..base.errors import UserError
from ..base.sentence_modules import Pooling, SentenceEmbedding
from ..data.values import text_problem
from ..tasks.passages import cut_passage, encode_passages, most_question_tokens
from ..tasks.ranking import check_ranks, score_column
from ..tasks.scores import sigmoid, softmax
from ..tasks.tokens import encode_words
from ..tasks.windows import by_owner, encode_windows
from .backend import Backend, Feature
from .batching import Work
from .funnel import Funnel
from .refused import Refused

__all__ = [
    "MOST_MASKS",
    "MOST_TOP",
    "Job",
    "answer",
    "can_rank",
    "classify",
    "embed",
    "fill",
    "inspect",
    "predictions",
    "rank",
    "rerank",
    "vectors",
]

MOST_TOP = 50  # most candidates that a request may ask for
MOST_MASKS = 16  # most masks in a text: each costs a row as long as the vocabulary

# A text, or two that belong together.
Text = str | Sequence[str]


@dataclass(frozen=True)
class Job:
    """Work for the queue, and the function that turns its results into the answer."""

    work: Work
    finish: Callable[[list[Any]], Any]

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads, special ones included."""
        return sum(len(feature["input_ids"]) for feature in self.work.features)

    def then(self, convert: Callable[[Any], Any]) -> Job:
        """The same work; `convert` turns this job's answer into the new one."""
        return Job(self.work, lambda found: convert(self.finish(found)))


def classify(backend: Backend, texts: Sequence[Text]) -> Job:
    """For each text, the row that `funnelformer predict` writes, and `cut`: whether it was too long for the model."""
    predictor = backend.predictor
    if predictor.kind == "tokens":
        return _tags(backend, texts)

    def finish(found: tuple[np.ndarray, list[bool]]) -> Any:
        return [{**row, "cut": cut} for row, cut in zip(predictor.answers(found[0]), found[1], strict=True)]

    return logits(backend, texts).then(finish)


def logits(backend: Backend, texts: Sequence[Text], *, field: str = "texts", may_cut: bool = True) -> Job:
    """Logits [N, L] of N texts from a sequence classifier, and which texts were cut.

    field: the name of the texts in the request. may_cut: if False, a text longer than the model reads is refused.
    """
    predictor = backend.predictor
    if predictor.task.get("text_pair"):
        for index, text in enumerate(texts):
            if isinstance(text, str):
                raise Refused(
                    422, f"{field}.{index}: the model was trained on pairs of texts; give two", field=field
                )
    if predictor.windowing is not None:
        return _windows(backend, texts, field)
    features, are_cut = _encode(backend, texts, field=field, may_cut=may_cut)
    return Job(Work("classify", features, backend.logits), lambda found: (np.stack(found), are_cut))


def _windows(backend: Backend, texts: Sequence[Text], field: str) -> Job:
    """The logits of long texts, combined from the logits of their windows."""
    predictor = backend.predictor
    windowing = predictor.windowing
    assert windowing is not None
    single = _single(texts, "the model reads windows of single texts, not pairs", field)
    encoded, owners = encode_windows(
        predictor.tokenizer, single, predictor.task["max_length"], windowing.stride, windowing.most
    )

    def finish(found: list[np.ndarray]) -> Any:
        combined = by_owner(np.stack(found), owners, windowing, predictor.kind)
        return combined, [False] * len(single)

    return Job(Work("classify", _features(encoded), backend.logits), finish)


def predictions(
    backend: Backend, texts: Sequence[Text], *, field: str, may_cut: bool, raw: bool = False
) -> Job:
    """Pairs (label, score) for each text, best first. The scores are probabilities; with `raw`, logits.

    A regression has one label; its score is the sigmoid of the amount, as in text-embeddings-inference, unless `raw`.
    Raises Refused (409) for token classification.
    """
    predictor = backend.predictor
    if predictor.kind == "tokens":
        raise Refused(409, "this model labels tokens; use /classify", field="model")

    def finish(found: tuple[np.ndarray, list[bool]]) -> Any:
        scores = found[0] if raw else _probabilities(backend, found[0])
        orders = np.argsort(-scores, axis=-1, kind="stable")
        labels = predictor.labels
        return [
            [(labels[index], float(row[index])) for index in order.tolist()]
            for row, order in zip(scores, orders, strict=True)
        ]

    return logits(backend, texts, field=field, may_cut=may_cut).then(finish)


def can_rank(backend: Backend) -> bool:
    """Whether the model scores pairs of texts, so that documents can be ranked by it."""
    if "classify" not in backend.abilities or backend.predictor.windowing is not None:
        return False  # only single texts are read in windows
    try:
        check_ranks(backend.predictor.kind, backend.predictor.task, "")
    except UserError:
        return False
    return True


def rank(backend: Backend, query: str, texts: Sequence[str], label: str | None, top: int | None) -> Job:
    """The texts with the order and the scores of `funnelformer rank`; `index` is the text's number, from 0.

    label: the class whose probability is the score. top: how many texts to return; None: all.
    """
    predictor = backend.predictor
    try:
        column = score_column(predictor.kind, predictor.labels, label, "the model", "label")
    except UserError as error:
        raise Refused(422, str(error), field="label") from None

    def finish(found: tuple[np.ndarray, list[bool]]) -> Any:
        values, are_cut = found
        scores = values[:, 0] if column is None else predictor.probabilities(values)[:, column]
        best = np.argsort(-scores, kind="stable")[:top].tolist()
        return [
            {"rank": place, "index": index, "score": float(scores[index]), "cut": are_cut[index]}
            for place, index in enumerate(best, start=1)
        ]

    return _scored(backend, query, texts, may_cut=True).then(finish)


def rerank(backend: Backend, query: str, texts: Sequence[str], *, may_cut: bool, raw: bool = False) -> Job:
    """Pairs (index, score), best first: the sigmoid of an amount, or the probability of the second of two classes.

    raw: leave out the sigmoid, so that the score is the amount, or the difference of the two logits.
    Raises Refused (409) for any other model, which has no such score.
    """
    predictor = backend.predictor
    is_amount = predictor.kind == "regression"
    if not is_amount and (predictor.kind != "classification" or len(predictor.labels) != 2):
        raise Refused(
            409, "this model is not a reranker: it gives neither amounts nor two classes", field="model"
        )

    def finish(found: tuple[np.ndarray, list[bool]]) -> Any:
        values = found[0].astype(np.float64)
        scores = values[:, 0] if is_amount else values[:, 1] - values[:, 0]
        order = np.argsort(-scores, kind="stable").tolist()
        return [(index, float(scores[index] if raw else sigmoid(scores[index]))) for index in order]

    return _scored(backend, query, texts, may_cut=may_cut).then(finish)


def _scored(backend: Backend, query: str, texts: Sequence[str], *, may_cut: bool) -> Job:
    """The logits of each pair of query and text."""
    _check("query", query, "query")
    return logits(backend, [[query, text] for text in texts], may_cut=may_cut)


def _probabilities(backend: Backend, values: np.ndarray) -> np.ndarray:
    if backend.predictor.kind == "regression":
        return sigmoid(values)
    return backend.predictor.probabilities(values)


def _tags(backend: Backend, texts: Sequence[Text]) -> Job:
    """A tag for each word of each text. Words are divided by white space; a word without any token gets the tag O."""
    predictor = backend.predictor
    words = [
        text.split() for text in _single(texts, "a model that tags tokens reads single texts, not pairs")
    ]
    task, labels = predictor.task, predictor.labels
    found = encode_words(predictor.tokenizer, words, task["max_length"], task.get("doc_stride"))

    def finish(logits: list[np.ndarray]) -> Any:
        tags = [["O"] * len(tokens) for tokens in words]
        for owner, places, scores in zip(found.owners, found.places, logits, strict=True):
            for place, word in places.items():
                tags[owner][word] = labels[int(scores[place].argmax())]
        return [
            {"tokens": tokens, "prediction": own, "cut": False}
            for tokens, own in zip(words, tags, strict=True)
        ]

    return Job(Work("classify", _features(found.features), backend.logits), finish)


def embed(
    backend: Backend, texts: Sequence[Text], pooling: Pooling | None = None, normalize: bool | None = None
) -> Job:
    """A vector for each text, as `funnelformer embed` makes it. pooling, normalize: by default the model's own."""

    def finish(found: tuple[np.ndarray, list[bool]]) -> Any:
        return [
            {"vector": vector.tolist(), "cut": cut} for vector, cut in zip(found[0], found[1], strict=True)
        ]

    return vectors(backend, texts, pooling=pooling, normalize=normalize).then(finish)


def vectors(
    backend: Backend,
    inputs: Sequence[Text | Sequence[int]],
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    field: str = "texts",
    may_cut: bool = True,
) -> Job:
    """Vectors [N, D] in float32, and which inputs were cut. pooling, normalize: by default the model's own.

    inputs: all of them texts or pairs, or all of them lists of token ids, with or without special tokens around them.
    prompt: the name of one of the model's prompts. field, may_cut: see `logits`.
    """
    origin = backend.predictor.model.config.vectors or SentenceEmbedding()
    pooling = pooling or origin.pooling
    try:
        before = origin.prompt(prompt, "the model")
    except UserError as error:
        raise Refused(422, str(error), field="prompt_name") from None
    how: Any = {"max_length": backend.vector_length, "field": field, "may_cut": may_cut}
    if any(not isinstance(entry, str) and isinstance(entry[0], int) for entry in inputs):
        features, are_cut = _encode_ids(backend, cast(Sequence[Sequence[int]], inputs), before, **how)
    else:
        texts = cast(Sequence[Text], inputs)
        for index, text in enumerate(texts):
            _check(f"{field}.{index}", text, field)
        texts = [before + text if isinstance(text, str) else [before + text[0], *text[1:]] for text in texts]
        features, are_cut = _encode(backend, texts, **how)

    def finish(found: list[np.ndarray]) -> Any:
        stacked = np.stack(found)
        if origin.normalize if normalize is None else normalize:
            stacked = stacked / np.maximum(np.linalg.norm(stacked, axis=-1, keepdims=True), 1e-12)
        return stacked, are_cut

    run = lambda features: backend.vectors(features, pooling)  # noqa: E731
    return Job(Work(("embed", pooling), features, run), finish)


def fill(backend: Backend, texts: Sequence[str], top: int) -> Job:
    """The `top` likeliest tokens for every mask of every text.

    Raises Refused (422) for a text without a mask, with more than `MOST_MASKS`, or with one beyond the model's length.
    """
    tokenizer = backend.predictor.tokenizer
    mask, mask_id = tokenizer.mask_token, tokenizer.mask_token_id
    features, _ = _encode(backend, texts)
    for index, (text, feature) in enumerate(zip(texts, features, strict=True)):
        found, wanted = feature["input_ids"].count(mask_id), text.count(mask)
        if wanted == 0:
            raise Refused(422, f"texts.{index}: has no {mask}")
        if wanted > MOST_MASKS:
            raise Refused(422, f"texts.{index}: has {wanted} {mask}; allowed: up to {MOST_MASKS}")
        if found < wanted:
            limit = backend.predictor.task["max_length"]
            raise Refused(422, f"texts.{index}: a {mask} is beyond the {limit} tokens that the model reads")

    def run(features: list[Feature]) -> list[Any]:
        """Ids and probabilities [M, MOST_TOP] of each text; keeping those of the whole vocabulary would cost memory."""
        results = []
        for logits in backend.mask_logits(features):
            probabilities = softmax(logits)
            number = min(MOST_TOP, probabilities.shape[-1])
            best = np.argpartition(-probabilities, number - 1, axis=-1)[:, :number]
            of_best = np.take_along_axis(probabilities, best, axis=-1)
            order = np.argsort(-of_best, axis=-1)
            results.append((np.take_along_axis(best, order, -1), np.take_along_axis(of_best, order, -1)))
        return results

    def finish(results: list[Any]) -> Any:
        return [
            {
                "masks": [
                    [
                        {"token": tokenizer.convert_ids_to_tokens(int(number)), "probability": _round(p)}
                        for number, p in zip(numbers[:top], of_mask[:top], strict=True)
                    ]
                    for numbers, of_mask in zip(best, probabilities, strict=True)
                ]
            }
            for best, probabilities in results
        ]

    return Job(Work("fill", features, run), finish)


def answer(backend: Backend, question: str, context: str, top: int, most_windows: int) -> Job:
    """The `top` likeliest answers in a passage, read in overlapping windows; the first is what `predict` writes.

    Raises Refused (422) for a question that is too long, and for a passage of more than `most_windows` windows.
    """
    for name, text in (("question", question), ("context", context)):
        _check(name, text)
    kind, tokenizer, task = backend.questions, backend.predictor.tokenizer, backend.predictor.task
    assert kind is not None
    assert kind.task.spans is not None
    asked, passage = encode_passages(tokenizer, [question, context])
    room = most_question_tokens(task["max_length"])
    if len(asked) > room:
        raise Refused(422, f"question: has {len(asked)} tokens; allowed: up to {room}")
    offsets = passage.offsets
    windows = cut_passage(tokenizer, asked, passage, task["max_length"], kind.task.spans.doc_stride)
    if len(windows) > most_windows:
        raise Refused(422, f"context: needs {len(windows)} windows; allowed: up to {most_windows}")
    features = [
        {
            "input_ids": window.input_ids,
            "token_type_ids": window.token_type_ids,
            "attention_mask": [1] * len(window.input_ids),
            "answer_mask": window.answer_mask,
        }
        for window in windows
    ]

    def finish(spans: list[np.ndarray]) -> Any:
        found = kind.answer("", context, offsets, [window.place for window in windows], spans)
        return [
            {
                "answer": candidate.text,
                "start": candidate.begin,
                "end": candidate.end,
                "score": _round(candidate.probability),
            }
            for candidate in sorted(found.best, key=lambda candidate: candidate.text != found.text)[:top]
        ]

    return Job(Work("answer", features, backend.spans), finish)


def inspect(backend: Backend, text: Text, most_tokens: int) -> Job:
    """The tokens of a text and how the encoder merges them, block by block."""
    limit = min(most_tokens, backend.predictor.task["max_length"])
    features, (is_cut,) = _encode(backend, [text], limit)
    tokens = backend.predictor.tokenizer.convert_ids_to_tokens(features[0]["input_ids"])

    def finish(results: list[Funnel]) -> Any:
        (funnel,) = results
        stages = [
            {"mixer": stage.mixer, "members": stage.members, "looks": stage.looks} for stage in funnel.stages
        ]
        return {"tokens": tokens, "cut": is_cut, "stages": stages}

    run = lambda features: [backend.funnel(feature) for feature in features]  # noqa: E731
    return Job(Work("inspect", features, run), finish)


def _encode(
    backend: Backend,
    texts: Sequence[Text],
    max_length: int | None = None,
    *,
    field: str = "texts",
    may_cut: bool = True,
) -> tuple[list[Feature], list[bool]]:
    """The tokens of each text or pair, as `funnelformer predict` makes them, and whether it was cut."""
    for index, text in enumerate(texts):
        _check(f"{field}.{index}", text, field)
    tokenizer = backend.predictor.tokenizer
    limit = max_length or backend.predictor.task["max_length"]
    features: list[Feature] = [{}] * len(texts)
    are_cut = [False] * len(texts)
    singles = [index for index, text in enumerate(texts) if isinstance(text, str)]
    pairs = [index for index, text in enumerate(texts) if not isinstance(text, str)]
    how: dict[str, Literal[True, "longest_first"]] = {"single": True, "pair": "longest_first"}
    for kind, indices in (("single", singles), ("pair", pairs)):
        if not indices:
            continue
        columns = [[texts[i] for i in indices]]
        if kind == "pair":
            columns = [[texts[i][side] for i in indices] for side in (0, 1)]
        encoded = tokenizer(*columns, truncation=how[kind], max_length=limit)
        for index, feature, part in zip(indices, _features(encoded), encoded.encodings, strict=True):
            features[index], are_cut[index] = feature, bool(part.overflowing)
    _check_length(are_cut, limit, field, may_cut)
    return features, are_cut


def _encode_ids(
    backend: Backend,
    ids: Sequence[Sequence[int]],
    prompt: str,
    *,
    max_length: int | None,
    field: str,
    may_cut: bool,
) -> tuple[list[Feature], list[bool]]:
    """As `_encode`, for ids of this model's tokenizer; special tokens are added unless they are already there."""
    tokenizer = backend.predictor.tokenizer
    limit = max_length or backend.predictor.task["max_length"]
    backend_tokenizer = tokenizer.backend_tokenizer
    # A call of the tokenizer sets its own again.
    backend_tokenizer.no_truncation()
    backend_tokenizer.no_padding()
    frame = backend_tokenizer.encode("a")
    is_special = frame.special_tokens_mask
    first, last = is_special.index(0), len(is_special) - is_special[::-1].index(0)
    head, tail = frame.ids[:first], frame.ids[last:]
    others = {"token_type_ids": frame.type_ids, "attention_mask": frame.attention_mask}
    before = backend_tokenizer.encode(prompt, add_special_tokens=False).ids if prompt else []
    features, are_cut = [], []
    for index, numbers in enumerate(ids):
        for place, number in enumerate(numbers):
            if not 0 <= number < len(tokenizer):
                raise Refused(
                    422,
                    f"{field}.{index}.{place}: {number} is not a token of this model's tokenizer; "
                    f"allowed: 0 to {len(tokenizer) - 1}",
                    field=field,
                )
        inner = list(numbers)
        is_framed = inner[: len(head)] == head and (not tail or inner[-len(tail) :] == tail)
        if (head or tail) and is_framed and len(inner) >= len(head) + len(tail):
            inner = inner[len(head) : len(inner) - len(tail)]
        room = limit - len(head) - len(tail)
        inner = before + inner
        are_cut.append(len(inner) > room)
        inner = inner[:room]
        feature = {"input_ids": [*head, *inner, *tail]}
        for name, values in others.items():
            if name in tokenizer.model_input_names:
                feature[name] = [*values[:first], *values[first : first + 1] * len(inner), *values[last:]]
        features.append(feature)
    _check_length(are_cut, limit, field, may_cut)
    return features, are_cut


def _check_length(are_cut: Sequence[bool], limit: int, field: str, may_cut: bool) -> None:
    if not may_cut and any(are_cut):
        raise Refused(
            422,
            f"{field}.{are_cut.index(True)}: has more than the {limit} tokens that the model reads",
            field=field,
            reason="too_long",
        )


def _features(encoded: Any) -> list[Feature]:
    names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in encoded]
    return [{name: encoded[name][i] for name in names} for i in range(len(encoded["input_ids"]))]


def _single(texts: Sequence[Text], refusal: str, field: str = "texts") -> list[str]:
    """The texts, none of which may be a pair."""
    found = []
    for index, text in enumerate(texts):
        _check(f"{field}.{index}", text, field)
        if not isinstance(text, str):
            raise Refused(422, f"{field}.{index}: {refusal}", field=field)
        found.append(text)
    return found


def _check(where: str, text: Text, field: str | None = None) -> None:
    for part in [text] if isinstance(text, str) else text:
        if problem := text_problem(part):
            raise Refused(422, f"{where}: {problem}", field=field)


def _round(value: Any) -> float:
    return round(float(value), 6)
