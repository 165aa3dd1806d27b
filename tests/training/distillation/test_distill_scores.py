"""What is measured while a student learns, on numbers that a person can check."""

from __future__ import annotations

import json

import numpy as np
import pytest

from funnelformer.base.errors import UserError
from funnelformer.training.distillation.held_out import Agreement, neighbour_overlap, read_pairs
from funnelformer.training.distillation.linear_heads import read_heads
from funnelformer.training.distillation.retrieval import ranks, read_retrieval
from training.toy import write_table


class Told:
    """Gives each text the vector it was told."""

    def __init__(self, vectors):
        self.told = vectors

    def vectors(self, texts, advance=None):
        return np.array([self.told[text] for text in texts], dtype=np.float32)


def test_ranks_count_ties_against_the_right_one():
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    documents = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.2]])
    assert ranks(queries, documents, np.array([0, 2, 0])).tolist() == [1, 2, 2]


def test_retrieval_of_a_file_in_squads_form(tmp_path):
    questions = [{"id": "1", "question": "q1", "answers": []}, {"id": "2", "question": "q2", "answers": []}]
    paragraphs = [{"context": "c1", "qas": questions[:1]}, {"context": "c2", "qas": questions[1:]}]
    file = tmp_path / "reading.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    (retrieval,) = read_retrieval([str(file)])
    found = retrieval.measure(Told({"q1": [2, 0], "q2": [3, 1], "c1": [1, 0], "c2": [0, 1]}))
    # The passage of q1 is first, that of q2 second.
    assert found == {"mrr_reading": 0.75, "recall@10_reading": 1.0}
    file.write_text('{"question": "q", "context": " "}\n')
    with pytest.raises(UserError, match=r"reading.json: row 1.*column 'context' is empty"):
        read_retrieval([str(file)])


def test_correlation_with_people(tmp_path):
    rows = [("a", "b", 0), ("a", "c", 2), ("a", "d", 5)]
    file = write_table(tmp_path / "p.tsv", rows, ("sentence1", "sentence2", "label"))
    (pairs,) = read_pairs([str(file)])
    found = pairs.measure(Told({"a": [1, 0], "b": [0, 1], "c": [1, 1], "d": [5, 1]}))
    assert found == {"spearman_p": pytest.approx(1)}
    found = pairs.measure(Told({"a": [1, 0], "b": [1, 1], "c": [0, 1], "d": [5, 1]}))
    assert found == {"spearman_p": pytest.approx(0.5)}
    write_table(file, [("a", "b", "much")], ("sentence1", "sentence2", "label"))
    with pytest.raises(UserError, match=r"row 1 .line 2.: column 'label'"):
        read_pairs([str(file)])


def test_agreement_with_the_teacher():
    texts = [str(number) for number in range(12)]
    angles = np.linspace(0, 1, 12)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    told = Told(dict(zip(texts, 3 * vectors, strict=True)))
    found = Agreement(texts, vectors).measure(told)
    assert found == {"cosine": pytest.approx(1), "overlap@10": pytest.approx(1)}
    assert neighbour_overlap(vectors, vectors, 1) == 1
    # By turns of the circle the nearest two of four points are others.
    ours = np.array([[1, 0], [0.99, 0.1], [-1, 0], [-0.99, 0.1]])
    theirs = np.array([[1, 0], [-1, 0], [0.99, 0.1], [-0.99, 0.1]])
    assert neighbour_overlap(ours, theirs, 1) == 0


def test_a_head_on_vectors(tmp_path):
    rows = [(f"{'good' if number % 2 else 'bad'} {number}", number % 2) for number in range(60)]
    file = write_table(tmp_path / "t.tsv", rows)
    (head,) = read_heads([str(file)])
    assert len(head.test[0]) + len(head.train[0]) == 60
    assert not set(head.test[0]) & set(head.train[0])
    told = Told({text: [1, label] for text, label in rows})
    assert head.measure(told) == {"accuracy_t": 1.0}
