"""Documents to ids, packed rows and pairs, in cases a person can check and in properties of many."""

import numpy as np
import pytest
from scipy.stats import chisquare

from data.support import error_of, number_tokenizer, words, write
from funnelformer.corpus.blocks import pack_rows
from funnelformer.corpus.build import build_part, iter_parts, rows_from_text
from funnelformer.corpus.documents import in_validation
from funnelformer.corpus.encode import encode_documents, split_sentences
from funnelformer.corpus.pairs import ELSEWHERE, FOLLOWS, PRECEDES, pair_rows
from funnelformer.corpus.row_settings import RowSettings
from funnelformer.corpus.rows import NO_LABEL, join_rows, rows_of_table, table_of_rows

SPECIAL = (1, 2, 0)  # [CLS], [SEP], padding


def encode(*documents, how="lines"):
    return encode_documents(documents, number_tokenizer(), how)


def packed(text, block_size, usable=None, order=None):
    order = np.arange(text.num_documents) if order is None else np.array(order)
    return pack_rows(text, order, block_size, usable or block_size, *SPECIAL)


def paired(text, labels=(FOLLOWS, PRECEDES, ELSEWHERE), block_size=16, usable=None, seed=0):
    order = np.arange(text.num_documents)
    generator = np.random.default_rng(seed)
    return pair_rows(text, order, labels, generator, block_size, usable or block_size, *SPECIAL)


# ---- documents to ids


def test_encoding_marks_words_sentences_and_documents():
    text = encode("7 8+9\n10", "\x07", "11+12+13\n\x07\n \n14")
    assert text.ids.tolist() == [7, 8, 1009, 10, 11, 1012, 1013, 14]
    assert text.word_starts.tolist() == [True, True, False, True, True, False, False, True]
    assert text.sentences.tolist() == [0, 3, 4, 7, 8]
    assert text.documents.tolist() == [0, 2, 4]
    assert text.document_lengths.tolist() == [4, 4]
    assert encode("\x07").num_documents == 0


def test_sentences_by_punctuation():
    line = 'He came. "Why?" she said. It cost 3.5 pounds, e.g. five! (No.) 7 went'
    expected = ["He came.", '"Why?" she said.', "It cost 3.5 pounds, e.g. five!", "(No.)", "7 went"]
    assert split_sentences(line + "\n\nEnd", "punctuation") == [*expected, "End"]
    assert split_sentences(line + "\n\nEnd", "lines") == [line, "End"]


# ---- packing


def test_blocks_are_packed_exactly():
    """The [SEP] after 9 parts two documents; a word that a row's end cuts begins anew."""
    rows = packed(encode("4 5 6 7\n8 9", "10 11+12 13+14+15"), 6)
    assert rows.input_ids.tolist() == [[1, 4, 5, 6, 7, 2], [1, 8, 9, 2, 10, 2], [1, 11, 1012, 13, 1014, 2]]
    assert rows.word_starts.tolist() == [[True] * 6, [True] * 6, [True, True, False, True, False, True]]
    assert rows.num_tokens.tolist() == rows.second_start.tolist() == [6, 6, 6]
    assert rows.structure.tolist() == [NO_LABEL] * 3
    cut = packed(encode("4 5+6 7 8 9 10"), 4)
    assert cut.input_ids[1].tolist() == [1, 1006, 7, 2]
    assert cut.word_starts[1].all()


def test_the_order_of_documents():
    rows = packed(encode("4", "5", "6 7"), 8, order=[2, 0, 1])
    assert rows.input_ids.tolist() == [[1, 6, 7, 2, 4, 2, 5, 2]]


@pytest.mark.parametrize(
    ("num_left", "lengths"), [(31, [102]), (32, [102, 34]), (0, [102]), (99, [102, 101])]
)
def test_the_last_block_is_short_or_dropped(num_left, lengths):
    rows = packed(encode(words(4, 104 + num_left)), 102)
    assert rows.num_tokens.tolist() == lengths
    assert (rows.input_ids[np.arange(len(rows)), rows.num_tokens - 1] == 2).all()
    assert (rows.input_ids[-1, lengths[-1] :] == 0).all()
    assert (rows.input_ids[-1, : lengths[-1]] != 0).all()


def test_rows_end_where_a_funnel_keeps_them_whole():
    """Of 16 ids and three blocks the funnel loses the last three: 15 behind [CLS] less 1 is 7 pairs, less 1 is 3."""
    settings = RowSettings(16, stride=4)
    rows = packed(encode(words(4, 44)), 16, settings.num_usable)
    assert rows.input_ids[0].tolist() == [1, *range(4, 15), 2, 0, 0, 0]
    assert rows.num_tokens.tolist()[:2] == [13, 13]
    after_first = (16 - 2) // 2
    assert 4 * ((after_first - 1) // 2) == 13 - 1
    assert RowSettings(512, stride=4).num_usable == 509


# ---- pairs


def numbered(num_documents=30, sentences=6, length=3):
    """Every token tells its document, sentence and place: 10 sentences of up to 3 tokens are 30 numbers a document."""
    texts = []
    for document in range(num_documents):
        first = 10 + 30 * document
        lines = [words(first + 3 * s, first + 3 * s + length) for s in range(sentences)]
        texts.append("\n".join(lines))
    return encode(*texts)


def parts_of(rows, row):
    end, second = rows.num_tokens[row], rows.second_start[row]
    ids = rows.input_ids[row].tolist()
    assert (ids[0], ids[second - 1], ids[end - 1]) == (1, 2, 2)
    assert set(ids[end:]) <= {0}
    return ids[1 : second - 1], ids[second : end - 1]


def test_pairs_are_what_their_label_says():
    """Runs of whole sentences; B right after A, right before it, or from another document."""
    rows = paired(numbered(), block_size=16)
    assert len(rows) > 40
    for row in range(len(rows)):
        a, b = parts_of(rows, row)
        for part in (a, b):
            assert part
            assert part == list(range(part[0], part[-1] + 1))
            assert (part[0] - 10) % 30 % 3 == (part[-1] - 12) % 30 % 3 == 0
        same = (a[0] - 10) // 30 == (b[0] - 10) // 30
        if rows.structure[row] == FOLLOWS:
            assert b[0] == a[-1] + 1
        elif rows.structure[row] == PRECEDES:
            assert a[0] == b[-1] + 1
        else:
            assert not same


@pytest.mark.parametrize("labels", [(FOLLOWS, PRECEDES, ELSEWHERE), (FOLLOWS, ELSEWHERE)])
def test_labels_are_as_often(labels):
    """By chi-square at 1e-3, under a fixed seed; no other label is there."""
    text = numbered()
    rows = join_rows([paired(text, labels, seed=seed) for seed in range(40)])
    counts = np.bincount(rows.structure, minlength=3)
    assert counts.sum() == counts[list(labels)].sum() > 1500
    assert chisquare(counts[list(labels)]).pvalue > 1e-3


def test_the_length_does_not_tell_the_label():
    """Equal sentences in documents that end in short pairs: the share of full rows differs by chance alone."""
    text = numbered(sentences=9)
    rows = join_rows([paired(text, block_size=24, seed=seed) for seed in range(60)])
    mean = [rows.num_tokens[rows.structure == label].mean() for label in range(3)]
    spread = rows.num_tokens.std() / np.sqrt(len(rows) / 3)
    assert max(mean[:2]) - min(mean[:2]) < 4 * spread
    assert rows.num_tokens.max() <= 24


def test_every_token_of_a_document_is_used_but_a_single_sentence_left_over():
    text = numbered(sentences=8)
    rows = paired(text, labels=(FOLLOWS,), block_size=15)
    used = {token for row in range(len(rows)) for part in parts_of(rows, row) for token in part}
    assert used == set(text.ids.tolist())


def test_long_sentences_are_cut_into_equal_parts():
    """Room for 13 tokens; 20 in one sentence are cut in four, as none may have more than 6."""
    rows = paired(encode(words(4, 24), words(100, 120)), labels=(FOLLOWS,), block_size=16)
    assert [parts_of(rows, row) for row in range(2)] == [
        ([4, 5, 6, 7, 8], [9, 10, 11, 12, 13]),
        ([14, 15, 16, 17, 18], [19, 20, 21, 22, 23]),
    ]


def test_pairs_need_two_sentences_and_for_elsewhere_two_documents():
    assert len(paired(encode("4 5", "6 7"))) == 0
    assert len(paired(encode("4 5\n6 7"), labels=(ELSEWHERE,))) == 0
    alone = join_rows([paired(encode("4 5\n6 7"), seed=seed) for seed in range(20)])
    assert set(alone.structure.tolist()) == {FOLLOWS, PRECEDES}
    served = [paired(encode("4 5\n6 7", "8"), labels=(ELSEWHERE,), seed=s) for s in range(3)]
    assert all(parts_of(rows, 0) == ([4, 5], [8]) for rows in served)


# ---- parts and splits


def test_parts_are_cut_by_characters_alone():
    texts = ["aaaa", "bb", "cccc", "d", "eeee", "f"]
    assert list(iter_parts(texts, 5)) == [["aaaa", "bb"], ["cccc", "d"], ["eeee", "f"]]
    assert list(iter_parts(texts[:-1], 5)) == [["aaaa", "bb"], ["cccc", "d"], ["eeee"]]
    assert list(iter_parts([*texts[:4], "e"], 5)) == [["aaaa", "bb"], ["cccc", "d", "e"]]
    assert list(iter_parts(["a"], 5)) == [["a"]]
    assert list(iter_parts([], 5)) == []


def test_the_two_splits_make_the_whole():
    documents = [words(4 + i, 44 + i) for i in range(60)]
    built = build_part(documents, number_tokenizer(), RowSettings(42, validation_fraction=0.3), (0, 0))
    num_held = sum(in_validation(document, 0.3) for document in documents)
    for split, num_documents in (("train", 60 - num_held), ("validation", num_held)):
        assert built[split].document_lengths.tolist() == [40] * num_documents
        # 40 words a document and a [SEP] between two; a last short row of 32 or more is kept
        num_tokens = num_documents * 41 - 1
        kept = num_tokens - (num_tokens % 40 if num_tokens % 40 < 32 else 0)
        assert built[split].rows.num_tokens.sum() - 2 * len(built[split].rows) == kept


def test_passes_use_the_text_again_in_another_order():
    documents = [
        "\n".join(words(10 + 30 * d + 3 * s, 13 + 30 * d + 3 * s) for s in range(6)) for d in range(20)
    ]
    one, two = (
        build_part(documents, number_tokenizer(), RowSettings(16, form="structure", passes=n), (0, 0))[
            "train"
        ].rows
        for n in (1, 2)
    )
    assert (two.input_ids[: len(one)] == one.input_ids).all()
    assert len(two) > 1.8 * len(one)
    first, second = ({tuple(row) for row in half} for half in (one.input_ids, two.input_ids[len(one) :]))
    assert len(first & second) < len(first) / 4


def test_a_table_gives_the_rows_back():
    rows = paired(numbered())
    back = rows_of_table(table_of_rows(rows))
    for name, values in vars(rows).items():
        assert (getattr(back, name) == values).all()
        assert getattr(back, name).dtype == values.dtype


def test_text_in_memory(tmp_path):
    path = write(tmp_path / "a.txt", "\n\n".join(words(4 + i, 44 + i) for i in range(60)))
    settings = RowSettings(42, validation_fraction=0.3, part_chars=1000)
    data = rows_from_text(path, number_tokenizer(), settings)
    assert list(data) == ["train", "validation"]
    assert data["train"].features["input_ids"].length == 42
    assert len(data["train"]) + len(data["validation"]) in range(54, 61)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"block_size": 2},
            "block_size: 2 leaves no room for text; with these options it needs at least 3 ids",
        ),
        ({"block_size": 8, "form": "structure", "stride": 4}, "it needs at least 10 ids"),
        ({"block_size": 18, "stride": 4}, "stride: 4 is not a power of two that divides block_size 18"),
        ({"block_size": 18, "stride": 3}, "stride: 3 is not a power of two"),
        ({"block_size": 16, "passes": 0}, "passes: 0"),
        (
            {"block_size": 16, "form": "struct"},
            "form: 'struct'; allowed: single, continuation, structure; did you",
        ),
        ({"block_size": 16, "sentences": "words"}, "sentences: 'words'; allowed: lines, punctuation"),
        ({"block_size": 16, "validation_fraction": 1.0}, "is not in the range from 0 to below 1"),
    ],
)
def test_settings_that_cannot_be(settings, expected):
    assert expected in error_of(RowSettings, **settings)


def test_text_that_does_not_do(tmp_path):
    path = write(tmp_path / "a.txt", words(4, 50))
    call = (rows_from_text, path, number_tokenizer())
    message = error_of(*call, RowSettings(128))
    assert message == (
        "the train part of the corpus does not fill one block of 128 ids; give more text, a smaller block size"
    )
    message = error_of(*call, RowSettings(16, validation_fraction=1e-9))
    assert "the validation part of the corpus" in message
    assert message.endswith("a smaller block size or another validation fraction")
    short = write(tmp_path / "b.txt", "4 5\n\n6 7")
    message = error_of(rows_from_text, short, number_tokenizer(), RowSettings(16, form="structure"))
    assert message.startswith(
        "the train part of the corpus gives no pair of sentences; pairs need two documents"
    )
    message = error_of(*call, RowSettings(16, form="structure"))
    assert message.startswith("--train: there is one document to train on")
