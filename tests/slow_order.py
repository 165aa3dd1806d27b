"""Which tests come first: of the fast ones those that trace graphs, of the slow ones those that tell most.

And what is said of slow ones that were not begun because time had run out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

NOT_BEGUN = "FUNNELFORMER_TESTS_UNTIL is over"
# What only a process of its own, a whole run or another program can show; then the other slow tests.
FIRST = (
    "tests/training/run/test_killed.py",
    "tests/training/run/test_running.py",
    "tests/modeling/test_compile.py",
    "tests/test_whole_runs.py",
    "tests/test_examples.py",
    "tests/runtime/test_without_torch.py",
    "tests/serve/test_clients.py",
    "tests/inference/test_sentence_transformers.py",
    "tests/training/distillation/test_distill_processes.py",
    "tests/cli/test_startup.py",
    "tests/cli/test_cli.py",
    "tests/test_streams.py",
    "tests/data/test_bounds.py",
    "tests/test_home.py",
    "tests/training/finetuning/test_taught.py",
    "tests/export/test_fastembed.py",
    "tests/export/test_command.py",
    "tests/test_notebooks.py",
)
_MANY = 20  # cases of one test; such a test waits until every other has had its turn


def place(name: str, is_slow: bool, num_cases: int, traces: bool = False) -> tuple[bool, int]:
    """By what tests are sorted: the fast ones before the slow ones, of which a test of many cases is last.

    traces: exports models; those tests follow each other, so that one process alone loads what they need.
    """
    if not is_slow:
        return False, -2 if traces else -1
    file = name.partition("::")[0]
    return num_cases > _MANY, FIRST.index(file) if file in FIRST else len(FIRST)


def not_begun(names: Iterable[str]) -> list[str]:
    """A line for each test that was not begun, with the number of its cases."""
    cases = Counter(name.partition("[")[0] for name in names)
    return [name if number == 1 else f"{name}: {number} cases" for name, number in sorted(cases.items())]
