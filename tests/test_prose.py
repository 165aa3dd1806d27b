"""What the prose names exists: files, links, modules, commands and options; test_examples.py runs the examples."""

from __future__ import annotations

import re
import tokenize
from pathlib import Path

import pytest

from funnelformer.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "benchmarks/README.md",
            "benchmarks/LOG.md",
        )
    ),
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = sorted(
    path for room in ("src", "benchmarks", "demo", "tests") for path in (ROOT / room).rglob("*.py")
)
# Where a path in prose may begin: the repository, its sources, the package, the folder of the page.
ROOTS = (ROOT, ROOT / "src", ROOT / "src" / "funnelformer", ROOT / "tests", ROOT / "docs")
FOLDERS = "src|tests|docs|demo|benchmarks|recipes|base|data|corpus|mixers|modeling|checkpoints|tasks|cost"
FOLDERS += "|inference|training|export|serve|bench|lra|report|cli"
PATH = re.compile(rf"(?<![\w./:{{}}\\-])(?:{FOLDERS})/[\w./-]*\.(?:py|md|toml|txt|json|png|tsv)\b")
PYTHON_FILE = re.compile(r"`(\w+\.py)`")
MODULE = re.compile(r"\bfunnelformer(?:\.[a-z_]\w*)+")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def exists(name: str, page: Path) -> bool:
    return any((folder / name).exists() for folder in (*ROOTS, page.parent))


def comments_and_docstrings(path: Path) -> str:
    """Comments, and strings in three quotes: where prose stands in a source."""
    with path.open("rb") as file:
        return "\n".join(
            token.string
            for token in tokenize.tokenize(file.readline)
            if token.type == tokenize.COMMENT
            or (token.type == tokenize.STRING and token.string.startswith('"""'))
        )


def is_module(name: str) -> bool:
    """Whether the name is a module's, or that of something a module has."""
    parts = name.split(".")
    folder = ROOT / "src"
    for position, part in enumerate(parts):
        if (folder / part).is_dir():
            folder = folder / part
            continue
        file = folder / f"{part}.py"
        text = (file if file.is_file() else folder / "__init__.py").read_text()
        rest = parts[position + 1 :] if file.is_file() else parts[position:]
        return not rest or re.search(rf"\b{rest[0]}\b", text) is not None
    return True


@pytest.mark.parametrize("page", [*PAGES, ROOT / "pyproject.toml"], ids=relative)
def test_paths_and_links_of_a_page_exist(page):
    text = page.read_text()
    named = {*PATH.findall(text)}
    missing = {name for name in named if not exists(name, page)}
    stems = {path.name for path in SOURCES}
    missing |= {name for name in PYTHON_FILE.findall(text) if name not in stems}
    if page.suffix == ".md":
        links = {link.partition("#")[0] for link in LINK.findall(text)}
        missing |= {link for link in links if link and ":" not in link and not (page.parent / link).exists()}
    missing |= {name for name in MODULE.findall(text) if not is_module(name)}
    assert not missing


def test_paths_in_docstrings_and_comments_exist():
    missing = []
    for path in SOURCES:
        text = comments_and_docstrings(path)
        missing += [f"{relative(path)}: {name}" for name in PATH.findall(text) if not exists(name, path)]
    assert not missing


def options_of(command: str) -> set[str]:
    """The long options that a command's own table has, and those that all commands share."""
    names = {"--help", "--version", "--debug", "--config"}
    for argument in app[command].assemble_argument_collection():
        names |= {name for name in argument.names if name.startswith("--")}
    return names


def command_lines(text: str) -> list[str]:
    """The calls of funnelformer in code blocks and in backquotes, with continued lines joined."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    blocks = re.findall(r"(?m)^    .*$", joined)
    quoted = re.findall(r"(?s)`([^`]+)`", re.sub(r"(?s)```.*?```", "", joined))
    return [
        found
        for piece in (*blocks, *(part.replace("\n", " ") for part in quoted))
        for found in re.findall(r"(?<!from )\bfunnelformer (?!>|<|=)([a-z][^#|;&]*)", piece)
    ]


COMMANDS = sorted(name for name in app if not name.startswith("-"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=relative)
def test_commands_and_options_of_a_page_exist(page):
    wrong = []
    for line in command_lines(page.read_text()):
        command, *words = line.split()
        if command not in COMMANDS:
            wrong.append(f"{command}: no command")
            continue
        if command in ("lra", "bench"):  # commands of their own below them
            continue
        known = options_of(command)
        for word in words:
            option = re.match(r"--[a-z][\w-]*", word)
            if option and not word.startswith("--set.") and option[0] not in known:
                wrong.append(f"{command} {option[0]}: no option")
    assert not wrong


def test_wrong_names_are_found():
    """The checks above see a command, an option, a module and a path that are not there."""
    assert command_lines("    funnelformer pretend --x 1 \\\n        --y") == ["pretend --x 1 --y"]
    assert "--learning-rate" in options_of("finetune")
    assert "--learning-rat" not in options_of("finetune")
    assert is_module("funnelformer.cost.flops")
    assert not is_module("funnelformer.flops")
    assert PATH.findall("see `training/flops.py` and cost/flops.py") == ["training/flops.py", "cost/flops.py"]
    assert not exists("training/flops.py", ROOT / "README.md")
