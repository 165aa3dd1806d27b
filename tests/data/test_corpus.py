"""Streaming documents, holding some out, packing them into blocks."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from data.support import error_of, write
from funnelformer.data import corpus
from funnelformer.data.corpus import in_validation, iter_documents, tokenize_corpus


def number_tokenizer(cls_segment=2):
    """Give the word "7" the id 7; 0 is <pad>, 1 <cls>, 2 <sep>, 3 <unk>."""
    vocabulary = {"<pad>": 0, "<cls>": 1, "<sep>": 2, "<unk>": 3} | {str(i): i for i in range(4, 1000)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<cls>:{cls_segment} $A:0 <sep>:0", special_tokens=[("<cls>", 1), ("<sep>", 2)]
    )
    special = {"pad_token": "<pad>", "cls_token": "<cls>", "sep_token": "<sep>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **special)


def words(first, last):
    return " ".join(str(i) for i in range(first, last))


# ---- documents


def test_documents_of_text_are_parted_by_empty_lines(tmp_path):
    path = write(tmp_path / "a.txt", "\n\none\ntwo\r\n \n\n\nthree\n\n")
    assert list(iter_documents([path])) == ["one\ntwo", "three"]
    assert list(iter_documents(path)) == ["one\ntwo", "three"]


def test_documents_of_tables(tmp_path):
    a = write(tmp_path / "a.tsv.gz", gzip.compress(b"id\ttext\n1\tone\n2\t\n"))
    b = write(tmp_path / "b.csv", 'id,text\n1,"two\n2"\n')
    c = write(tmp_path / "c.jsonl", '{"text": "three", "id": 3}\n{"id": 4}\n{"text": null}\n')
    d = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["four"], "id": [1]}), d)
    assert list(iter_documents([d, c, b, a])) == ["one", "two\n2", "three", "four"]
    assert list(iter_documents(tmp_path / "[ab].*", text_column="id")) == ["1", "2", "1"]


def test_a_text_without_empty_lines_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_CHARS", 8)
    path = write(tmp_path / "a.txt", "abcd\nefgh\nij\n\nk\n")
    assert list(iter_documents(path)) == ["abcd\nefgh", "ij", "k"]


def test_document_errors(tmp_path):
    good = write(tmp_path / "good.txt", "x\n")
    blank = write(tmp_path / "blank.txt", "\n \n")
    assert error_of(iter_documents, blank) == f"{blank}: there is no text in the corpus"
    pdf = write(tmp_path / "a.pdf", "x")
    assert f"{pdf}: unknown format '.pdf'; use one of .txt, .csv" in error_of(iter_documents, [good, pdf])
    table = write(tmp_path / "a.jsonl", '{"a": "x", "b": 1}\n\n{"a": "y", "b": "\\ud800"}\n')
    assert f"{table}: cannot tell which column is the text" in error_of(iter_documents, table)
    assert "no column 'c'; it has 'a', 'b'" in error_of(iter_documents, table, "c")
    message = f"{table}: row 1 (line 1): column 'b' is not text but 1"
    assert error_of(iter_documents, table, "b") == message
    half = write(tmp_path / "half.jsonl", '{"text": "x"}\n\n{"text": "\\ud800"}\n')
    assert "row 2 (line 3): column 'text' has half of a surrogate pair" in error_of(iter_documents, half)


# ---- hold-out


def test_the_hold_out_is_fixed_and_nested():
    documents = [f"document {i}" for i in range(4000)]
    held = {fraction: {d for d in documents if in_validation(d, fraction)} for fraction in (0.0, 0.1, 0.3)}
    assert not held[0.0]
    assert held[0.1] < held[0.3]
    assert abs(len(held[0.1]) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5  # four standard deviations
    # a later release must hold out the same documents
    assert [i for i in range(100) if in_validation(documents[i], 0.1)] == [40, 44, 59, 70, 81]


def test_the_two_parts_make_the_whole(tmp_path):
    documents = [words(4 + i, 44 + i) for i in range(60)]
    path = write(tmp_path / "a.txt", "\n\n".join(documents))
    options = {"validation_fraction": 0.3, "show_progress": False}
    train = tokenize_corpus(path, number_tokenizer(), 42, split="train", **options)
    valid = tokenize_corpus(path, number_tokenizer(), 42, split="validation", **options)
    num_held = sum(in_validation(document, 0.3) for document in documents)
    for part, num_documents in ((train, 60 - num_held), (valid, num_held)):
        # 40 words a document and a <sep> between two; a last short block of 32 or more is kept
        num_tokens = num_documents * 41 - 1
        kept = num_tokens - (num_tokens % 40 if num_tokens % 40 < 32 else 0)
        assert sum(map(len, part["input_ids"])) - 2 * len(part) == kept


# ---- blocks


def test_blocks_are_packed_exactly(tmp_path):
    path = write(tmp_path / "a.txt", f"{words(4, 8)}\n{words(8, 10)}\n\n\x07\n\n{words(10, 15)}")
    blocks = tokenize_corpus(path, number_tokenizer(), 6, show_progress=False)
    # the <sep> after 9 parts two documents; the one of control characters only has no tokens
    assert blocks["input_ids"][:] == [[1, 4, 5, 6, 7, 2], [1, 8, 9, 2, 10, 2], [1, 11, 12, 13, 14, 2]]
    assert blocks["token_type_ids"][0] == [2, 0, 0, 0, 0, 0]
    assert blocks.features["input_ids"].feature.dtype == "int32"
    assert blocks.features["token_type_ids"].feature.dtype == "int32"


@pytest.mark.parametrize(
    ("num_left", "lengths"), [(31, [102]), (32, [102, 34]), (0, [102]), (99, [102, 101])]
)
def test_the_last_block_is_short_or_dropped(tmp_path, num_left, lengths):
    path = write(tmp_path / "a.txt", words(4, 104 + num_left))
    blocks = tokenize_corpus(path, number_tokenizer(), 102, show_progress=False)
    assert [len(ids) for ids in blocks["input_ids"]] == lengths
    assert [len(ids) for ids in blocks["token_type_ids"]] == lengths
    assert blocks[-1]["input_ids"][-1] == 2
    assert blocks[-1]["token_type_ids"][:2] == [2, 0]


def test_pieces_join_without_loss(tmp_path, monkeypatch):
    """With one document a batch and rows flushed early, the blocks are those of one large piece."""
    text = "\n\n".join(words(4 + i, 60 + 3 * i) for i in range(40))
    path = write(tmp_path / "a.txt", text)
    whole = tokenize_corpus(path, number_tokenizer(), 50, show_progress=False)
    monkeypatch.setattr(corpus, "_BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(corpus, "_FLUSH_TOKENS", 7)
    pieces = tokenize_corpus(path, number_tokenizer(), 50, show_progress=False)
    assert pieces.to_dict() == whole.to_dict()
    assert len(whole) > 50


def test_the_segment_of_cls_is_the_tokenizers(tmp_path):
    path = write(tmp_path / "a.txt", words(4, 30))
    blocks = tokenize_corpus(path, number_tokenizer(cls_segment=0), 10, show_progress=False)
    assert blocks["token_type_ids"][0] == [0] * 10


def test_block_errors(tmp_path, capsys):
    path = write(tmp_path / "a.txt", words(4, 50))
    tokenizer = number_tokenizer()
    message = error_of(tokenize_corpus, path, tokenizer, 128)
    assert message == (
        "the train part of the corpus does not fill one block of 128 ids; "
        "give more text, a smaller block size"
    )
    options = {"split": "validation", "validation_fraction": 1e-9}
    message = error_of(tokenize_corpus, path, tokenizer, 16, **options)
    assert "the validation part of the corpus" in message
    assert message.endswith("a smaller block size or another validation fraction")
    assert "block_size: 2 has no room" in error_of(tokenize_corpus, path, tokenizer, 2)
    message = error_of(tokenize_corpus, path, tokenizer, 16, validation_fraction=1.0)
    assert message == "validation_fraction: 1.0 is not in the range from 0 to below 1"
    capsys.readouterr()


def test_progress_tells_documents_and_tokens(tmp_path, capsys):
    path = write(tmp_path / "a.txt", words(4, 50))
    tokenize_corpus(path, number_tokenizer(), 16)
    assert "1 documents, 46 tokens" in capsys.readouterr().err
