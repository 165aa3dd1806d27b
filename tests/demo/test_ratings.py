"""The rated sentences: which are kept, what label and which part they get, and what is refused."""

from __future__ import annotations

import hashlib

import pytest
from ratings import read_table, write_tables

from demo.archives import OUTER, package, rated, tar


def test_weak_ratings_and_repeats_are_left_out(tmp_path):
    rows = [
        "1\t1.2\tFine  work.",
        "2\t0.49\tA thing.",
        "3\t-0.5\tNot my cup of tea.",
        "4\t-3\tfine work.",
        '5\t3\tSays "yes".',
    ]
    numbers = write_tables(package({"products": rows}), tmp_path)
    assert read_table(tmp_path / "products.tsv") == (
        ["Fine work.", "Not my cup of tea.", 'Says "yes".'],
        ["positive", "negative", "positive"],
    )
    assert numbers["products"] == 3
    assert numbers["tweets"] == numbers["editorials"] == 2


def test_a_film_sentence_is_in_the_part_that_its_text_says(tmp_path):
    texts = [f"Film number {number}" for number in range(40)]
    write_tables(package({"films": [f"{i}\t1.0\t{text}" for i, text in enumerate(texts)]}), tmp_path)
    parts = {part: read_table(tmp_path / f"films-{part}.tsv")[0] for part in ("train", "dev", "test")}
    tenths = {text: int(hashlib.sha1(text.lower().encode()).hexdigest(), 16) % 10 for text in texts}
    assert parts["test"] == [text for text in texts if tenths[text] in (0, 1)]
    assert parts["dev"] == [text for text in texts if tenths[text] == 2]
    assert parts["train"] == [text for text in texts if tenths[text] > 2]


def test_nothing_but_the_ratings_is_unpacked(tmp_path):
    write_tables(package({}), tmp_path / "tables")
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]
    assert all(path.suffix == ".tsv" for path in (tmp_path / "tables").iterdir())


def test_an_archive_without_the_ratings_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"the archive has no {OUTER}"):
        write_tables(tar({"other": b""}), tmp_path)


def test_a_link_in_place_of_the_ratings_is_not_followed(tmp_path):
    inner = tar({rated("products"): b"1\t1\tgood"}, links={rated("films"): "/etc/hostname"})
    with pytest.raises(ValueError, match="not a plain file"):
        write_tables(tar({OUTER: inner}), tmp_path)
    assert not list(tmp_path.iterdir())
