"""The order of the slow tests, and the list of those for which there was no time."""

from __future__ import annotations

from pathlib import Path

from slow_order import FIRST, not_begun, place

ROOT = Path(__file__).parents[1]


def test_what_comes_first_is_there_and_slow():
    for name in FIRST:
        assert "mark.slow" in (ROOT / name).read_text(encoding="utf-8"), name


def test_the_telling_ones_come_first_and_those_of_many_cases_last():
    tests = [("tests/a.py::b", True, 21), ("tests/a.py::c", True, 20), ("tests/d.py::e", False, 400)]
    tests += [(f"{name}::f", True, 1) for name in reversed(FIRST)]
    assert place("tests/z.py::t", False, 1, traces=True) < place("tests/d.py::e", False, 400)
    ordered = [name.partition("::")[0] for name, *_ in sorted(tests, key=lambda test: place(*test))]
    assert ordered == ["tests/d.py", *FIRST, "tests/a.py", "tests/a.py"]


def test_those_not_begun_are_named_with_their_number():
    assert not_begun(["a.py::x[2]", "a.py::y", "a.py::x[1]"]) == ["a.py::x: 2 cases", "a.py::y"]
