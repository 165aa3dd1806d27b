"""ListOps: values against literal cases and a second evaluator, lengths against their exact distribution."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from funnelformer.base.errors import UserError
from funnelformer.lra import listops
from funnelformer.lra.listops import (
    TOKENS,
    Grammar,
    Sample,
    encode,
    evaluate,
    generate,
    generate_distinct,
    read_listops,
    with_brackets,
    write_listops,
)

SMALL = Grammar(max_depth=5, max_args=4, min_length=3, max_length=40)


def draw(grammar: Grammar, count: int, seed: int = 0) -> list[Sample]:
    return list(islice(generate(grammar, seed), count))


INNERMOST = re.compile(r"\[(MIN|MAX|MED|SM)((?: \d)+) \]")
MEANINGS = {
    "MIN": min,
    "MAX": max,
    "MED": lambda values: int(statistics.median(values)),
    "SM": lambda values: sum(values) % 10,
}


def rewritten(source: str) -> int:
    """The value by the published grammar alone: operations on digits become digits, from the innermost on."""
    while source.startswith("["):
        source, count = INNERMOST.subn(lambda m: str(MEANINGS[m[1]](list(map(int, m[2].split())))), source)
        assert count
    return int(source)


def length_probabilities(grammar: Grammar) -> np.ndarray:
    """P(n tokens) for n < max_length of the unconditioned process: from the deepest level up, by convolution."""
    size = grammar.max_length
    digit = np.zeros(size)
    digit[1] = 1
    below = digit
    for _ in range(grammar.max_depth - 1):
        level, power = 0.75 * digit, below
        for _ in range(2, grammar.max_args + 1):
            power = np.convolve(power, below)[:size]
            level[2:] += 0.25 / (grammar.max_args - 1) * power[: size - 2]
        below = level
    return below


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 3 [MAX 1 2 ] 5 ]", 2),
        ("[SM 9 9 9 ]", 7),
        ("[MED 9 1 4 ]", 4),
        ("[MED 9 1 4 3 ]", 3),  # 3.5, its integer part
        ("[MED 0 9 ]", 4),
        ("[SM [MED 1 8 8 ] [MAX 5 6 ] [MIN 0 3 ] ]", 4),
        ("( ( ( [MAX 2 ) ( ( ( [SM 8 ) 9 ) ] ) ) ] )", 7),
    ],
)
def test_evaluate(source, value):
    assert evaluate(source) == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the expression is not complete"),
        ("[MAX 1 2", "the expression is not complete"),
        ("[MAX ]", "token 2, ']', is not allowed here"),
        ("1 2", "token 2, '2', comes after the end of the expression"),
        ("[MAX 1 2 ] ]", "token 5, ']', comes after the end of the expression"),
        ("[AVG 1 2 ]", "token 1, '[AVG', is not allowed here"),
        ("[MAX 1 10 ]", "token 3, '10', is not allowed here"),
    ],
)
def test_evaluate_says_what_is_wrong(source, message):
    with pytest.raises(ValueError, match=r".") as error:
        evaluate(source)
    assert str(error.value) == message


def test_round_brackets():
    assert with_brackets("[MAX 2 9 ]") == "( ( ( [MAX 2 ) 9 ) ] )"
    nested = "( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) ] )"
    assert with_brackets("[MAX 2 9 [MIN 4 7 ] ]") == nested


def test_ids():
    assert list(encode("( ( ( [MED 0 ) 9 ) ] )")) == [13, 1, 10, 15]
    assert [TOKENS[number] for number in (0, 1, 10, 11, 12, 13, 14, 15)] == [
        *("<pad>", "0", "9", "[MIN", "[MAX", "[MED", "[SM", "]")
    ]


@pytest.mark.parametrize("grammar", [SMALL, Grammar()], ids=["small", "published"])
def test_targets_are_the_values(grammar):
    samples = draw(grammar, 2000 if grammar is SMALL else 200)
    for source, target in samples:
        assert rewritten(source) == target
        assert evaluate(source) == target
        assert evaluate(with_brackets(source)) == target
        assert grammar.min_length < len(source.split()) < grammar.max_length
    assert len({target for _, target in samples}) == 10


@pytest.mark.parametrize("limits", [(3, 40), (10, 24)])
def test_lengths_have_the_published_distribution(limits):
    """Every length within 4.5 standard errors of its exact probability, given that it is kept."""
    grammar = Grammar(max_depth=5, max_args=4, min_length=limits[0], max_length=limits[1])
    exact = length_probabilities(grammar)
    exact[: grammar.min_length + 1] = 0
    exact /= exact.sum()
    count = 20_000
    lengths = Counter(len(sample.source.split()) for sample in draw(grammar, count, seed=1))
    for length, probability in enumerate(exact):
        error = (count * probability * (1 - probability)) ** 0.5
        assert abs(lengths[length] - count * probability) <= 4.5 * error, length


def test_published_limits_have_the_published_mean_length():
    grammar = Grammar()
    exact = length_probabilities(grammar)
    exact[: grammar.min_length + 1] = 0
    exact /= exact.sum()
    mean = exact @ np.arange(2000)
    spread = (exact @ (np.arange(2000) - mean) ** 2) ** 0.5
    lengths = [len(sample.source.split()) for sample in draw(grammar, 400, seed=2)]
    assert abs(np.mean(lengths) - mean) < 4 * spread / 400**0.5  # mean about 1,000
    assert min(lengths) > 500
    assert max(lengths) < 2000


def test_operators_arguments_and_digits_are_uniform():
    """One level: 4 operators, 2 or 3 arguments, 10 digits, each as likely as the others."""
    grammar = Grammar(max_depth=2, max_args=3, min_length=3, max_length=6)
    samples = [sample.source.split() for sample in draw(grammar, 20_000, seed=3)]
    operators = Counter(tokens[0] for tokens in samples)
    num_arguments = Counter(len(tokens) - 2 for tokens in samples)
    digits = Counter(tokens[1] for tokens in samples)
    for counts, size in ((operators, 4), (num_arguments, 2), (digits, 10)):
        assert len(counts) == size
        share = 20_000 / size
        assert all(abs(count - share) < 4.5 * (share * (1 - 1 / size)) ** 0.5 for count in counts.values())


def test_the_root_alone_is_a_digit_when_lengths_allow():
    grammar = Grammar(max_depth=2, max_args=2, min_length=1, max_length=5)
    assert {len(sample.source.split()) for sample in draw(grammar, 50)} == {4}


def test_seeds():
    assert draw(SMALL, 20, seed=5) == draw(SMALL, 20, seed=5)
    assert draw(SMALL, 20, seed=5) != draw(SMALL, 20, seed=6)


def test_limits_that_cannot_be_met(monkeypatch):
    monkeypatch.setattr(listops, "_MAX_FAILURES", 1000)
    with pytest.raises(UserError, match="none of 1,000 expressions in a row had between 20 and 24 tokens"):
        next(generate(Grammar(max_depth=2, min_length=20, max_length=24), 0))
    tiny = Grammar(max_depth=2, max_args=2, min_length=3, max_length=5)  # 4 operators, 100 pairs of digits
    assert len({sample.source for sample in generate_distinct(tiny, 0, 400)}) == 400
    with pytest.raises(UserError, match="401 were asked for"):
        generate_distinct(tiny, 0, 401)
    with pytest.raises(UserError, match="max_depth 1 and max_args 10; allowed: 2 or more"):
        Grammar(max_depth=1)
    with pytest.raises(UserError, match="lengths above 500 and below 400"):
        Grammar(max_length=400)


def test_files(tmp_path):
    write_listops(tmp_path / "out", (30, 5, 6), SMALL, seed=7)
    samples = generate_distinct(SMALL, 7, 41)
    first = 0
    for part, count in (("train", 30), ("val", 5), ("test", 6)):
        file = tmp_path / "out" / f"basic_{part}.tsv"
        lines = file.read_text().splitlines()
        assert lines[0] == "Source\tTarget"
        assert lines[1] == f"{with_brackets(samples[first].source)}\t{samples[first].target}"
        rows = list(read_listops(file))
        expected = samples[first : first + count]
        assert [[TOKENS[number] for number in ids] for ids, _ in rows] == [s.source.split() for s in expected]
        assert [target for _, target in rows] == [sample.target for sample in expected]
        first += count
    with pytest.raises(UserError, match="is not empty"):
        write_listops(tmp_path / "out", (1, 1, 1), SMALL, seed=7)


def test_files_as_pythons_csv_writes_them(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"Source\tTarget\r\n( ( ( [SM 5 ) 6 ) ] )\t1\r\n")
    ((ids, target),) = read_listops(tmp_path / "a.tsv")
    assert (ids.tolist(), target) == ([14, 6, 7, 15], 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[MAX 1 2 ]", "line 2 has 1 columns; allowed: 2 (Source and Target, a tab between)"),
        ("[MAX 1 2 ]\t10", "line 2: Target is '10'; allowed: 0 to 9"),
        ("[MAX 1 x ]\t1", "line 2: token 'x' is unknown; known: 0 1 2 3 4 5 6 7 8 9 [MIN [MAX [MED [SM ]"),
        ("( )\t1", "line 2: Source is empty"),
    ],
)
def test_bad_rows(tmp_path, line, message):
    file = tmp_path / "a.tsv"
    file.write_text(f"Source\tTarget\n{line}\n")
    with pytest.raises(UserError) as error:
        list(read_listops(file))
    assert str(error.value) == f"{file}: {message}"
    file.write_text(f"{line}\n")
    with pytest.raises(UserError, match="line 1 is not the header of the columns Source and Target"):
        list(read_listops(file))
