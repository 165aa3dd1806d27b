"""Long texts that every machine with funnelformer has: the documentation of the Python libraries installed with it.

    python demo/documentation.py --out documentation.txt

writes all of it, an empty line between two entries: text to try pretraining with. Source files are parsed, not
imported, so nothing of a library runs.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import inspect
import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LIBRARIES", "Entry", "read_documentation", "sample", "write_documents", "write_text"]

# Imported names. "python" is the standard library.
LIBRARIES = ("numpy", "scipy", "pandas", "sklearn", "torch", "matplotlib", "python")
_LEAST_WORDS = 100
# Of the standard library: what others installed into it, and programs that are not for import.
_NOT_LIBRARY = {"site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
_NOT_DOCUMENTATION = {"test", "tests", "testing", "conftest", "externals", "vendored"}


@dataclass(frozen=True)
class Entry:
    """The documentation of a function or class: what it is in a line, and all the rest of it."""

    library: str
    name: str
    summary: str
    body: str


def read_documentation(libraries: Sequence[str] = LIBRARIES) -> list[Entry]:
    """What the libraries say of their public functions, methods and classes, in the order of their files.

    An entry has a summary (the docstring's first paragraph, of one sentence or more) and at least 100 words after it.
    Of several with one summary or one body the first is taken. Raises ValueError for a library that is not installed.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for library in libraries:
        for entry in _entries(library, _folder(library)):
            said = entry.summary.lower().rstrip(".")
            if said in seen or entry.body in seen:
                continue
            seen |= {said, entry.body}
            entries.append(entry)
    return entries


def sample(entries: Sequence[Entry], number: int) -> list[Entry]:
    """Some of the entries, the same on every machine that has them, whatever else is installed."""
    return sorted(entries, key=lambda entry: hashlib.sha1(entry.name.encode()).digest())[:number]


def write_documents(entries: Sequence[Entry], folder: Path) -> None:
    """Write bodies.jsonl and summaries.txt: line i of the one is found by line i of the other."""
    folder.mkdir(parents=True, exist_ok=True)
    bodies = [json.dumps({"name": entry.name, "text": entry.body}) + "\n" for entry in entries]
    (folder / "bodies.jsonl").write_text("".join(bodies), encoding="utf-8")
    summaries = [f"{entry.summary}\n" for entry in entries]
    (folder / "summaries.txt").write_text("".join(summaries), encoding="utf-8")


def write_text(entries: Sequence[Entry], file: Path) -> None:
    """Write plain text, a document an entry: its summary and body, and an empty line before the next."""
    file.parent.mkdir(parents=True, exist_ok=True)
    documents = ("\n".join([entry.summary, *filter(str.strip, entry.body.splitlines())]) for entry in entries)
    file.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def _folder(library: str) -> Path:
    if library == "python":
        return Path(sysconfig.get_path("stdlib"))
    found = importlib.util.find_spec(library)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"{library} is not installed")
    return Path(found.submodule_search_locations[0])


def _entries(library: str, folder: Path) -> Iterator[Entry]:
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        if (_NOT_DOCUMENTATION | _NOT_LIBRARY).intersection(parts):
            continue
        # Libraries keep public functions in modules with an underscore, which nobody types.
        public = [part for part in parts if not part.startswith("_")]
        prefix = ".".join(public if library == "python" else [library, *public])
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a file for another version of Python
        yield from _documented(tree, library, prefix)


def _documented(node: ast.Module | ast.ClassDef, library: str, prefix: str) -> Iterator[Entry]:
    for child in node.body:
        if not isinstance(child, ast.FunctionDef | ast.ClassDef) or child.name.startswith("_"):
            continue
        name = f"{prefix}.{child.name}" if prefix else child.name
        summary, _, body = inspect.cleandoc(ast.get_docstring(child) or "").partition("\n\n")
        summary, body = " ".join(summary.split()), body.strip()
        is_template = "%(" in summary  # filled in as the library is imported
        if not is_template and len(summary.split()) >= 3 and len(body.split()) >= _LEAST_WORDS:
            yield Entry(library, name, summary, body)
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, library, name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES, metavar="LIBRARY")
    options = parser.parse_args()
    entries = read_documentation(options.libraries)
    write_text(entries, options.out)
    words = sum(len(entry.body.split()) for entry in entries)
    print(f"{options.out}: {len(entries):,} entries, {words:,} words")


if __name__ == "__main__":
    main()
