"""The documentation reader: what counts as an entry, its name, and that nothing of a library runs."""

from __future__ import annotations

import documentation
import pytest
from documentation import read_documentation, sample, write_documents, write_text

WORDS = " ".join(f"word{number}" for number in range(100))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes modules of a made-up library that is importable, but must not be imported."""
    folder = tmp_path / "madeup"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def documented(name: str, summary: str, body: str = WORDS, kind: str = "def") -> str:
    head = f"{kind} {name}():" if kind == "def" else f"class {name}:"
    return f'{head}\n    """{summary}\n\n    {body}\n    """\n'


def test_names_are_those_that_are_typed(library):
    library("_impl/_core.py", documented("solve", "Solve a system\n    of equations."))
    method = "\n".join(
        "    " + line for line in documented("fit", "Fit the model to data.", WORDS + " more").splitlines()
    )
    library("tree.py", documented("Tree", "A tree of decisions.", WORDS + " again", "class") + method)
    found = read_documentation(["madeup"])
    assert [entry.name for entry in found] == ["madeup.solve", "madeup.tree.Tree", "madeup.tree.Tree.fit"]
    assert found[0].summary == "Solve a system of equations."
    assert found[0].body == WORDS


def test_what_is_private_short_or_a_test_is_left_out(library):
    library(
        "a.py", documented("_hidden", "Solve a hidden problem.") + documented("brief", "Say it short.", "few")
    )
    library("tests/b.py", documented("helper", "Help a test run."))
    library("c.py", "def (broken\n")
    library("d.py", documented("one", "Do one thing well."))
    library("e.py", documented("two", "do one thing well", WORDS + " more"))
    library("f.py", documented("three", "Do another thing."))
    library("g.py", documented("four", "Do %(what)s at once.", WORDS + " filled in"))
    assert [entry.name for entry in read_documentation(["madeup"])] == ["madeup.d.one"]


def test_a_library_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match="nosuchlibrary is not installed"):
        read_documentation(["nosuchlibrary"])


def test_the_sample_does_not_depend_on_what_else_there_is(library):
    for number in range(8):
        library(f"m{number}.py", documented(f"f{number}", f"Do the thing {number}.", f"{WORDS} {number}"))
    entries = read_documentation(["madeup"])
    chosen = sample(entries, 3)
    assert sample(entries[::-1], 3) == chosen
    assert sample([entry for entry in entries if entry in chosen], 3) == chosen


def test_documents_and_summaries_stand_in_the_same_order(library, tmp_path):
    library(
        "a.py", documented("one", "Do one thing well.") + documented("two", "Do it twice.", WORDS + " more")
    )
    write_documents(read_documentation(["madeup"]), tmp_path / "out")
    assert (tmp_path / "out" / "summaries.txt").read_text() == "Do one thing well.\nDo it twice.\n"
    bodies = (tmp_path / "out" / "bodies.jsonl").read_text().splitlines()
    assert bodies == [
        f'{{"name": "madeup.a.one", "text": "{WORDS}"}}',
        f'{{"name": "madeup.a.two", "text": "{WORDS} more"}}',
    ]


def test_a_document_of_the_text_ends_at_an_empty_line(library, tmp_path):
    body = f"{WORDS}\n\n    Second paragraph."
    library("a.py", documented("one", "Do one thing well.", body) + documented("two", "Do it twice."))
    write_text(read_documentation(["madeup"]), tmp_path / "text.txt")
    documents = (tmp_path / "text.txt").read_text().split("\n\n")
    assert documents == [
        f"Do one thing well.\n{WORDS}\nSecond paragraph.",
        f"Do it twice.\n{WORDS}\n",
    ]


def test_installed_libraries_have_long_entries():
    entries = read_documentation(["numpy"])
    assert len(entries) > 300
    assert all(len(entry.body.split()) >= documentation._LEAST_WORDS for entry in entries)
    assert "numpy.linalg.linalg.solve" in {entry.name for entry in entries} or any(
        entry.name.endswith(".solve") for entry in entries
    )
