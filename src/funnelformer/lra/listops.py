"""ListOps: nested operations on digits in prefix form, drawn, evaluated, written and read.

Source: Nangia and Bowman 2018, arXiv:1804.06028; Long Range Arena, Tay et al. 2021, arXiv:2011.04006, section 2.2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base.errors import UserError
from ..base.files import atomic_folder, atomic_writer, iter_lines

__all__ = [
    "PARTS",
    "TOKENS",
    "Grammar",
    "Sample",
    "encode",
    "evaluate",
    "generate",
    "generate_distinct",
    "read_listops",
    "with_brackets",
    "write_listops",
]

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
# A token's id is its place in this list; 0 is padding.
TOKENS = ("<pad>", *"0123456789", *OPERATORS, "]")
PARTS = ("train", "val", "test")
_IDS = {token: number for number, token in enumerate(TOKENS) if number}
_DIGITS = tuple("0123456789")
_MAX_FAILURES = 1_000_000

Operation = Callable[[Sequence[int]], int]


def _median(values: Sequence[int]) -> int:
    """The integer part of the median, which of an even number of values is the mean of the middle two."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


_OPERATIONS: tuple[tuple[str, Operation], ...] = tuple(
    zip(OPERATORS, (min, max, _median, lambda values: sum(values) % 10), strict=True)
)


class Sample(NamedTuple):
    """source: tokens with one space between, without round brackets. target: its value, 0 to 9."""

    source: str
    target: int


@dataclass(frozen=True)
class Grammar:
    """How an expression is drawn; the defaults are the published ones.

    A node at a depth below max_depth (the root's is 1) is an operator with probability 1/4, else a digit, each
    operator and digit being as likely as the others. An operator has 2 to max_args arguments.
    min_length, max_length: kept are expressions with min_length < tokens < max_length, both ends left out as in
    the published program; an operator and its "]" are a token each.
    """

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000

    operator_probability = 0.25  # not a field: the published program fixes it

    def __post_init__(self) -> None:
        if self.max_depth < 2 or self.max_args < 2:
            raise UserError(
                f"ListOps: max_depth {self.max_depth} and max_args {self.max_args}; allowed: 2 or more"
            )
        # The shortest operation has 4 tokens; what lies between the limits need not be possible (checked later).
        if self.min_length < 1 or self.max_length < max(self.min_length + 2, 5):
            raise UserError(
                f"ListOps: lengths above {self.min_length} and below {self.max_length}; allowed: a lower limit "
                "of 1 or more, and 5 or more above by at least 2"
            )


def generate(grammar: Grammar, seed: int) -> Iterator[Sample]:
    """Draw samples without end, independent and distributed as the published program's kept ones.

    The tree's shape is drawn level by level and given up as soon as it must become too long; only a kept shape
    gets its operators and digits, which are independent of it.
    Raises UserError when a million shapes in a row are not kept.
    """
    generator = random.Random(seed)
    num_failures = 0
    while True:
        shape = _draw_shape(generator, grammar)
        if shape is not None:
            num_failures = 0
            yield _fill(shape, generator)
            continue
        num_failures += 1
        if num_failures == _MAX_FAILURES:
            raise UserError(
                f"ListOps: none of {_MAX_FAILURES:,} expressions in a row had between {grammar.min_length} and "
                f"{grammar.max_length} tokens; allow other lengths, more depth or more arguments"
            )


def _draw_shape(generator: random.Random, grammar: Grammar) -> list[list[int]] | None:
    """The number of arguments of every node (0: a digit), level by level; None when the length is not kept."""
    uniform, probability = generator.random, grammar.operator_probability
    # A number below the probability says both that there is an operator and how many arguments it has.
    scale = (grammar.max_args - 1) / probability
    levels: list[list[int]] = []
    num_nodes, length = 1, 0
    for depth in range(1, grammar.max_depth + 1):
        if depth == grammar.max_depth:
            levels.append([0] * num_nodes)
            length += num_nodes
            break
        draws = [uniform() for _ in range(num_nodes)]
        arities = [2 + int(draw * scale) if draw < probability else 0 for draw in draws]
        levels.append(arities)
        length += 2 * num_nodes - arities.count(0)
        num_nodes = sum(arities)
        if not num_nodes:
            break
        if length + num_nodes >= grammar.max_length:  # every node below is at least one token
            return None
    return levels if grammar.min_length < length < grammar.max_length else None


def _fill(shape: list[list[int]], generator: random.Random) -> Sample:
    """Draw operators and digits for a shape, from the deepest level up."""
    uniform = generator.random
    below: list[tuple[str, int]] = []
    for arities in reversed(shape):
        children, level = iter(below), []
        for arity in arities:
            if arity:
                token, operation = _OPERATIONS[int(uniform() * 4)]
                texts, values = zip(*islice(children, arity), strict=True)
                level.append((f"{token} {' '.join(texts)} ]", operation(values)))
            else:
                digit = int(uniform() * 10)
                level.append((_DIGITS[digit], digit))
        below = level
    return Sample(*below[0])


def generate_distinct(grammar: Grammar, seed: int, count: int) -> list[Sample]:
    """The first `count` samples without repetitions (the published program keeps a set of them).

    Raises UserError when the limits allow too few.
    """
    found: dict[str, int] = {}
    for num_drawn, sample in enumerate(generate(grammar, seed), start=1):
        found[sample.source] = sample.target
        if len(found) >= count:
            break
        if num_drawn > 100 * count + 1000:
            raise UserError(
                f"ListOps: only {len(found):,} distinct expressions among {num_drawn:,} with lengths between "
                f"{grammar.min_length} and {grammar.max_length}; {count:,} were asked for"
            )
    return [Sample(source, target) for source, target in found.items()]


def evaluate(source: str) -> int:
    """The value of an expression; round brackets are passed over. Raises ValueError naming the first bad token."""
    operations = dict(_OPERATIONS)
    stack: list[list[int]] = [[]]
    pending: list[Operation] = []
    for place, token in enumerate(_plain_tokens(source), start=1):
        if not pending and stack[0]:
            raise ValueError(f"token {place}, {token!r}, comes after the end of the expression")
        if token in operations:
            pending.append(operations[token])
            stack.append([])
        elif token == "]" and pending and stack[-1]:
            values = stack.pop()
            stack[-1].append(pending.pop()(values))
        elif token in _DIGITS:
            stack[-1].append(int(token))
        else:
            raise ValueError(f"token {place}, {token!r}, is not allowed here")
    if pending or not stack[0]:
        raise ValueError("the expression is not complete")
    return stack[0][0]


def encode(source: str) -> np.ndarray:
    """Ids of the tokens, uint8, by `TOKENS`. Raises ValueError naming an unknown token."""
    tokens = _plain_tokens(source)
    try:
        return np.array([_IDS[token] for token in tokens], dtype=np.uint8)
    except KeyError as error:
        raise ValueError(f"token {error.args[0]!r} is unknown; known: {' '.join(TOKENS[1:])}") from None


def _plain_tokens(source: str) -> list[str]:
    return source.replace("(", " ").replace(")", " ").split()


def with_brackets(source: str) -> str:
    """The release's form: every operation is applied to one argument after the other, a bracket for each.

    "[MAX 2 9 ]" becomes "( ( ( [MAX 2 ) 9 ) ] )".
    """
    stack: list[list[str]] = [[]]
    for token in source.split():
        if token.startswith("["):
            stack.append([token])
        elif token == "]":
            operator, *arguments = stack.pop()
            opening = "( " * (len(arguments) + 1)
            stack[-1].append(f"{opening}{operator} {' ) '.join(arguments)} ) ] )")
        else:
            stack[-1].append(token)
    return stack[0][0]


def write_listops(out: Path, counts: Sequence[int], grammar: Grammar, seed: int) -> None:
    """Write basic_train.tsv, basic_val.tsv and basic_test.tsv with `counts` samples, none of them twice.

    Columns Source, with round brackets, and Target, as in the release. Raises UserError when `out` is not empty.
    """
    with atomic_folder(out) as folder:
        samples = iter(generate_distinct(grammar, seed, sum(counts)))
        for part, count in zip(PARTS, counts, strict=True):
            with atomic_writer(folder / f"basic_{part}.tsv") as file:
                file.write("Source\tTarget\n")
                for sample in islice(samples, count):
                    file.write(f"{with_brackets(sample.source)}\t{sample.target}\n")


def read_listops(file: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yield ids and target of each row of a released or generated file. Raises UserError naming file and line."""
    for number, line in iter_lines(file):
        columns = line.split("\t")
        if number == 1:
            if columns != ["Source", "Target"]:
                raise UserError(f"{file}: line 1 is not the header of the columns Source and Target")
            continue
        if len(columns) != 2:
            raise UserError(
                f"{file}: line {number} has {len(columns)} columns; allowed: 2 (Source and Target, a tab between)"
            )
        source, target = columns
        if target not in _DIGITS:
            raise UserError(f"{file}: line {number}: Target is {target!r}; allowed: 0 to 9")
        try:
            ids = encode(source)
        except ValueError as error:
            raise UserError(f"{file}: line {number}: {error}") from None
        if not len(ids):
            raise UserError(f"{file}: line {number}: Source is empty")
        yield ids, int(target)
