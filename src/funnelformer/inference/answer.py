"""A fine-tuned model's answers to questions on passages, one after another, and the files that hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..base.errors import UserError
from ..base.files import atomic_folder
from ..base.progress import progress_bar
from ..base.strict_json import json_text
from ..data.example_rows import Examples
from ..data.tables import Table
from ..tasks.judge import answers
from ..tasks.kind import Kind
from ..tasks.releases import find_task
from ..tasks.spans import SAVED, Answer, Questions
from ..tasks.task import Task
from .predictor import Predictor

__all__ = ["answer", "answer_all", "questions_of", "say_all", "write_answers"]

# Questions whose windows are in memory at a time.
_CHUNK = 256


def questions_of(predictor: Predictor, named: Task | None = None, *, labelled: bool = True) -> Questions:
    """The kind of the model's task, with the strides, lengths and threshold from its folder.

    named: the task whose files are read; by default the one the model learned.
    Raises UserError when neither is known.
    """
    if named is None:
        name = predictor.task.get("task")
        if name is None:
            raise UserError(
                "the model's folder does not say what it was trained on; name it with --task squad or --task squad2"
            )
        named = find_task(name)
    assert named.spans is not None
    kept = {name: predictor.task[name] for name in SAVED if name in predictor.task}
    columns = named.columns if labelled else dataclasses.replace(named.columns, label=None)
    return Questions(
        dataclasses.replace(named, columns=columns, spans=dataclasses.replace(named.spans, **kept))
    )


def answer_all(
    predictor: Predictor,
    kind: Questions,
    examples: Examples,
    batch_size: int = 32,
    progress: str | None = None,
) -> Iterator[Answer]:
    """Answer the examples of `kind` in their order; memory holds the windows of a few hundred questions at a time."""
    with progress_bar(progress, len(examples)) as advance:
        for start in range(0, len(examples), _CHUNK):
            chunk = examples.select(range(start, min(start + _CHUNK, len(examples))))
            encoded = kind.encode(chunk, predictor.tokenizer, predictor.task["max_length"])
            spans = predictor.outputs(encoded.features, kind, batch_size)
            yield from kind.answers(spans, encoded)
            advance(len(chunk))


def say_all(
    predictor: Predictor, kind: Kind, examples: Examples, batch_size: int, progress: str | None = "predict"
) -> Iterator[dict[str, Any]]:
    """What each row of the output holds beside the input's columns."""
    if isinstance(kind, Questions):
        for found in answer_all(predictor, kind, examples, batch_size, progress):
            odds = {} if found.null_odds is None else {"null_odds": found.null_odds}
            yield {"prediction": found.text, "probability": round(found.probability, 6), **odds}
        return
    encoded = kind.encode(examples, predictor.tokenizer, predictor.task["max_length"])
    outputs = predictor.outputs(encoded.features, kind, batch_size, progress)
    gold = encoded.features["labels"][:] if "labels" in encoded.features.column_names else None
    yield from answers(kind, outputs, gold, encoded)


def answer(
    predictor: Predictor, questions: Sequence[str], contexts: Sequence[str], batch_size: int = 32
) -> list[Answer]:
    """Answer each question from its passage, as the pipeline "question-answering" of transformers 4 did.

    Raises UserError if a text is empty, or if the model does not say what it was trained on.
    """
    if len(questions) != len(contexts):
        raise ValueError(f"{len(questions)} questions on {len(contexts)} passages")
    kind = questions_of(predictor, labelled=False)
    columns: dict[str, list[Any]] = {
        "id": [str(number) for number in range(len(questions))],
        "question": list(questions),
        "context": list(contexts),
    }
    examples = kind.examples(Table("questions", columns, [None] * len(questions)))
    return list(answer_all(predictor, kind, examples, batch_size))


def write_answers(answers: Iterable[Answer], folder: Path) -> int:
    """Write the files of the official scripts into a folder; return the number of questions.

    predictions.json: id -> text, what evaluate-v1.1.py and evaluate-v2.0.py read. nbest_predictions.json: id -> texts
    with probability, score and the first character in the passage. null_odds.json: id -> log-odds of no answer, for
    `--na-prob-file` of evaluate-v2.0.py; not written where every question has an answer.
    """
    count = 0
    with atomic_folder(folder, overwrite=True) as inside:
        names = ("predictions.json", "nbest_predictions.json", "null_odds.json")
        files = [open(inside / name, "w", encoding="utf-8") for name in names]  # noqa: SIM115 - closed below
        has_odds = False
        try:
            for file in files:
                file.write("{")
            for count, found in enumerate(answers, start=1):
                best = [
                    {
                        "text": candidate.text,
                        "probability": round(candidate.probability, 6),
                        "score": candidate.score,
                        "answer_start": candidate.begin,
                    }
                    for candidate in found.best
                ]
                _write_entry(files[0], found.id, found.text, count)
                _write_entry(files[1], found.id, best, count)
                if found.null_odds is not None:
                    _write_entry(files[2], found.id, found.null_odds, count)
                    has_odds = True
            for file in files:
                file.write("\n}\n")
        finally:
            for file in files:
                file.close()
        if not has_odds:
            (inside / names[2]).unlink()
    return count


def _write_entry(file: TextIO, name: str, value: Any, number: int) -> None:
    comma = "," if number > 1 else ""
    file.write(f"{comma}\n{json_text(name, ensure_ascii=False)}: {json_text(value, ensure_ascii=False)}")
