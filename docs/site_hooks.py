"""What the documentation site has beside docs/: pages from the repository's root, and references made of the code."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

from funnelformer import _HOMES
from funnelformer.cli import app

ROOT = Path(__file__).parents[1]
# A page of the site, and the file of the repository that it shows.
OUTSIDE = {
    "index.md": "README.md",
    **{
        name: name
        for name in (
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "benchmarks/README.md",
            "benchmarks/LOG.md",
        )
    },
}
LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)\s#]+)")


def command_line() -> str:
    """The reference of all commands, as cyclopts writes it from their configurations."""
    text = app.generate_docs(output_format="markdown", heading_level=1)
    # It leaves out what every command takes where a command stands below another, as `lra generate` does.
    common = re.search(r"\*\*Common\*\*:.*?\n(?=\n#)", text, re.DOTALL)[0]
    head, *parts = re.split(r"(?m)^(?=##+ funnelformer [a-z])", text)
    text = head + "".join(
        part if "**Common**" in part else f"{part.rstrip()}\n\n{common}\n\n" for part in parts
    )
    # A name in angle brackets or braces is text here, no HTML.
    return re.sub(r"<(?=[a-z])", "&lt;", text)


def python() -> str:
    """A page on which mkdocstrings shows every public name, from the file where it is."""
    names = sorted(_HOMES)
    homes = {name: f"funnelformer.{home}.{name}" for name, home in _HOMES.items()}
    groups = {
        "Models": [name for name in names if name.startswith("Funnelformer")],
        "Functions and other classes": [
            name for name in names if not name.startswith("Funnelformer") and not name.endswith("Config")
        ],
        "Configurations": [
            name for name in names if name.endswith("Config") and name != "FunnelformerConfig"
        ],
    }
    parts = ["# Python\n\nImport these names from `funnelformer`; each is loaded when you first use it.\n"]
    for title, members in groups.items():
        parts.append(f"# {title}\n")
        parts += [f"::: {homes[name]}\n" for name in members]
    return "\n".join(parts)


def on_files(files: Files, config: Any) -> Files:
    for page, file in OUTSIDE.items():
        text = with_links_of_the_site((ROOT / file).read_text(encoding="utf-8"), file, page)
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "reference/command_line.md", content=command_line()))
    files.append(File.generated(config, "reference/python.md", content=python()))
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ lead to the pages above."""
    if page.file.generated_by:
        return markdown
    return with_links_of_the_site(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def with_links_of_the_site(text: str, file: str, page: str) -> str:
    """Relative links of a file of the repository, as the page at another place of the site needs them."""
    pages = {source: shown for shown, source in OUTSIDE.items()}

    def moved(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(file).parent / match[1])
        shown = pages.get(target, target.removeprefix("docs/"))
        return f"]({os.path.relpath(shown, PurePosixPath(page).parent)}"

    return LINK.sub(moved, text)
