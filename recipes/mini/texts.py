"""The texts that `mini` was distilled on: sentences, groups of sentences and passages, all openly licensed, one a line.

    apt-get download wordnet-base fortunes dict-jargon && for file in *.deb; do dpkg -x $file debian; done
    python recipes/mini/texts.py --debian debian --descriptions Translation-en --corpus corpus --out texts.txt
    head -300000 texts.txt > train.txt

--debian has the three packages unpacked. --descriptions has Debian's list of what its packages do, uncompressed files
of one or more archives. --corpus has texts with a paragraph a line, as `NAME.txt.zst`: five books of OpenStax (CC BY
4.0), speeches of presidents of the United States (public domain), MASC without messages and tweets (free for any use),
speeches in the General Debate of the United Nations, and novels first published from 1911 to 1930 (public domain).
The documentation is that of the libraries in the environment (the licences of Python and BSD).

The same files and versions give the same texts, in the same order.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import inspect
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import zstandard

Shares = tuple[float, float, float]
# Of a paragraph's chances: to be cut into sentences, into groups of two to four, or to stay whole up to 190 words.
EVEN: Shares = (0.5, 0.25, 0.25)
MOST_WORDS, MOST_CHARACTERS, FEWEST_CHARACTERS = 190, 2500, 12
END = re.compile(r'(?<=[.!?])["\')\]]*\s+(?=["\'(]*[A-Z0-9])')
# Pictures, logs and foreign words.
NO_SENTENCES = ("ascii-art", "linux", "perl", "zippy", "startrek", "tao")
STANDARD = (
    *("json", "os", "re", "random", "statistics", "collections", "itertools", "datetime", "pathlib", "email"),
    *(
        "http",
        "urllib",
        "logging",
        "argparse",
        "csv",
        "sqlite3",
        "decimal",
        "threading",
        "asyncio",
        "unittest",
    ),
)
LIBRARIES = (
    *(
        "numpy",
        "scipy.stats",
        "scipy.signal",
        "scipy.optimize",
        "scipy.linalg",
        "scipy.sparse",
        "scipy.spatial",
    ),
    *(
        "sklearn.linear_model",
        "sklearn.cluster",
        "sklearn.metrics",
        "sklearn.ensemble",
        "sklearn.preprocessing",
    ),
    *("sklearn.feature_extraction.text", "pandas"),
)


class Cutter:
    """Cuts paragraphs into texts of mixed length; one source of random numbers for all."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def texts(self, paragraph: str, shares: Shares = EVEN) -> list[str]:
        sentences = [text.strip() for text in END.split(paragraph) if text.strip()]
        kind = self.random.choices(("sentence", "group", "whole"), shares)[0]
        if kind == "sentence":
            return sentences
        texts, begin = [], 0
        while begin < len(sentences):
            number = self.random.randint(2, 4) if kind == "group" else 50
            group: list[str] = []
            words = 0
            for sentence in sentences[begin : begin + number]:
                words += len(sentence.split())
                if group and words > MOST_WORDS:
                    break
                group.append(sentence)
            texts.append(" ".join(group))
            begin += len(group)
        return texts

    def corpus(self, file: Path, share: float = 1.0, shares: Shares = EVEN) -> Iterator[str]:
        with file.open("rb") as stream:
            lines = zstandard.ZstdDecompressor().stream_reader(stream).read().decode().split("\n")
        for line in lines:
            if line.strip() and self.random.random() < share:
                yield from self.texts(line.strip(), shares)

    def wordnet(self, folder: Path) -> Iterator[str]:
        """What words mean, with and without the word, and the examples of their use."""
        for part in ("noun", "verb", "adj", "adv"):
            for line in (folder / f"data.{part}").read_text().splitlines():
                if line.startswith("  ") or " | " not in line:
                    continue
                gloss = line.split(" | ", 1)[1].strip()
                word = re.sub(r"\(\w+\)$", "", line.split()[4].replace("_", " "))
                meaning = re.sub(r';?\s*"[^"]*"', "", gloss).strip(" ;")
                kind = self.random.random()
                if meaning and kind < 0.5:
                    yield meaning
                elif meaning:
                    yield f"{word} is {meaning}" if part == "noun" and kind >= 0.75 else f"{word}: {meaning}"
                yield from (text for text in re.findall(r'"([^"]+)"', gloss) if len(text.split()) >= 4)

    def fortunes(self, folder: Path) -> Iterator[str]:
        for file in sorted(folder.iterdir()):
            if file.suffix or file.name in NO_SENTENCES:
                continue
            for cookie in file.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
                text = one_line(re.sub(r"\n\s*--.*", "", cookie, flags=re.DOTALL))  # without who said it
                if 4 <= len(text.split()) <= 150 and "\ufffd" not in text:
                    yield from self.texts(text, (0.3, 0.2, 0.5))

    def jargon(self, file: Path) -> Iterator[str]:
        with gzip.open(file, "rt", errors="replace") as stream:
            paragraphs = re.split(r"\n\s*\n", stream.read())
        for paragraph in paragraphs:
            text = one_line(paragraph).replace("{", "").replace("}", "").strip()
            if len(text.split()) >= 8:
                yield from self.texts(text)

    def documentation(self) -> Iterator[str]:
        for name in (*STANDARD, *LIBRARIES):
            for member, value in inspect.getmembers(importlib.import_module(name)):
                for paragraph in (
                    [] if member.startswith("_") else (inspect.getdoc(value) or "").split("\n\n")
                ):
                    text = one_line(paragraph)
                    if len(text.split()) >= 6 and ">>>" not in text and "---" not in text:
                        yield from self.texts(text)

    def descriptions(self, files: list[Path], share: float) -> Iterator[str]:
        """The line and the paragraphs that say what a package of Debian does."""
        seen = set()
        for entry in "".join(file.read_text() for file in files).split("\n\n"):
            found = re.search(r"^Description-en: (.*)\n((?: .*\n?)*)", entry, re.MULTILINE)
            if found is None:
                continue
            line = found[1].strip()
            if line not in seen and self.random.random() < share:
                seen.add(line)
                yield line
            for paragraph in re.sub(r"^ ", "", found[2], flags=re.MULTILINE).split("\n.\n"):
                text = one_line(paragraph)
                is_prose = len(text.split()) >= 8 and not text.startswith(("*", "-"))
                if is_prose and text not in seen and self.random.random() < share:
                    seen.add(text)
                    yield from self.texts(text)


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def is_text(text: str) -> bool:
    """Whether it is of a length to learn from, and mostly letters."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return FEWEST_CHARACTERS <= len(text) <= MOST_CHARACTERS and letters >= 0.72 * len(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debian", type=Path, required=True)
    parser.add_argument("--descriptions", type=Path, nargs="+", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cutter, share = Cutter(), options.debian / "usr/share"
    corpus = {
        name: options.corpus / f"{name}.txt.zst" for name in ("openstax_cc-by", "masc_written", "novels")
    }
    corpus |= {
        name: options.corpus / f"{name}.txt.zst" for name in ("us_presidential_speeches", "un_general_debate")
    }
    sources = {
        "wordnet": cutter.wordnet(share / "wordnet"),
        "fortunes": cutter.fortunes(share / "games/fortunes"),
        "jargon": cutter.jargon(share / "dictd/jargon.dict.dz"),
        "documentation": cutter.documentation(),
        "descriptions": cutter.descriptions(options.descriptions, 0.45),
        "openstax": cutter.corpus(corpus["openstax_cc-by"]),
        "speeches": cutter.corpus(corpus["us_presidential_speeches"]),
        "masc": cutter.corpus(corpus["masc_written"], shares=(1, 0, 0)),
        "debates": cutter.corpus(corpus["un_general_debate"], 0.3),
        "novels": cutter.corpus(corpus["novels"], 0.4, (0.6, 0.25, 0.15)),
    }
    seen: set[str] = set()
    texts: list[str] = []
    for name, source in sources.items():
        before = len(texts)
        for text in map(one_line, source):
            if text.lower() not in seen and is_text(text):
                seen.add(text.lower())
                texts.append(text)
        words = sum(len(text.split()) for text in texts[before:])
        print(f"{name}: {len(texts) - before:,} texts, {words:,} words", file=sys.stderr)
    cutter.random.shuffle(texts)
    options.out.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
