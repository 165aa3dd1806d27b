"""What is shown of work that goes on: a line that is written over, rows that stay, nothing of it in a file."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from funnelformer.base import progress
from funnelformer.base.progress import LiveLine, counting, duration, progress_bar
from funnelformer.export.check import Difference, summary
from training.toy import FINETUNE, PRETRAIN, run, tokens, write_table


class Terminal(io.StringIO):
    def isatty(self):
        return True

    @property
    def lines(self):
        """What was shown, one after another on the same line."""
        return [text.strip() for text in self.getvalue().split("\r") if text.strip()]


@pytest.fixture
def terminal(monkeypatch):
    """stderr is a terminal of 60 columns, and a second has passed already."""
    shown = Terminal()
    # pytest puts its own stderr back between a fixture and the test.
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=shown))
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    monkeypatch.setattr(progress, "_REFRESH_S", 0.0)
    return shown


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (67, "1:07"), (7380, "2:03:00"), (-1, "0:00")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_bar_and_its_end(terminal):
    with progress_bar("embed", 4) as advance:
        for _ in range(4):
            advance(1)
    first, *_, last = terminal.lines
    assert first.startswith("embed █████                 25%  1 of 4  ")
    assert last.startswith("embed ████████████████████ 100%  4 of 4  ")
    assert all(len(line) < 60 for line in terminal.lines)
    assert terminal.getvalue().endswith("\r")  # the line is free again


def test_what_is_quick_or_has_no_title_shows_nothing(terminal, monkeypatch):
    with progress_bar(None, 4) as advance:
        advance(4)
    monkeypatch.setattr(progress, "_QUIET_S", 1.0)
    with progress_bar("embed", 4) as advance:
        advance(4)
    assert terminal.getvalue() == ""


def test_counts_of_documents(terminal):
    with counting("preparing", True, 100) as add:
        add(2, 1500, 50)
        add(1, 500, 50)
    assert [line.rpartition("  ")[0] for line in terminal.lines] == [
        "preparing  50%  2 documents  1,500 tokens",
        "preparing 100%  3 documents  2,000 tokens",
    ]


def test_a_row_takes_the_place_of_the_live_line(terminal, capsys):
    line = LiveLine()
    line.update(lambda: "so far")
    line.row("a result")
    assert terminal.getvalue() == "\rso far\r      \r"


def test_nothing_live_where_stderr_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    with progress_bar("embed", 2) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")


def rows_of(text):
    """The table of evaluations: its lines, from the head on."""
    lines = text.splitlines()
    head = next(number for number, line in enumerate(lines) if line.split()[:2] == ["step", "epoch"])
    return [line for line in lines[head:] if line.split()[0] == "step" or line.split()[0].isdigit()]


def test_fine_tuning_shows_a_row_an_evaluation(toy, tmp_path, capsys):
    """Aligned under one head, the best marked where it was reached, and no dictionary anywhere."""
    table = write_table(
        tmp_path / "t.tsv", [("the red cat eats .", "yes"), ("the blue bird sings .", "no")] * 24
    )
    flags = ("--model", toy.pretrained, "--train", table, "--out", tmp_path / "out")
    assert run(FINETUNE.replace("--epochs 1", "--epochs 3"), *flags) == 0
    out, err = capsys.readouterr()
    head, *rows = rows_of(out)
    assert (
        head.split() == ["step", "epoch", "train", "loss", "loss", "accuracy", "f1_macro"]
        or "accuracy" in head
    )
    assert [row.split()[1] for row in rows] == ["1.00", "2.00", "3.00"]
    assert "best so far" in rows[0]
    ends = {len(row.removesuffix("  best so far")) for row in (head, *rows)}
    assert len(ends) == 1
    assert "{" not in out
    assert err == ""
    assert all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)


def test_pretraining_on_a_terminal(toy, tmp_path, terminal, capsys):
    arguments = tokens(
        PRETRAIN, "--train", toy.corpus, "--tokenizer", toy.tokenizer, "--out", tmp_path / "out"
    )
    assert run("", *arguments) == 0
    head, *rows = rows_of(capsys.readouterr().out)
    assert "perplexity" in head
    assert [row.split()[0] for row in rows] == ["10", "20"]
    live = [line for line in terminal.lines if line.startswith("step ")]
    assert live[0].startswith("step 1 of 20  ")
    after_log = next(line for line in live if line.startswith("step 6 of 20"))
    assert "loss " in after_log
    assert "rate " in after_log
    assert "tokens/s" in after_log


def test_export_sums_its_shapes_up():
    found = [Difference(1, 1, "none", 1e-6, 2e-7), Difference(5, 1025, "left", 3e-6, 1e-6)]
    assert summary(found) == (
        "compared with PyTorch: 2 shapes, 1 to 5 sequences of 1 to 1,025 tokens\n"
        "largest difference: 3.0e-06 (1.0e-06 relative) at 5 x 1,025, padding: left"
    )
