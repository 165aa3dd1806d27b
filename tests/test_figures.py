"""Names in figures: any script, or one line; no formulas, no control characters."""

import warnings

import numpy as np
import pytest

from funnelformer.base import figures
from funnelformer.base.figures import class_names, plain, save_png
from funnelformer.training.finetuning.plots import draw_confusion

NAMES = [
    "好评",
    "a\tb\nc",
    "x$1$",
    "Ωμέγα",
    "long name of a class that goes on",
    "long name of a class that goes up",
]


@pytest.fixture
def only_the_base_font(monkeypatch):
    fonts = [entry for entry in figures.fontManager.ttflist if entry.name.startswith("DejaVu")]
    monkeypatch.setattr(figures.fontManager, "ttflist", fonts)
    figures._families.cache_clear()
    yield
    figures._families.cache_clear()


def test_names_without_a_font_are_numbers_and_one_line(only_the_base_font, capsys, tmp_path):
    assert class_names(NAMES, range(6)) == [
        "class 0",
        "a b c",
        r"x\$1\$",
        "Ωμέγα",
        "long name of a cla… (4)",
        "long name of a cla… (5)",
    ]
    assert capsys.readouterr().err == (
        "warning: no font of this machine has the characters of some class names; the figure shows their numbers "
        "in id2label (0); a package such as fonts-noto-cjk has them\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png(draw_confusion(np.eye(6, dtype=int), NAMES), tmp_path / "a.png")
    assert capsys.readouterr().err.count("\n") == 1


def test_names_with_a_font_stay(monkeypatch, capsys, tmp_path):
    """Of the fonts on the machine one that has the characters is taken."""
    has = figures._characters
    borrowed = next(entry for entry in figures.fontManager.ttflist if entry.name == "DejaVu Serif")
    monkeypatch.setattr(
        figures,
        "_characters",
        lambda file: has(file) | {ord("好"), ord("评")} if file == borrowed.fname else has(file),
    )
    figures._families.cache_clear()
    assert class_names(NAMES, [0]) == ["好评"]
    assert figures._fonts_for("好评 x") == (("DejaVu Serif",), frozenset())
    figures._families.cache_clear()
    assert capsys.readouterr().err == ""


def test_other_texts_of_a_figure(only_the_base_font, capsys, tmp_path):
    figure = figures.Figure()
    figure.subplots().set_title("模型")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png(figure, tmp_path / "a.png")
    assert capsys.readouterr().err == "warning: no font of this machine has all characters of 模型\n"


def test_plain():
    assert plain("a\x1b[31m\u202eb\x00") == "a\ufffd[31m\ufffdb\ufffd"
    assert plain("x" * 30) == "x" * 23 + "…"
