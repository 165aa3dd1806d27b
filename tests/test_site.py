"""The documentation site: its reference of the command line has every command and every option that the parser has."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from funnelformer.cli import app

pytest.importorskip("mkdocs", reason="needs the extra docs")


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The text of each command of the page, by its name."""
    path = Path(__file__).parents[1] / "docs" / "site_hooks.py"
    spec = importlib.util.spec_from_file_location("site_hooks", path)
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    parts = re.split(r"(?m)^#+ funnelformer ?(.*)$", hooks.command_line())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(parent: App = app, path: str = "") -> Iterator[tuple[str, App]]:
    """Every command with its full name; those below `lra` and `bench`, too."""
    for name in parent:
        if not name.startswith("-"):
            full = f"{path} {name}".strip()
            yield full, parent[name]
            yield from commands(parent[name], full)


COMMANDS = dict(commands())


def test_every_command_is_there(sections):
    assert {name for name in sections if name and not name.startswith("-")} == set(COMMANDS)
    assert {"push", "distill", "lra generate", "bench compare"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_there_with_its_help(command, sections):
    """Each on a line with a sentence behind it."""
    lines = re.findall(r"(?m)^\* `([^`]+)`: (\w.+)", sections[command])
    shown = {name for names, _ in lines for name in re.findall(r"--[a-z][\w.-]*", names)}
    arguments = [argument for argument in COMMANDS[command].assemble_argument_collection() if argument.show]
    named = {
        name
        for argument in arguments
        for name in set(argument.names) - set(argument.negatives)
        if name.startswith("--")
    }
    assert named <= shown
    assert {"--config", "--debug"} <= shown
    # Those without a flag are shown by their name in capitals.
    assert len(lines) >= len(arguments)


def test_every_page_is_in_the_navigation():
    root = Path(__file__).parents[1]
    named = set(re.findall(r"(?m): (\S+\.md)$", (root / "mkdocs.yml").read_text()))
    pages = {path.relative_to(root / "docs").as_posix() for path in (root / "docs").rglob("*.md")}
    assert pages <= named
