"""What foreign files hold steers no terminal, and is no markup."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from rich.table import Table

import funnelformer
from funnelformer.base.errors import UserError, printable
from funnelformer.base.processes import say
from funnelformer.base.terminal import cell, plain_console
from training.toy import FINETUNE, animal_rows, fails, run, write_table

SOURCES = Path(funnelformer.__file__).parent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字 👩‍🔬", "plain é 漢字 👩‍🔬"),
        ("\x1b]0;title\x07\x1b[31mred", "\\x1b]0;title\\x07\\x1b[31mred"),
        ("a\rb\x08\x7f\x9b2J", "a\\rb\\x08\\x7f\\x9b2J"),
        ("right \u202e to left", "right \\u202e to left"),
        ("\u2028\ufeff\ud800", "\\u2028\\ufeff\\ud800"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


def test_lines_of_text_keep_their_ends():
    assert printable("a\n\x1b[2J\n", keep="\n") == "a\n\\x1b[2J\n"


def test_errors_and_notes_are_escaped(capsys, monkeypatch, tmp_path):
    name = str(tmp_path / "\x1b[2Jfile.csv")
    message = fails(capsys, "evaluate", tmp_path, name)
    assert "\x1b" not in message
    say("a \x1b[2J label")
    assert capsys.readouterr().out == "a \\x1b[2J label\n"


def test_labels_and_names_of_columns_are_escaped(toy, capsys, tmp_path):
    rows = [(text, {"yes": "\x1b[31myes", "no": "\x1b[31mno"}[label]) for text, label in animal_rows(16)]
    table = write_table(tmp_path / "t.tsv", rows, header=("text", "label\x1b[2J"))
    message = fails(capsys, FINETUNE, "--model", toy.pretrained, "--train", table, "--out", tmp_path / "o")
    assert "label\\\\x1b[2J" in message or "label\\x1b[2J" in message
    assert "\x1b" not in message


@pytest.mark.parametrize("value", ["[/b]", "[red]x", "a[/]", ":smile:", "\x1b[2J"])
def test_values_are_no_markup(capsys, value):
    table = Table("name")
    table.add_row(cell(value))
    plain_console(width=60).print(table)
    assert printable(value) in capsys.readouterr().out


def test_a_sweep_of_values_that_look_like_markup(toy, capsys, tmp_path):
    table = write_table(
        tmp_path / "t.tsv", [(text, "[/b]" if label == "yes" else "no") for text, label in animal_rows(32)]
    )
    flags = ("--train", table, "--dev", table, "--out", tmp_path / "o", "--sweep", "class-weights=balanced")
    flags = (*flags, "--sweep", "set.hidden_act=gelu,relu", "--steps", 1)
    assert run(FINETUNE, "--model", toy.pretrained, *flags) == 0
    assert "relu" in capsys.readouterr().out
    message = fails(
        capsys, FINETUNE, "--model", toy.pretrained, "--train", table, "--dev", table, "--out", tmp_path / "p",
        "--sweep", "set.hidden_act=[/b],x",
    )  # fmt: skip
    assert "[/b]" in message


def test_a_table_of_a_sweep_whose_values_are_markup(capsys):
    from funnelformer.training.finetuning.series import _grid_table, _show
    from funnelformer.training.finetuning.sweep import Point

    points = [Point(f"p{n}", {"text[/b]": value}, None) for n, value in enumerate(["[/b]", "[i]x"])]
    found = [{"dev_accuracy": 0.5, "cost": {"train_seconds": 1.0}}] * 2
    _show(_grid_table(points, found, "dev_accuracy", 0))
    out = capsys.readouterr().out
    assert all(text in out for text in ("text[/b]", "[/b]", "[i]x"))


def test_every_console_of_ours_is_plain():
    """rich reads markup by default: a console is made in `base/terminal.py`, and columns of text say markup=False."""
    found = []
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or file == SOURCES / "base/terminal.py":
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            markup = [keyword.value for keyword in node.keywords if keyword.arg == "markup"]
            is_plain = markup and isinstance(markup[0], ast.Constant) and markup[0].value is False
            if name == "Console" or (name == "TextColumn" and not is_plain) or name == "from_markup":
                found.append(f"{file.relative_to(SOURCES)}:{node.lineno}")
    assert found == []


def test_an_error_is_one_line_whatever_it_names():
    """For those who call the package from Python too: names in foreign files hold ends of lines and escapes."""
    assert str(UserError("x.json: a\nb\r\nc\u2028d \x1b[31m\u202e is none")) == (
        "x.json: a b c d \\x1b[31m\\u202e is none"
    )
