"""A released vocabulary becomes the tokenizer that transformers' FunnelTokenizer is."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import FunnelTokenizer, PreTrainedTokenizerFast

from funnelformer.base.files import expand_paths, iter_lines
from funnelformer.checkpoints.convert import convert
from funnelformer.corpus.vocabulary import train_tokenizer
from funnelformer.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, tokenizer_from_vocab

NUM_LINES = 12_000
MAX_TOKENS = 512
ODD_LINES = [
    "",
    " ",
    "Naïve café, résumé; Ångström ÉCOLE coöperate",
    "Cafe\u0301 A\u030angstro\u0308m \u0301alone e\u0301\u0323",
    "İstanbul Straße ﬁnance ǅ \u017f ẞ",
    "中文维基百科 mixed中文text 日本語のテスト 한국어 문장",
    "\u3400\u4e00\U00020000\u9fff\uf900",
    "control\x00 char\x01act\x1fers\x7f and \ufffd \x85 here",
    "tab\tnew\nline\rreturn\x0bvertical\x0cfeed",
    "no\u00a0break thin\u2009space zero\u200bwidth joi\u200dner \u2028line \u2029paragraph\ufeff",
    "soft\u00adhyphen re\u2060join \u202eright to left",
    "🙂 👩‍👩‍👧 flags 🇨🇭 ✈️",
    "العربية עִבְרִית हिन्दी ไทย Ελληνικά Кириллица",
    "price: $1,234.56 (50%) — “quotes” \u2018single\u2019 … 3½ № ©",
    "don't U.S.A. e-mail@example.com https://example.com/a_b?c=d#e",
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "word " + "é" * 120,
    "\ue000private \U000f0000use \U0010ffff",
    "<mask> here <cls> and <sep> <pad> <unk> [MASK] [CLS]",
    "<MASK> < mask > mask",
]


def vocabulary(folder: Path, text: list[str], brackets: bool) -> Path:
    """A vocabulary of `text`, in the form of the release or of transformers."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(line for line in text if line.strip()), encoding="utf-8")
    trained = train_tokenizer(corpus, folder / "trained", vocab_size=8000)
    tokens = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    if brackets:
        names = {token: f"[{token[1:-1].upper()}]" for token in SPECIAL_TOKENS.values()}
        tokens = [names.get(token, token) for token in tokens]
    path = folder / "vocab.uncased.txt"
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return path


def stock(path: Path, brackets: bool) -> FunnelTokenizer:
    special = {
        role: f"[{token[1:-1].upper()}]" if brackets else token for role, token in SPECIAL_TOKENS.items()
    }
    tokens = path.read_text(encoding="utf-8").split("\n")[:-1]
    return FunnelTokenizer(vocab={token: i for i, token in enumerate(tokens)}, **special)


def assert_equal(ours: PreTrainedTokenizerFast, theirs: FunnelTokenizer, lines: list[str]) -> None:
    arguments = {"truncation": True, "max_length": MAX_TOKENS, "return_token_type_ids": True}
    for first, second in ((lines, None), (lines, lines[::-1])):
        found, expected = ours(first, second, **arguments), theirs(first, second, **arguments)
        assert found.keys() == expected.keys()
        for key in expected:
            for line, mine, other in zip(lines, found[key], expected[key], strict=True):
                assert mine == other, (key, line)
    assert {ids[0] for ids in found["token_type_ids"]} == {2}


@pytest.mark.parametrize("brackets", [False, True], ids=["angle", "square"])
def test_odd_characters(tmp_path: Path, brackets: bool) -> None:
    path = vocabulary(tmp_path, ODD_LINES * 3, brackets)
    assert_equal(tokenizer_from_vocab(path), stock(path, brackets), ODD_LINES)


def corpus_lines(root: Path) -> Iterator[str]:
    sources = [
        (line for _, line in iter_lines(path) if line.strip())
        for path in expand_paths([root / "corpus" / "*.txt.zst", root / "wikitext2" / "*.txt.zst"])
    ]
    # a line of each file in turn
    for group in itertools.zip_longest(*(itertools.islice(source, 2000) for source in sources)):
        yield from (line for line in group if line is not None)


@pytest.mark.slow
def test_ten_thousand_lines(tmp_path: Path, golden: Path) -> None:
    """Through `convert`, over text of every file of a collection, with odd characters thrown in."""
    root = os.environ.get("FUNNELFORMER_DATA")
    if root is None:
        pytest.skip("FUNNELFORMER_DATA names a folder with corpus/*.txt.zst")
    lines = list(itertools.islice(corpus_lines(Path(root)), NUM_LINES))
    assert len(lines) >= 10_000
    draw = random.Random(0)
    odd = [character for line in ODD_LINES for character in line]
    for i in range(0, len(lines), 3):
        place = draw.randrange(len(lines[i]) + 1)
        lines[i] = lines[i][:place] + "".join(draw.choices(odd, k=3)) + lines[i][place:]
    path = vocabulary(tmp_path, lines[::4], brackets=True)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("model.ckpt.pt", "net_config.pytorch.json"):
        (source / name).write_bytes((golden / "pt_single_sep" / name).read_bytes())
    path = path.rename(source / path.name)
    convert(source, tmp_path / "out")
    assert_equal(load_tokenizer(tmp_path / "out"), stock(path, brackets=True), lines)
