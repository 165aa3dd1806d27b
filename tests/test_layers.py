"""Who may import whom: the rooms of the package stand in layers, and docs/architecture.md shows every file of them.

A module imports its own room and rooms of lower layers: no room of its own layer or a higher one, and none inside a
function to get round that. An import defines, and does nothing else.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "funnelformer"
SOURCE = ROOT / "src" / PACKAGE
PAGE = ROOT / "docs" / "architecture.md"

# From the lowest to the highest.
LAYERS = (
    ("base",),
    ("config", "data"),
    ("spread",),
    ("mixers", "corpus"),
    ("modeling",),
    ("checkpoints", "tasks"),
    ("cost", "inference"),
    ("training", "export", "serve"),
    ("bench", "lra", "report"),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
# These load what is asked for when it is asked for, so that `import funnelformer` and `--help` are quick.
MAY_IMPORT_LATE = {"cli", "__init__"}
# Files of one role in sibling rooms may have one name.
SAME_ROLE = {"config", "trainer", "inputs"}


class Import(NamedTuple):
    """An import of a module of ours; late: inside a function, for_types: under TYPE_CHECKING."""

    source: str
    target: str
    late: bool
    for_types: bool


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def read_package() -> dict[str, str]:
    """Module -> its text, as "base.errors"; a package's own file is "base.__init__"."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(SOURCE.rglob("*.py"))
    }


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports_of(sources: Mapping[str, str]) -> Iterator[Import]:
    for source, text in sources.items():
        yield from _walk(_parsed(text), source, sources, late=False, for_types=False)


def _walk(
    node: ast.AST, source: str, sources: Mapping[str, str], *, late: bool, for_types: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child, source, sources):
            yield Import(source, target, late, for_types)
        yield from _walk(
            child,
            source,
            sources,
            late=late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
            for_types=for_types or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)),
        )


def _targets(node: ast.AST, source: str, sources: Mapping[str, str]) -> Iterator[str]:
    """The modules of ours that one statement imports."""
    if isinstance(node, ast.Import):
        found = [
            alias.name.partition(f"{PACKAGE}.")[2] for alias in node.names if alias.name.startswith(PACKAGE)
        ]
    elif isinstance(node, ast.ImportFrom):
        base = source.split(".")
        base = base[: len(base) - node.level] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        if not node.level:
            if room_of(module) != PACKAGE:
                return
            module = module.partition(".")[2]
        found = [f"{module}.{alias.name}".strip(".") for alias in node.names]
        found = [name if _known(name, sources) else module for name in found]
    else:
        return
    for name in dict.fromkeys(found):
        known = _known(name, sources)
        assert known is not None, f"{source} imports {name}, which is no module"
        yield known


def _known(name: str, sources: Mapping[str, str]) -> str | None:
    package = f"{name}.__init__".strip(".")
    return name if name in sources else package if package in sources else None


def upward(sources: Mapping[str, str]) -> list[str]:
    """A line for each import that does not go down."""
    return [
        f"{source} imports {target}: {room_of(target)} stands "
        f"{'beside' if RANK[room_of(source)] == RANK[room_of(target)] else 'above'} {room_of(source)}; "
        "a module imports its own room and rooms of lower layers"
        for source, target, *_ in imports_of(sources)
        if room_of(source) != room_of(target) and RANK[room_of(source)] <= RANK[room_of(target)]
    ]


def late(sources: Mapping[str, str], optional: set[str]) -> list[str]:
    """A line for each import inside a function, but for one in its own room that needs an optional package."""
    top: dict[str, set[str]] = {}
    for source, target, is_late, for_types in imports_of(sources):
        if not is_late and not for_types:
            top.setdefault(source, set()).add(target)
    return [
        f"{source} imports {target} inside a function: an optional package may be imported late, a room may not"
        for source, target, is_late, _ in imports_of(sources)
        if is_late
        and room_of(source) not in MAY_IMPORT_LATE
        and not (room_of(source) == room_of(target) and _needed(target, top, sources) & optional)
    ]


def _needed(module: str, top: Mapping[str, set[str]], sources: Mapping[str, str]) -> set[str]:
    """The packages of others that are imported with a module, by itself or by those of ours that it imports."""
    seen, waiting = set(), [module]
    while waiting:
        if (one := waiting.pop()) not in seen:
            seen.add(one)
            waiting += top.get(one, ())
    return set().union(*(_packages(sources[one]) for one in seen))


def _packages(text: str) -> set[str]:
    """What a module imports of others, as soon as it is imported."""
    found = set()
    for node in _parsed(text).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def optional_packages() -> set[str]:
    """What pyproject.toml names and the runtime without PyTorch does not have, by the name of its import."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = content["project"]

    def names(lines):
        return {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}

    every = names(project["dependencies"]).union(*map(names, project["optional-dependencies"].values()))
    served = names(project["optional-dependencies"]["serve"]) | {"onnxruntime"}
    return every - (names(content["dependency-groups"]["runtime"]) - served)


def circles(sources: Mapping[str, str]) -> list[str]:
    """A line for each circle of imports; those for type checkers alone do not count."""
    edges: dict[str, set[str]] = {module: set() for module in sources}
    for source, target, _, for_types in imports_of(sources):
        if not for_types and source != target:
            edges[source].add(target)
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" → ".join([*path[path.index(module) :], module]))
            return
        if module in done:
            return
        for target in sorted(edges[module]):
            visit(target, (*path, module))
        done.add(module)

    for module in edges:
        visit(module, ())
    return found


def same_stems(sources: Mapping[str, str]) -> list[str]:
    """A line for each name that two files have."""
    files: dict[str, list[str]] = {}
    for module in sources:
        files.setdefault(module.rpartition(".")[2], []).append(module)
    return [
        f"{stem}: {', '.join(modules)}; a name says what the thing is, and one file has it"
        for stem, modules in files.items()
        if len(modules) > 1 and stem != "__init__" and stem not in SAME_ROLE
    ]


# Calls into torch that compute nothing: a decorator, the registering of an operator, facts of a type.
COMPUTE_NOTHING = ("torch.no_grad", "torch.library.", "torch.finfo")


def done_at_import(sources: Mapping[str, str]) -> list[str]:
    """A line for each assertion, change of the process's warnings or computation that importing a module runs.

    What runs is what stands outside functions, and the functions of ours that it calls.
    """
    trees = {module: _parsed(text) for module, text in sources.items()}
    functions = {
        (module, node.name): node
        for module, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    found: list[str] = []
    seen = set()

    def visit(module: str, node: ast.AST) -> None:
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and _acts(ast.unparse(node.func))):
            found.append(f"{module}, line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for home in (module, *_homes(trees[module], module, node.func.id, sources)):
                called = functions.get((home, node.func.id))
                if called is not None and called not in seen:
                    seen.add(called)
                    for statement in called.body:
                        visit(home, statement)
        for child in _run_with(node):
            visit(module, child)

    for module, tree in trees.items():
        visit(module, tree)
    return found


def _acts(call: str) -> bool:
    return call.startswith("warnings.") or (
        call.startswith("torch.") and not call.startswith(COMPUTE_NOTHING)
    )


def _run_with(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that run when it does: of a function's definition, all but its body."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from (*node.decorator_list, node.args)
    elif isinstance(node, ast.Lambda):
        yield node.args
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
        yield from node.orelse
    else:
        yield from ast.iter_child_nodes(node)


def _homes(tree: ast.Module, module: str, name: str, sources: Mapping[str, str]) -> Iterator[str]:
    """The modules of ours from which a module imports a name."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            yield from _targets(node, module, sources)


def test_an_import_only_defines():
    assert done_at_import(read_package()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f():\n    assert 1\n    warnings.simplefilter('ignore')", []),
        ("assert 1", ["modeling.a, line 1: assert 1"]),
        ("class A:\n    assert 1", ["modeling.a, line 2: assert 1"]),
        ("if 1:\n    warnings.filterwarnings('x')", ["modeling.a, line 2: warnings.filterwarnings('x')"]),
        ("EYE = torch.eye(3)", ["modeling.a, line 1: torch.eye(3)"]),
        ("def f(x=torch.eye(3)):\n    pass", ["modeling.a, line 1: torch.eye(3)"]),
        ("@torch.no_grad()\ndef f():\n    return torch.eye(3)", []),
        ("def f():\n    assert 1\nf()", ["modeling.a, line 2: assert 1"]),
        ("from ..base.errors import g\nTABLE = [g(1), g(2)]", ["base.errors, line 2: torch.eye(n)"]),
    ],
)
def test_what_an_import_does_is_found(text, found):
    sources = {"base.errors": "def g(n):\n    return torch.eye(n)", "modeling.a": text}
    assert done_at_import(sources) == found


def test_every_room_stands_in_a_layer():
    assert {room_of(module) for module in read_package()} == set(RANK)


def test_imports_go_down():
    assert upward(read_package()) == []


def test_no_room_is_imported_inside_a_function():
    assert late(read_package(), optional_packages()) == []


def test_there_is_no_circle():
    assert circles(read_package()) == []


def test_no_two_files_have_one_name():
    assert same_stems(read_package()) == []


def test_the_page_shows_every_file_and_no_other():
    page = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"^- `([\w/]+)\.py`: \S", page, re.MULTILINE)
    assert sorted(shown) == sorted(module.replace(".", "/") for module in read_package())


def test_the_page_has_the_rooms_in_the_order_of_the_layers():
    page = PAGE.read_text(encoding="utf-8")
    rooms = [re.findall(r"`(\w+)`", line) for line in re.findall(r"^\d+\. (.*)", page, re.MULTILINE)]
    assert tuple(map(tuple, rooms)) == LAYERS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from ..base.errors import UserError", []),
        ("from ..cli import app", ["modeling.a imports cli.app"]),
        ("from ..corpus import rows", []),
        ("from funnelformer.tasks.kind import Kind", ["modeling.a imports tasks.kind"]),
        ("import funnelformer.cli.app as app", ["modeling.a imports cli.app"]),
        ("def f():\n    from ..tasks.kind import Kind", ["modeling.a imports tasks.kind"]),
        ("from .. import UserError", ["modeling.a imports __init__"]),
        ("from torch import nn", []),
    ],
)
def test_an_import_that_goes_up_is_found(text, found):
    sources = {
        "__init__": "",
        "base.errors": "",
        "corpus.rows": "",
        "cli.__init__": "",
        "cli.app": "",
        "tasks.kind": "",
        "modeling.a": text,
    }
    assert [line.partition(":")[0] for line in upward(sources)] == found


def test_a_neighbour_is_not_below():
    (line,) = upward({"data.tables": "from ..config.head_table import HEADS", "config.head_table": ""})
    assert line.startswith("data.tables imports config.head_table: config stands beside data")


def test_a_late_import_is_found_and_an_optional_package_excuses_it():
    sources = {
        "export.graph": "def f():\n    from .translations import TABLE\n    from ..base import errors",
        "export.translations": "import onnxscript",
        "base.errors": "",
        "cli.app": "def f():\n    from ..export import graph",
    }
    assert [line.partition(" inside")[0] for line in late(sources, {"onnxscript"})] == [
        "export.graph imports base.errors"
    ]
    assert len(late(sources, set())) == 2


def test_a_circle_is_found():
    sources = {
        "tasks.a": "from . import b",
        "tasks.b": "from .c import x",
        "tasks.c": "def f():\n    from .a import x",
        "tasks.d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .e import x",
        "tasks.e": "from .d import x",
    }
    assert circles(sources) == ["tasks.a → tasks.b → tasks.c → tasks.a"]


def test_a_name_that_two_files_have_is_found():
    assert same_stems({"bench.report": "", "lra.report": "", "bench.__init__": "", "lra.__init__": ""}) == [
        "report: bench.report, lra.report; a name says what the thing is, and one file has it"
    ]


def test_what_is_optional_is_what_the_runtime_without_pytorch_lacks():
    optional = optional_packages()
    assert {"onnx", "fastapi", "triton", "google_crc32c", "torch", "transformers"} <= optional
    assert not {"tokenizers", "numpy", "cyclopts"} & optional
