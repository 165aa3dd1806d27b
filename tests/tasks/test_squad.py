"""SQuAD's files: every question or the line of what is wrong; windows, and answers by hand."""

from __future__ import annotations

import dataclasses
import json

import datasets
import numpy as np
import pytest
from tokenizers import processors

from data.support import error_of, number_tokenizer, words, write
from funnelformer.data.bad_rows import BadRows
from funnelformer.tasks.passages import token_span, widest_context
from funnelformer.tasks.releases import TASKS
from funnelformer.tasks.spans import Questions
from funnelformer.tasks.task import read_part

PASSAGE = "A cat sat on a mat, then ate."


def question(name="q1", answers=(("cat", 2),), **changes):
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "Who sat?", "answers": found} | changes


def release(*questions, context=PASSAGE):
    return json.dumps(
        {"version": "x", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": questions}]}]}
    )


def read(name, source, part="train", bad=None):
    task = TASKS[name]
    bad = bad or BadRows()
    return Questions(task).examples(read_part(task, str(source), task.part(part), bad), bad)


def test_the_form_of_the_release(tmp_path):
    folder = tmp_path / "SQuAD"
    folder.mkdir()
    write(folder / "train-v1.1.json", release(question(), question("q2", [("mat", 15), ("a mat", 13)])))
    write(
        folder / "dev-v2.0.json",
        release(question("q3", (), is_impossible=True), question("q4", is_impossible=False)),
    )
    assert list(read("squad", tmp_path)) == [
        {"id": "q1", "context": PASSAGE, "question": "Who sat?", "texts": ["cat"], "starts": [2]},
        {
            "id": "q2",
            "context": PASSAGE,
            "question": "Who sat?",
            "texts": ["mat", "a mat"],
            "starts": [15, 13],
        },
    ]
    assert read("squad2", tmp_path, "dev")["texts"][:] == [[], ["cat"]]
    assert read("squad", folder / "train-v1.1.json")["id"][:] == ["q1", "q2"]
    assert error_of(read, "squad2", tmp_path) == (
        f"{tmp_path}: no train-v2.0.json or train.json or train.jsonl or train.parquet in this folder, nor in SQuAD or "
        "squad or squad2 in it: the train part of squad2"
    )


def test_the_flattened_form(tmp_path):
    """As the Hub has it: in lines, in an array, in `data`, or in a folder that `datasets` wrote."""
    rows = [
        {"id": "q1", "title": "T", "context": PASSAGE, "question": "Who?",
         "answers": {"text": ["cat"], "answer_start": [2]}},
        {"id": "q2", "title": "T", "context": PASSAGE, "question": "Why?", "answers": {"text": [], "answer_start": []}},
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write(tmp_path / "train.jsonl", lines)
    write(tmp_path / "lines.json", lines)
    write(tmp_path / "array.json", json.dumps(rows, indent=1))
    write(tmp_path / "data.json", json.dumps({"data": rows}))
    write(tmp_path / "one.json", json.dumps(rows[0]))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    expected = read("squad2", tmp_path).to_dict()
    assert (expected["texts"], expected["starts"]) == ([["cat"], []], [[2], []])
    for name in ("lines.json", "array.json", "data.json", "saved"):
        assert read("squad2", tmp_path / name).to_dict() == expected, name
    assert read("squad2", tmp_path / "one.json")["id"][:] == ["q1"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"answers": [{"text": "mat", "answer_start": 27}]},
         "the answer 'mat' at characters 27 to 30 is outside of the passage, which has 29"),
        ({"answers": [{"text": "mat", "answer_start": -1}]},
         "the answer 'mat' at characters -1 to 2 is outside of the passage, which has 29"),
        ({"answers": [{"text": "mat", "answer_start": 2}]},
         "the answer 'mat' is not at character 2, where the passage has 'cat'"),
        ({"answers": [{"text": "", "answer_start": 2}]}, "an answer is empty"),
        ({"answers": [{"text": "cat", "answer_start": 2.0}]}, "answer_start is 2.0, not a whole number"),
        ({"answers": "cat"}, "answers are 'cat', not lists of text and answer_start"),
        ({"answers": []}, "has no answer; squad2 is the task of questions that may lack one"),
        ({"is_impossible": True}, "has answers, but is_impossible says that there are none"),
        ({"question": None}, "no question"),
        ({"question": " "}, "question is empty"),
        ({"question": "\ud800"}, "question has half of a surrogate pair, which is not a character"),
        ({"id": "q1"}, "another question has this id"),
    ],
)  # fmt: skip
def test_bad_questions_name_their_place(tmp_path, changes, problem):
    """In a file of the release by article, paragraph and question; in lines by line; and by id."""
    bad_row = question("q2") | changes
    name = bad_row["id"]
    path = write(tmp_path / "train.json", release(question(), bad_row, question("q3")))
    message = f"{path}: article 1, paragraph 1, question 2 (id {name!r}): {problem}"
    assert error_of(read, "squad", path) == message
    bad = BadRows(skip=True)
    assert read("squad", path, bad=bad)["id"][:] == ["q1", "q3"]
    assert bad.problems == [message]
    rows = [question(), bad_row, question("q3")]
    path = write(
        tmp_path / "train.jsonl", "".join(json.dumps({"context": PASSAGE, **row}) + "\n" for row in rows)
    )
    assert error_of(read, "squad", path) == f"{path}: row 2 (line 2) (id {name!r}): {problem}"


def test_questions_without_an_answer(tmp_path):
    path = write(tmp_path / "train.json", release(question("q1", (), is_impossible=False)))
    assert error_of(read, "squad2", path).endswith(
        "(id 'q1'): has no answer, but is_impossible says that there is one"
    )
    path = write(tmp_path / "train.json", release(question(None)))
    assert error_of(read, "squad2", path) == f"{path}: article 1, paragraph 1, question 1: has no id"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"data": [', ": line 1: not valid JSON ("),
        ('{\n"data": [],,}', ": line 2: not valid JSON ("),
        ('{"date": []}', ": no list 'data' in it, as the files of SQuAD have"),
        ('{"data": []}', ": there are no rows of data in it"),
        ('{"data": [3]}', ": article 1: is no JSON object"),
        ('{"data": [{"paragraphs": 3}]}', ": article 1: no list 'paragraphs'"),
        ('{"data": [{"paragraphs": [{"context": "x"}]}]}', ": article 1, paragraph 1: no list 'qas'"),
        (
            '{"data": [{"paragraphs": [{"qas": [7]}]}]}',
            ": article 1, paragraph 1, question 1: is no JSON object",
        ),
        ("7", ": expected a JSON object of columns, found int"),
    ],
)
def test_files_that_are_no_squad(tmp_path, content, problem):
    path = write(tmp_path / "train.json", content)
    assert error_of(read, "squad2", path).startswith(f"{path}{problem}")


# ---- windows


@pytest.fixture(scope="module")
def tokenizer():
    """Numbers are tokens; a pair is <cls> A <sep> B <sep> in the segments 2, 0, 0, 1, 1."""
    tokenizer = number_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls>:2 $A:0 <sep>:0",
        pair="<cls>:2 $A:0 <sep>:0 $B:1 <sep>:1",
        special_tokens=[("<cls>", 1), ("<sep>", 2)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def kind_of(name="squad2", **spans):
    task = TASKS[name]
    return Questions(dataclasses.replace(task, spans=dataclasses.replace(task.spans, **spans)))


def examples_of(context, texts=(), starts=(), asked="10 11"):
    row = {"id": "q", "context": context, "question": asked, "texts": list(texts), "starts": list(starts)}
    return datasets.Dataset.from_list([row])


def test_windows_of_a_passage(tokenizer):
    """Ten tokens 20 .. 29 in windows of 9: four of the passage, two apart. "23 24" is whole in the second alone."""
    kind = kind_of(doc_stride=2)
    encoded = kind.encode(examples_of(words(20, 30), ["23 24"], [9]), tokenizer, 9)
    features = encoded.features.to_dict()
    assert features["input_ids"] == [
        [1, 10, 11, 2, 20, 21, 22, 23, 2],
        [1, 10, 11, 2, 22, 23, 24, 25, 2],
        [1, 10, 11, 2, 24, 25, 26, 27, 2],
        [1, 10, 11, 2, 26, 27, 28, 29, 2],
    ]
    assert features["token_type_ids"][0] == [2, 0, 0, 0, 1, 1, 1, 1, 1]
    assert features["answer_mask"][3] == [1, 0, 0, 0, 1, 1, 1, 1, 0]
    assert features["start_positions"] == [0, 5, 0, 0]
    assert features["end_positions"] == [0, 6, 0, 0]
    assert features["first"] == [0, 2, 4, 6]
    # Context of the four places: 0, 1, 1, 0. Token 3 has 0 in the first window and 1 in the second.
    assert features["widest"] == [[0, 3], [3, 5], [5, 7], [7, 10]]
    assert (encoded.num_cut, kind.remark(encoded, 9)) == (0, "1 questions in 4 windows of 9 tokens")


def test_the_last_window_may_be_shorter(tokenizer):
    features = kind_of(doc_stride=2).encode(examples_of(words(20, 31)), tokenizer, 9).features
    assert features["input_ids"][-1] == [1, 10, 11, 2, 28, 29, 30, 2]
    assert features["size"][:] == [4, 4, 4, 4, 3]
    whole = kind_of(doc_stride=2).encode(examples_of(words(20, 24)), tokenizer, 9).features
    assert (whole["input_ids"][:], whole["widest"][:]) == ([[1, 10, 11, 2, 20, 21, 22, 23, 2]], [[0, 4]])


def test_windows_touch_when_the_stride_is_wider(tokenizer):
    """And no token is between two of them."""
    features = kind_of(doc_stride=100).encode(examples_of(words(20, 30)), tokenizer, 9).features
    assert [ids[4:-1] for ids in features["input_ids"][:]] == [[20, 21, 22, 23], [24, 25, 26, 27], [28, 29]]


def test_long_questions_keep_their_beginning(tokenizer):
    encoded = kind_of().encode(examples_of("500", asked=words(10, 110)), tokenizer, 200)
    assert encoded.features["input_ids"][0] == [1, *range(10, 74), 2, 500, 2]
    assert encoded.num_cut == 1
    short = kind_of().encode(examples_of("500 501 502", asked=words(10, 110)), tokenizer, 9).features
    assert short["input_ids"][0] == [1, 10, 11, 12, 2, 500, 501, 502, 2]
    assert error_of(kind_of().encode, examples_of("5"), tokenizer, 7) == (
        "--max-length is 7; a question with a passage needs 8 or more"
    )


def test_the_widest_context_by_hand():
    # Sizes 5 and 3: contexts 0 1 2 1 0 + 0.05 and 0 1 0 + 0.03; token 3 is at 1.05 and 0.03, token 4 at 0.05 and 1.03.
    assert widest_context([0, 3], [5, 3]) == [(0, 4), (4, 6)]
    # The second window holds nothing that the first does not show as well.
    assert widest_context([0, 2], [9, 3]) == [(0, 9), (2, 2)]
    assert widest_context([0], [0]) == [(0, 0)]


def test_characters_to_tokens():
    offsets = [(0, 1), (2, 5), (5, 6), (8, 9)]  # "a cat.  b"
    assert token_span(offsets, 2, 5) == (1, 1)
    assert token_span(offsets, 3, 6) == (1, 2)  # from inside of a token
    assert token_span(offsets, 1, 9) == (1, 3)
    assert token_span(offsets, 6, 8) is None


def test_an_answer_of_no_token_is_left_out_of_the_loss(tokenizer):
    """The tokenizer drops a control character; the row is counted."""
    kind = kind_of()
    encoded = kind.encode(examples_of("20 \x01 21", ["\x01"], [3]), tokenizer, 20)
    assert min(encoded.features["start_positions"][:]) > 20
    assert kind.remark(encoded, 20).endswith("; 1 with an answer of no token left out")


# ---- answers


def spans_of(windows):
    """(odds, spans) of each window -> what `best_spans` gives."""
    array = np.zeros((len(windows), 21, 3))
    array[:, 1:, 2] = -np.inf
    for row, (odds, spans) in enumerate(windows):
        array[row, 0, 2] = odds
        for number, span in enumerate(spans, start=1):
            array[row, number] = span
    return array


WINDOWS = (
    (2.0, [(7, 7, 9.0), (4, 5, 1.0)]),  # token 3 is seen better in the second window; 20 21
    (-1.0, [(5, 6, 3.0), (5, 5, 2.0)]),  # 23 24; 23
    (3.0, [(5, 6, 0.0), (4, 4, 8.0)]),  # 25 26; token 4 is the second window's
    (4.0, [(8, 8, 9.0), (100, 101, 7.0)]),  # behind the window's passage, as padding between processes
)


def test_answers_are_substrings_by_their_characters(tokenizer):
    kind = kind_of(doc_stride=2)
    encoded = kind.encode(examples_of(words(20, 30), ["23 24"], [9]), tokenizer, 9)
    (answer,) = kind.answers(spans_of(WINDOWS), encoded)
    assert (answer.id, answer.text, answer.null_odds) == ("q", "23 24", -1.0)
    shown = [(c.text, c.begin, c.end, c.score) for c in answer.best if c.text]
    assert shown == [("23 24", 9, 14, 3.0), ("23", 9, 11, 2.0), ("20 21", 0, 5, 1.0), ("25 26", 15, 20, 0.0)]
    for text, begin, end, _ in shown:
        assert words(20, 30)[begin:end] == text
    # No answer has sigmoid(-1); the others share the rest by softmax of 3, 2, 1, 0.
    null = 1 / (1 + np.e)
    shares = np.exp([3, 2, 1, 0]) / np.exp([3, 2, 1, 0]).sum()
    expected = sorted([null, *((1 - null) * shares)], reverse=True)
    assert [c.probability for c in answer.best] == pytest.approx(expected)
    assert kind.score(spans_of(WINDOWS), None, encoded)["exact"] == 100.0


def test_odds_above_the_threshold_are_no_answer(tokenizer):
    encoded = kind_of(doc_stride=2).encode(examples_of(words(20, 30)), tokenizer, 9)
    (answer,) = kind_of(doc_stride=2, null_threshold=-2.0).answers(spans_of(WINDOWS), encoded)
    assert (answer.text, answer.spoken, answer.probability) == ("", "23 24", pytest.approx(1 / (1 + np.e)))
    (answer,) = kind_of("squad", doc_stride=2, null_threshold=-2.0).answers(spans_of(WINDOWS), encoded)
    assert (answer.text, answer.null_odds) == ("23 24", None)
    assert sum(c.probability for c in answer.best) == pytest.approx(1)


def test_equal_texts_are_one_candidate(tokenizer):
    kind = kind_of("squad")
    encoded = kind.encode(examples_of("20 21 20", ["20"], [0]), tokenizer, 20)
    (answer,) = kind.answers(spans_of([(0.0, [(6, 6, 2.0), (4, 4, 1.0)])]), encoded)
    assert [(c.text, c.begin, c.probability) for c in answer.best] == [("20", 6, 1.0)]


def test_nothing_to_say(tokenizer):
    """A passage of no token: the empty answer, which is right where there is none."""
    kind = kind_of()
    encoded = kind.encode(examples_of("\x01"), tokenizer, 20)
    assert encoded.features["input_ids"][:] == [[1, 10, 11, 2, 2]]
    (answer,) = kind.answers(spans_of([(-3.0, [])]), encoded)
    assert (answer.text, answer.spoken) == ("", "")
    assert kind.score(spans_of([(-3.0, [])]), None, encoded)["exact"] == 100.0
