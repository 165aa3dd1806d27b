"""What each route asks of the model: the tokens of a request, and the answer from the model's numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..base.sentence_modules import Pooling, SentenceEmbedding
from ..data.values import text_problem
from ..tasks.passages import cut_passage, encode_passages, most_question_tokens
from ..tasks.scores import softmax
from ..tasks.tokens import encode_words
from ..tasks.windows import by_owner, encode_windows
from .backend import Backend, Feature
from .batching import Work
from .funnel import Funnel
from .refused import Refused

__all__ = ["MOST_MASKS", "MOST_TOP", "Job", "answer", "classify", "embed", "fill", "inspect"]

MOST_TOP = 50  # candidates that can be asked for
MOST_MASKS = 16  # of a text: each costs a row of the vocabulary's length

# A text, or two that belong together.
Text = str | Sequence[str]


@dataclass(frozen=True)
class Job:
    """Work for the queue, and what makes the answer of its results."""

    work: Work
    finish: Callable[[list[Any]], Any]


def classify(backend: Backend, texts: Sequence[Text]) -> Job:
    """The row that `funnelformer predict` writes of each text; `cut`: whether it is longer than the model reads."""
    predictor = backend.predictor
    if predictor.kind == "tokens":
        return _tags(backend, texts)
    if predictor.task.get("text_pair"):
        for index, text in enumerate(texts):
            if isinstance(text, str):
                raise Refused(422, f"texts.{index}: the model was trained on pairs of texts; give two")
    if predictor.windowing is not None:
        return _windows(backend, texts)
    features, are_cut = _encode(backend, texts)

    def finish(logits: list[np.ndarray]) -> Any:
        answers = predictor.answers(np.stack(logits))
        return [{**row, "cut": cut} for row, cut in zip(answers, are_cut, strict=True)]

    return Job(Work("classify", features, backend.logits), finish)


def _windows(backend: Backend, texts: Sequence[Text]) -> Job:
    """Of a model of long texts: what the logits of their windows combine to."""
    predictor = backend.predictor
    windowing = predictor.windowing
    assert windowing is not None
    single = _single(texts, "the model reads windows of single texts, not pairs")
    encoded, owners = encode_windows(
        predictor.tokenizer, single, predictor.task["max_length"], windowing.stride, windowing.most
    )

    def finish(logits: list[np.ndarray]) -> Any:
        combined = by_owner(np.stack(logits), owners, windowing, predictor.kind)
        return [{**row, "cut": False} for row in predictor.answers(combined)]

    return Job(Work("classify", _features(encoded), backend.logits), finish)


def _tags(backend: Backend, texts: Sequence[Text]) -> Job:
    """The tag of every word, the text cut at white space and read in windows; a word without a piece is called O."""
    predictor = backend.predictor
    words = [text.split() for text in _single(texts, "a model of tokens reads single texts")]
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
    """A vector a text, as `funnelformer embed` makes it; pooling, normalize: by default as the model says of itself."""
    origin = backend.predictor.model.config.vectors or SentenceEmbedding()
    pooling = pooling or origin.pooling
    prompt = origin.prompt(None, "the model")
    texts = [prompt + text if isinstance(text, str) else [prompt + text[0], *text[1:]] for text in texts]
    features, are_cut = _encode(backend, texts, backend.vector_length)

    def finish(vectors: list[np.ndarray]) -> Any:
        if origin.normalize if normalize is None else normalize:
            vectors = [vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in vectors]
        return [{"vector": vector.tolist(), "cut": cut} for vector, cut in zip(vectors, are_cut, strict=True)]

    run = lambda features: backend.vectors(features, pooling)  # noqa: E731
    return Job(Work(("embed", pooling), features, run), finish)


def fill(backend: Backend, texts: Sequence[str], top: int) -> Job:
    """For every mask of every text the likeliest tokens."""
    tokenizer = backend.predictor.tokenizer
    mask, mask_id = tokenizer.mask_token, tokenizer.mask_token_id
    features, _ = _encode(backend, texts)
    for index, (text, feature) in enumerate(zip(texts, features, strict=True)):
        found, wanted = feature["input_ids"].count(mask_id), text.count(mask)
        if wanted == 0:
            raise Refused(422, f"texts.{index}: has no {mask}")
        if wanted > MOST_MASKS:
            raise Refused(422, f"texts.{index}: has {wanted} {mask}, more than {MOST_MASKS}")
        if found < wanted:
            limit = backend.predictor.task["max_length"]
            raise Refused(422, f"texts.{index}: a {mask} is beyond the {limit} tokens that the model reads")

    def run(features: list[Feature]) -> list[Any]:
        """Ids and probabilities [M, MOST_TOP] of each text: all others are not worth their memory."""
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
    """The likeliest answers in a passage, read in windows that overlap; first what `funnelformer predict` says."""
    for name, text in (("question", question), ("context", context)):
        _check(name, text)
    kind, tokenizer, task = backend.questions, backend.predictor.tokenizer, backend.predictor.task
    assert kind is not None
    assert kind.task.spans is not None
    asked, passage = encode_passages(tokenizer, [question, context])
    room = most_question_tokens(task["max_length"])
    if len(asked) > room:
        raise Refused(422, f"question: has {len(asked)} tokens; the model reads {room} of one")
    offsets = passage.offsets
    windows = cut_passage(tokenizer, asked, passage, task["max_length"], kind.task.spans.doc_stride)
    if len(windows) > most_windows:
        raise Refused(422, f"context: is read in {len(windows)} windows; allowed: {most_windows}")
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
    backend: Backend, texts: Sequence[Text], max_length: int | None = None
) -> tuple[list[Feature], list[bool]]:
    """Tokens of each text or pair, and whether it was cut; as `funnelformer predict` makes them."""
    for index, text in enumerate(texts):
        _check(f"texts.{index}", text)
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
    return features, are_cut


def _features(encoded: Any) -> list[Feature]:
    names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in encoded]
    return [{name: encoded[name][i] for name in names} for i in range(len(encoded["input_ids"]))]


def _single(texts: Sequence[Text], refusal: str) -> list[str]:
    """The texts, none of which may be a pair."""
    found = []
    for index, text in enumerate(texts):
        _check(f"texts.{index}", text)
        if not isinstance(text, str):
            raise Refused(422, f"texts.{index}: {refusal}")
        found.append(text)
    return found


def _check(where: str, text: Text) -> None:
    for part in [text] if isinstance(text, str) else text:
        if problem := text_problem(part):
            raise Refused(422, f"{where}: {problem}")


def _round(value: Any) -> float:
    return round(float(value), 6)
