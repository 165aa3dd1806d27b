"""RACE's folders, and files of its form: every question of every article, or the line of what is wrong."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch

from data.support import error_of, number_tokenizer, words, write
from funnelformer.data.bad_rows import BadRows
from funnelformer.tasks.kinds import kind_of
from funnelformer.tasks.releases import TASKS
from funnelformer.tasks.task import read_part

PASSAGE = "A cat sat on a mat."


def article(name="middle1.txt", **changes):
    fields = {
        "article": PASSAGE,
        "questions": ["Who sat?", "Where?"],
        "options": [["A cat.", "A dog.", "A cow.", "A fish."], ["Here.", "There.", "On a mat.", "In it."]],
        "answers": ["A", "C"],
        "id": name,
    }
    return json.dumps(fields | changes)


def read(name, source, part="train", bad=None):
    task = TASKS[name]
    bad = bad or BadRows()
    return kind_of(task).examples(read_part(task, str(source), task.part(part), bad), bad)


@pytest.fixture
def race(tmp_path):
    folder = tmp_path / "RACE" / "train"
    for level in ("middle", "high"):
        (folder / level).mkdir(parents=True)
    write(folder / "middle" / "10.txt", article())
    write(
        folder / "middle" / "9.txt",
        article(questions=["Why?"], options=[["1", "2", "3", "4"]], answers=["D"]),
    )
    write(folder / "high" / "1.txt", article(answers=["B", "B"]))
    return tmp_path


def test_the_folders_of_race(race):
    rows = list(read("race", race))
    assert rows[0] == {
        "article": PASSAGE, "question": "Why?", "options": ["1", "2", "3", "4"], "label": 3, "level": "middle"
    }  # fmt: skip
    assert [(row["question"], row["label"], row["level"]) for row in rows[1:]] == [
        ("Who sat?", 0, "middle"),
        ("Where?", 2, "middle"),
        ("Who sat?", 1, "high"),
        ("Where?", 1, "high"),
    ]
    assert read("racehigh", race)["label"] == [1, 1]
    assert len(read("racemiddle", race / "RACE")) == 3


def test_lines_of_json(tmp_path):
    """The level is in the name of the article; other names are of no level."""
    write(tmp_path / "dev.jsonl", "\n".join([article(), article("high7.txt"), article("mc160")]))
    assert read("race", tmp_path, "dev")["level"] == ["middle", "middle", "high", "high", "", ""]
    assert read("racehigh", tmp_path, "dev")["level"] == ["high", "high", "", ""]


def test_the_hubs_form_has_a_question_a_row(tmp_path):
    fields = {"article": PASSAGE, "question": "Why?", "options": ["a", "b", "c", "d"], "answer": "B"}
    rows = [{"example_id": f"{level}1.txt", **fields} for level in ("high", "middle")]
    write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(str(tmp_path / "saved"))
    for source in (tmp_path, tmp_path / "saved"):
        (high,) = read("racehigh", source)
        assert high == {
            "article": PASSAGE, "question": "Why?", "options": ["a", "b", "c", "d"], "label": 1, "level": "high"
        }  # fmt: skip
        assert read("race", source)["level"][:] == ["high", "middle"]
        assert read("racemiddle", source)["level"][:] == ["middle"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"options": [["a", "b", "c", "d", "e"], ["a", "b", "c", "d"]]},
            ", question 1: 5 options, 4 are needed",
        ),
        ({"options": [["a", "b", "c", "d"], ["a", "b", "c"]]}, ", question 2: 3 options, 4 are needed"),
        ({"options": [["a", "b", "c", "d"]]}, ": questions, options and answers are no lists of one length"),
        ({"options": [["a", "b", "c", " "], ["a", "b", "c", "d"]]}, ", question 1: an option is empty"),
        ({"answers": ["A", "E"]}, ", question 2: the answer is 'E', not one of A, B, C, D"),
        ({"answers": ["A", None]}, ", question 2: the answer is None, not one of A, B, C, D"),
        ({"article": ""}, ", question 1: article is empty"),
        ({"questions": None}, ": no field 'questions'"),
    ],
)
def test_bad_questions_name_the_line(tmp_path, changes, problem):
    path = write(tmp_path / "train.jsonl", f"{article()}\n{article(**changes)}\n")
    assert error_of(read, "race", path) == f"{path}: line 2{problem}"
    bad = BadRows(skip=True)
    assert 2 <= len(read("race", path, bad=bad)) <= 3
    assert bad.problems[0] == f"{path}: line 2{problem}"


def test_bad_files_of_race(race, tmp_path):
    path = write(race / "RACE" / "train" / "high" / "2.txt", "{")
    assert error_of(read, "race", race).startswith(f"{path}: line 1: not valid JSON (")
    bad = BadRows(skip=True)
    assert len(read("race", race, bad=bad)) == 5
    assert len(bad.problems) == 1
    message = error_of(read, "race", race, "dev")
    assert message == f"{race}: no dev or dev.jsonl in this folder, nor in RACE in it: the dev part of race"


def test_any_number_of_options(tmp_path):
    rows = article(options=[["a", "b", "c"], ["d", "e", "f"]])
    write(tmp_path / "train.jsonl", rows)
    examples = read("choice", tmp_path)
    assert kind_of(TASKS["choice"]).label_names(examples) == ("A", "B", "C")
    write(tmp_path / "dev.jsonl", f"{rows}\n{article()}")
    assert error_of(read, "choice", tmp_path, "dev").endswith("line 2, question 1: 4 options, 3 are needed")


# ---- what the model reads and how it is scored


def examples_of(article, question, options, labels=(0,), levels=("",)):
    number = len(labels)
    return datasets.Dataset.from_dict(
        {
            "article": [article] * number,
            "question": [question] * number,
            "options": [options] * number,
            "label": list(labels),
            "level": list(levels),
        }
    )


@pytest.fixture(scope="module")
def tokenizer():
    """Numbers are tokens; a pair is <cls> A <sep> B <sep> in the segments 2, 0, 0, 1, 1."""
    from tokenizers import processors

    tokenizer = number_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls>:2 $A:0 <sep>:0",
        pair="<cls>:2 $A:0 <sep>:0 $B:1 <sep>:1",
        special_tokens=[("<cls>", 1), ("<sep>", 2)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def test_question_with_option_then_passage(tokenizer):
    kind = kind_of(TASKS["choice"])
    examples = examples_of("50 51 52", "10 11", ["20", "21 22"])
    encoded = kind.encode(examples, tokenizer, 9)
    assert encoded.features["input_ids"][0] == [
        [1, 10, 11, 20, 2, 50, 51, 52, 2],
        [1, 10, 11, 21, 22, 2, 50, 51, 2],
    ]
    assert encoded.features["token_type_ids"][0][1] == [2, 0, 0, 0, 0, 0, 1, 1, 1]
    assert encoded.features["length"][:] == [9]
    assert encoded.num_cut == 1
    whole = kind.encode(examples, tokenizer, 10)
    assert (whole.num_cut, whole.features["length"][:]) == (0, [10])
    assert kind.lengths(examples, tokenizer).tolist() == [10]


def test_of_a_long_question_the_end_is_kept(tokenizer):
    """128 tokens of question and option, the rest of 140 for the passage."""
    kind = kind_of(TASKS["choice"])
    examples = examples_of(words(500, 600), words(10, 200), ["7", "8 9"])
    (one, two) = kind.encode(examples, tokenizer, 140).features["input_ids"][0]
    assert one == [1, *range(73, 200), 7, 2, *range(500, 509), 2]
    assert two[1:129] == [*range(74, 200), 8, 9]
    assert kind.encode(examples, tokenizer, 20).features["input_ids"][0][0] == [1, *range(184, 200), 7, 2, 2]


def test_a_batch_is_padded_to_its_longest(tokenizer):
    kind = kind_of(TASKS["choice"])
    features = [
        {"input_ids": [[1, 5, 2], [1, 2]], "token_type_ids": [[2, 0, 0], [2, 0]],
         "attention_mask": [[1, 1, 1], [1, 1]], "labels": 1},
        {"input_ids": [[1, 2], [1, 2]], "token_type_ids": [[2, 0], [2, 0]],
         "attention_mask": [[1, 1], [1, 1]], "labels": 0},
    ]  # fmt: skip
    batch = kind.collator(tokenizer)(features)
    assert batch["input_ids"].tolist() == [[[1, 5, 2], [1, 2, 0]], [[1, 2, 0], [1, 2, 0]]]
    assert batch["attention_mask"][0, 1].tolist() == [1, 1, 0]
    assert torch.equal(batch["labels"], torch.tensor([1, 0]))
    assert "labels" not in kind.collator(tokenizer)(
        [{name: row for name, row in features[0].items() if name != "labels"}]
    )


def test_accuracy_by_level(tokenizer):
    """Of four: both of middle right, one of two of high."""
    kind = kind_of(TASKS["race"])
    labels, levels = (0, 1, 2, 3), ("middle", "middle", "high", "high")
    encoded = kind.encode(examples_of("5", "6", ["7", "8", "9", "10"], labels, levels), tokenizer, 20)
    logits = np.eye(4)[[0, 1, 2, 0]]
    assert kind.score(logits, labels, encoded) == {
        "accuracy": 0.75, "middle_accuracy": 1.0, "high_accuracy": 0.5
    }  # fmt: skip
    without = kind.encode(examples_of("5", "6", ["7", "8", "9", "10"], labels, ("",) * 4), tokenizer, 20)
    assert kind.score(logits, labels, without) == {"accuracy": 0.75}
