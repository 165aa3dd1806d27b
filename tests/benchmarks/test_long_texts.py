"""What the benchmark of long texts reads, and how its tables say what was not run."""

from __future__ import annotations

import argparse
import json
import sys

import long_texts
import numpy as np
import zstandard

from funnelformer.data.tokenizer import load_tokenizer


def test_texts_to_learn_from_are_whole_paragraphs_of_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(long_texts, "FEWEST_WORDS", 3)
    monkeypatch.setattr(long_texts, "MOST_WORDS", 3)
    file = tmp_path / "corpus.txt"
    file.write_text("a b\nc d\ne f g h\ni\n\nj k l\n")
    assert sorted(long_texts.make_texts([str(file)], 10)) == ["a b c d", "e f g h", "j k l"]
    assert len(long_texts.make_texts([str(file)], 2)) == 2


def test_halves_of_a_document_have_as_many_tokens(toy, tmp_path, monkeypatch):
    """Each up to the most that is read, the second from where the first ends; short documents are left out."""
    monkeypatch.setattr(long_texts, "LENGTH", 7)  # five tokens beside the special ones
    monkeypatch.setattr(long_texts, "DOCUMENTS", {"some": 4})
    documents = ["the cat sleeps .", "the cat the dog the\ncow the cat the dog the cow", "the cat"]
    (tmp_path / "corpus").mkdir()
    content = "\n\n".join(documents).encode()
    (tmp_path / "corpus" / "some.txt.zst").write_bytes(zstandard.compress(content))
    options = argparse.Namespace(data=tmp_path, documents=10)
    tokenizer = load_tokenizer(toy.tokenizer)
    first, second = long_texts.halves(tokenizer, "some", options)
    assert first[1] == "the cat the dog the"
    assert second[1] == "cow the cat the dog"
    for one, two in zip(first, second, strict=True):
        assert len(tokenizer(one)["input_ids"]) == len(tokenizer(two)["input_ids"]) <= 7
    assert len(first) == 2
    assert long_texts.cut_texts(tokenizer, [documents[0]], 1, 3) == ["cat sleeps"]


def test_a_document_finds_its_half():
    near = np.eye(3, dtype=np.float32)
    assert long_texts.mrr(near, near) == 1
    assert long_texts.mrr(near, near[[1, 2, 0]]) == np.mean(
        [1 / 3, 1 / 3, 1 / 3]
    )  # alike ones count as before it


def test_tables_say_what_was_not_run(tmp_path, monkeypatch, capsys):
    scores = {score: 0.5 for score, _ in long_texts.score_names()}
    seconds = {name: [2.0, 4.0, 3.0] for name in (*long_texts.WAYS, *long_texts.UNTRAINED)}
    seconds["hybrid, one piece"] = [1.0, 4.0, 1.5]
    file = tmp_path / "long_texts.json"
    words = {"reviews": 0.75, "brown_mrr": 0.5, "un_general_debate_2_mrr": 0.25}
    cells = [{"way": long_texts.TEACHER, "scores": scores}, {"way": long_texts.TF_IDF, "scores": words}]
    file.write_text(json.dumps({"cells": cells, "times": [{"length": 2048, "seconds_per_1000": seconds}]}))
    monkeypatch.setattr(sys, "argv", ["long_texts.py", "--report", "--results", str(file)])
    long_texts.main()
    lines = capsys.readouterr().out.splitlines()
    assert "| teacher, windows of 256 |" + " 50.0 |" * 9 in lines
    assert "| hybrid, one piece |" + " not run |" * 9 in lines
    assert "| TF-IDF | 75.0 | 50.0 | 25.0 |" + "  |" * 6 in lines
    assert "| teacher, windows of 256 | 3.0 s |" in lines
    assert "| hybrid, one piece | 1.5 s, 0.50 (0.50 to 1.00) |" in lines
