"""The tokenizer of exports gives the ids that transformers gives, and says what a folder lacks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerFast, RobertaTokenizer

from funnelformer.base.errors import UserError
from funnelformer.data.padding import pad_batch
from funnelformer.data.plain_tokenizer import load_plain_tokenizer
from funnelformer.data.tokenizer import load_tokenizer

TEXTS = ["the red cat sleeps", "a dog", "Two BIRDS sing; naïve [MASK] ones!", "the cat " * 20, "  ", "猫 cat"]
PAIRS = ["the cat " * 9, "no", "seven dogs bark at night and the cat sleeps", "", "x", "a bird"]
FORMS = ["toy", "left", "byte-level", "words"]


@pytest.fixture(params=FORMS)
def folder(request, toy, tmp_path):
    """Our own kind of tokenizer, one that cuts and pads on the left, RoBERTa's, and a bare tokenizer.json."""
    form = request.param
    if form in ("toy", "left"):
        tokenizer = load_tokenizer(toy.tokenizer)
        if form == "left":
            tokenizer.padding_side = tokenizer.truncation_side = "left"
    elif form == "byte-level":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, "th"]
        tokenizer = RobertaTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[("t", "h")])
    else:
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog"]
        plain = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
        plain.pre_tokenizer = pre_tokenizers.Whitespace()
        plain.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        roles = {f"{name[1:-1].lower()}_token": name for name in names[:5]}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, model_max_length=77, **roles)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_ids_are_those_of_transformers(folder):
    ours, theirs = load_plain_tokenizer(folder), load_tokenizer(folder)
    cases = [
        {"truncation": True, "max_length": 9},
        {"truncation": False},
        {"truncation": True, "max_length": 12, "stride": 4, "return_overflowing_tokens": True},
    ]
    for case in cases:
        found, expected = ours(TEXTS, **case), theirs(TEXTS, **case)
        assert dict(found) == {name: list(values) for name, values in expected.items()}
        assert [bool(e.overflowing) for e in found.encodings] == [
            bool(e.overflowing) for e in expected.encodings
        ]
    pairs = {"truncation": "longest_first", "max_length": 14}
    assert dict(ours(TEXTS, PAIRS, **pairs)) == dict(theirs(TEXTS, PAIRS, **pairs))
    words = [text.split() for text in TEXTS if text.split()]
    split = {"is_split_into_words": True, "truncation": True, "max_length": 9}
    found, expected = ours(words, **split), theirs(words, **split)
    assert dict(found) == dict(expected)
    for number in range(len(words)):
        assert found.word_ids(number) == expected.word_ids(number)


def test_what_is_asked_of_both(folder):
    ours, theirs = load_plain_tokenizer(folder), load_tokenizer(folder)
    names = [f"{role}_token{end}" for role in ("pad", "cls", "sep", "mask") for end in ("", "_id")]
    for name in (*names, "padding_side", "truncation_side", "model_max_length", "pad_token_type_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.model_input_names == list(theirs.model_input_names)
    assert ours.get_vocab() == theirs.get_vocab()
    assert len(ours) == len(theirs)
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)
    ids = ours(TEXTS[:1])["input_ids"][0]
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(ids[1]) == theirs.convert_ids_to_tokens(ids[1])


def test_batches_are_those_of_transformers(folder):
    theirs = load_tokenizer(folder)
    encoded = theirs(TEXTS, truncation=True, max_length=9)
    rows = [{name: encoded[name][i] for name in encoded} for i in range(len(TEXTS))]
    expected = DataCollatorWithPadding(theirs)([dict(row) for row in rows])
    found = pad_batch(load_plain_tokenizer(folder), rows)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name].numpy())
        assert array.dtype == np.int64


def test_choices_are_padded_alike(folder):
    tokenizer = load_plain_tokenizer(folder)
    batch = pad_batch(tokenizer, [{"input_ids": [[5, 6], [7]]}, {"input_ids": [[5], [6]]}], side="right")
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[[5, 6], [7, pad]], [[5, pad], [6, pad]]]


def test_what_a_folder_lacks(toy, tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer in this folder \(no tokenizer.json\)"):
        load_plain_tokenizer(tmp_path)
    AutoTokenizer.from_pretrained(toy.tokenizer).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for key, value, message in (
        ("mask_token", None, "the tokenizer has no mask token, which the models need"),
        ("mask_token", "<none such>", "the tokenizer has no mask token"),
        ("padding_side", "top", "padding_side is 'top'; allowed: left, right"),
        ("model_max_length", -3, "model_max_length is -3; allowed: a number above 0"),
        ("model_max_length", "long", "model_max_length is 'long'"),
    ):
        file.write_text(json.dumps({**settings, key: value}))
        with pytest.raises(UserError, match=message):
            load_plain_tokenizer(tmp_path)
    file.write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json: no tokenizer could be loaded"):
        load_plain_tokenizer(tmp_path)
