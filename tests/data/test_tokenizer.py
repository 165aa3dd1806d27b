"""Training, saving and loading WordPiece tokenizers."""

import json
import os
import random

import pytest
from transformers import AutoTokenizer, FunnelTokenizer, PreTrainedTokenizerFast

from data.support import error_of, write
from funnelformer import FunnelformerConfig
from funnelformer.corpus.vocabulary import train_tokenizer
from funnelformer.data.tokenizer import check_fits, check_vocabulary, load_tokenizer, tokenizer_from_vocab

TEXT = "The cat sat on the mat.\nA café in the park, the cats' café!\n\nThe map of the park is on the mat.\n"


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "corpus.txt", TEXT)


def many_words(path):
    """Write a text in which very many pairs are equally frequent, so that only ties decide."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(400)]
    return write(path, " ".join(words * 2))


# ---- training


def test_ids_segments_and_padding(corpus, tmp_path):
    tokenizer = train_tokenizer(corpus, tmp_path / "out", vocab_size=120)
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>"]
    assert tokenizer.tokenize("The CAT café!") == ["the", "cat", "cafe", "!"]
    assert tokenizer.decode(tokenizer("the cats")["input_ids"], skip_special_tokens=True) == "the cats"
    pair = tokenizer("the cat", "the mat")
    assert pair["token_type_ids"] == [2, 0, 0, 0, 1, 1, 1]
    assert (pair["input_ids"][0], pair["input_ids"][3], pair["input_ids"][-1]) == (2, 3, 3)
    batch = tokenizer(["the cat", "the"], padding=True)
    assert batch["input_ids"][1][2:] == [3, 0]
    assert batch["attention_mask"][1] == [1, 1, 1, 0]
    assert tokenizer.model_max_length == 512
    assert len(tokenizer("the " * 600, truncation=True)["input_ids"]) == 512
    assert tokenizer.unk_token_id in tokenizer("日本")["input_ids"]
    assert tokenizer("<mask>", add_special_tokens=False)["input_ids"] == [4]
    assert tokenizer("##a", add_special_tokens=False)["input_ids"] != [
        tokenizer.get_vocab()["##a"]
    ]  # not left behind as a special token


def test_saved_folder_loads_the_same_everywhere(corpus, tmp_path):
    out = tmp_path / "out"
    trained = train_tokenizer(corpus, out, vocab_size=120, max_length=64)
    assert sorted(os.listdir(out)) == ["tokenizer.json", "tokenizer_config.json"]
    for loaded in (AutoTokenizer.from_pretrained(out), load_tokenizer(str(out))):
        assert isinstance(loaded, PreTrainedTokenizerFast)
        assert loaded.get_vocab() == trained.get_vocab()
        assert loaded("The cat", "a zebra").data == trained("The cat", "a zebra").data
        assert (loaded.padding_side, loaded.truncation_side) == ("right", "right")
        assert (loaded.model_max_length, loaded.pad_token_id, loaded.mask_token_id) == (64, 0, 4)
        assert loaded.cls_token_id == 2


def test_a_funnel_config_beside_it_changes_nothing(corpus, tmp_path):
    """transformers picks the tokenizer class by the model type; its FunnelTokenizer would add two tokens."""
    trained = train_tokenizer(corpus, tmp_path / "out", vocab_size=120)
    write(tmp_path / "out" / "config.json", json.dumps({"model_type": "funnel"}))
    loaded = load_tokenizer(tmp_path / "out")
    assert len(loaded) == len(trained)
    assert loaded("The cat", "a mat").data == trained("The cat", "a mat").data


def test_case_is_kept_when_asked(corpus, tmp_path):
    tokenizer = train_tokenizer(corpus, tmp_path / "out", vocab_size=150, cased=True)
    assert tokenizer.tokenize("The café") == ["The", "café"]
    assert tokenizer.tokenize("the") == ["the"]


def test_text_column_of_a_table(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n" + "11 11\tzebra zebra\n" * 3)
    vocabulary = train_tokenizer(path, tmp_path / "out", text_column="b", vocab_size=100).get_vocab()
    assert "zebra" in vocabulary
    assert "1" not in vocabulary


def test_training_twice_gives_the_same_bytes(tmp_path):
    path = many_words(tmp_path / "corpus.txt")
    for name in "ab":
        train_tokenizer(path, tmp_path / name, vocab_size=400)
    for file in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert len(load_tokenizer(tmp_path / "a")) == 400


def test_ties_fall_the_same_way_in_every_process(tmp_path):
    """The trainer's hash tables are seeded anew in every process, so the outcome is written down here."""
    path = many_words(tmp_path / "corpus.txt")
    tokenizer = train_tokenizer(path, tmp_path / "out", vocab_size=400)
    # 5 special tokens and twice 26 letters go before; equal counts are then in the order of the letters
    first = "##xy ##ad ##km ##wu ##au ##cl ##co ##eo ##ja ##lr ##nb ##sx"
    last = "##gxz ##hj ##hk ##hw ##hx ##hz"
    assert tokenizer.convert_ids_to_tokens(range(57, 69)) == first.split()
    assert tokenizer.convert_ids_to_tokens(range(394, 400)) == last.split()


def test_rare_characters_are_cut_in_a_fixed_order(tmp_path):
    letters = [chr(code) for code in range(0xAC00, 0xAC00 + 1100)]  # Hangul: letters that stay as they are
    path = write(tmp_path / "a.txt", " ".join(letters) + " " + " ".join(letters[:10]))
    vocabulary = train_tokenizer(path, tmp_path / "a", vocab_size=2100, cased=True).get_vocab()
    assert [letter in vocabulary for letter in (letters[999], letters[1000])] == [True, False]


def test_training_errors(corpus, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    message = f"{out} is not empty; choose another or pass --overwrite"
    assert error_of(train_tokenizer, corpus, out, vocab_size=120) == message
    assert "vocab_size: 20 is too small; this text has" in error_of(
        train_tokenizer, corpus, tmp_path / "b", vocab_size=20
    )
    assert "--min-frequency is 0" in error_of(train_tokenizer, corpus, tmp_path / "b", min_frequency=0)
    assert "--max-length is 2; allowed: 3 or more" in error_of(
        train_tokenizer, corpus, tmp_path / "b", max_length=2
    )
    assert "no such file" in error_of(train_tokenizer, tmp_path / "none.txt", tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["corpus.txt", "out"]
    train_tokenizer(corpus, out, vocab_size=120, overwrite=True)
    assert sorted(os.listdir(out)) == ["mine", "tokenizer.json", "tokenizer_config.json"]


# ---- released vocabularies

BERT_VOCAB = "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\n"
FUNNEL_VOCAB = "<unk>\n<s>\n</s>\n<cls>\n<sep>\n<pad>\n<mask>\nthe\ncat\n##s\n"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_vocab_of_the_first_release(tmp_path, line_end):
    path = write(tmp_path / "vocab.uncased.txt", BERT_VOCAB.replace("\n", line_end))
    tokenizer = tokenizer_from_vocab(path)
    pair = tokenizer("The cats", "dog")
    assert pair["input_ids"] == [3, 6, 7, 8, 4, 2, 4]
    assert pair["token_type_ids"] == [2, 0, 0, 0, 0, 1, 1]
    assert (tokenizer.pad_token, tokenizer.mask_token_id, len(tokenizer)) == ("[PAD]", 5, 9)
    assert tokenizer("[MASK]", add_special_tokens=False)["input_ids"] == [5]


def test_vocab_with_angle_brackets(tmp_path):
    tokenizer = tokenizer_from_vocab(write(tmp_path / "vocab.txt", FUNNEL_VOCAB))
    assert tokenizer("The cats")["input_ids"] == [3, 7, 8, 9, 4]
    tokenizer.save_pretrained(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out")("The cats").data == tokenizer("The cats").data


def test_vocab_gives_what_the_transformers_port_gives(tmp_path):
    path = write(tmp_path / "vocab.txt", FUNNEL_VOCAB + "!\ncafe\n")
    theirs = FunnelTokenizer(vocab={token: i for i, token in enumerate(path.read_text().splitlines())})
    for texts in (("The Cats' café!",), ("the \u4e2d\u00a0cat", "<mask> the\tcats!")):
        expected = theirs(*texts, return_token_type_ids=True).data
        assert tokenizer_from_vocab(path)(*texts).data == expected
        theirs.save_pretrained(tmp_path / "theirs")
        assert load_tokenizer(tmp_path / "theirs")(*texts).data == expected  # the segments unasked


def test_a_capital_letter_makes_it_cased(tmp_path):
    path = write(tmp_path / "vocab.txt", BERT_VOCAB + "The\n")
    assert tokenizer_from_vocab(path).tokenize("The the") == ["The", "the"]
    assert tokenizer_from_vocab(path, lowercase=True).tokenize("The") == ["the"]


def test_vocab_errors(tmp_path):
    twice = write(tmp_path / "twice.txt", BERT_VOCAB + "cat\n")
    assert error_of(tokenizer_from_vocab, twice) == f"{twice}: line 10: token 'cat' is already on line 8"
    bare = write(tmp_path / "bare.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n")
    message = f"{bare}: no mask token in it, neither <mask> nor [MASK]"
    assert error_of(tokenizer_from_vocab, bare) == message


# ---- loading


def test_load_takes_a_vocab_file_or_its_folder(tmp_path):
    path = write(tmp_path / "vocab.txt", FUNNEL_VOCAB)
    assert load_tokenizer(path)("the")["input_ids"] == [3, 7, 4]
    assert load_tokenizer(tmp_path)("the")["input_ids"] == [3, 7, 4]


def test_load_errors(corpus, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: no tokenizer in this folder" in error_of(load_tokenizer, empty)
    assert "no such tokenizer folder; did you mean 'empty'?" in error_of(load_tokenizer, tmp_path / "empt")
    odd = write(tmp_path / "tokenizer.json", "{}")
    assert f"{odd}: not a tokenizer; give its folder or a vocab.txt" in error_of(load_tokenizer, odd)
    assert f"{tmp_path}: no tokenizer could be loaded" in error_of(load_tokenizer, tmp_path)

    def fail(name, trust_remote_code):
        raise OSError("We couldn't connect\nCheck your connection")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    monkeypatch.chdir(tmp_path)
    assert error_of(load_tokenizer, "emtpy").startswith(
        "emtpy: no such folder; did you mean 'empty'?, and HF_HUB_OFFLINE is set; "
    )
    monkeypatch.setattr("funnelformer.data.tokenizer.reach_hub", lambda _: None)
    message = "emtpy: no tokenizer could be loaded; did you mean 'empty'? (We couldn't connect)"
    assert error_of(load_tokenizer, "emtpy") == message


def test_load_refuses_slow_ones_and_those_without_special_tokens(tmp_path, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name, trust_remote_code: Slow())
    monkeypatch.setattr("funnelformer.data.tokenizer.reach_hub", lambda _: None)
    assert "user/name: this is a slow tokenizer" in error_of(load_tokenizer, "user/name")
    monkeypatch.undo()

    tokenizer = tokenizer_from_vocab(write(tmp_path / "vocab.txt", FUNNEL_VOCAB))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, cls_token="<cls>", pad_token="<pad>"
    ).save_pretrained(tmp_path / "out")
    message = error_of(load_tokenizer, tmp_path / "out")
    assert message.endswith("the tokenizer has no mask, sep token, which the models need")


def test_check_vocabulary(tmp_path):
    tokenizer = tokenizer_from_vocab(write(tmp_path / "vocab.txt", FUNNEL_VOCAB))
    check_vocabulary(tokenizer, 10, "model")
    message = (
        "model: the tokenizer has ids up to 9, but the model's vocabulary ends at 8; "
        "is it another model's tokenizer?"
    )
    assert error_of(check_vocabulary, tokenizer, 9, "model") == message


def test_segments_that_a_model_does_not_have(tmp_path):
    """Funnel-Transformers give [CLS] segment 2, which BERT's table has no row for."""
    tokenizer = tokenizer_from_vocab(write(tmp_path / "vocab.txt", FUNNEL_VOCAB))
    config = FunnelformerConfig(vocab_size=10, position="absolute", type_vocab_size=3)
    check_fits(tokenizer, config, "model")
    check_fits(tokenizer, FunnelformerConfig(vocab_size=10, cls_token_type_id=1), "model")
    config.type_vocab_size = 2
    assert error_of(check_fits, tokenizer, config, "model") == (
        "model: the tokenizer gives a token segment 2, but the model's segments end at 1 (type_vocab_size); is it "
        "another model's tokenizer?"
    )
