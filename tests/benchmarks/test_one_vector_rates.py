"""Documents a second and their ratios, from seconds by hand."""

from __future__ import annotations

import one_vector


def test_rates_are_of_one_round_each():
    samples = {one_vector.BERT: [2.0, 4.0, 8.0], "one-vector-base": [1.0, 1.0, 2.0]}
    found = one_vector.rates(samples, 8)
    assert found["one-vector-base"]["documents_per_s"].median == 8
    assert found[one_vector.BERT]["documents_per_s"].median == 2
    ratio = found["one-vector-base"]["of_bert"]
    assert (ratio.q25, ratio.median, ratio.q75) == (3, 4, 4)
    assert found[one_vector.BERT]["of_bert"].median == 1


def test_the_subjects_are_all_there():
    names = {
        name: subject.config(512).name
        for name, subject in one_vector.make_subjects().items()
        if subject.family is None
    }
    assert names == {"B4-4-4H768": "B4-4-4H768", "one-vector-base": "B3-1-1-1-1-1-1-1-1-1H768"}
