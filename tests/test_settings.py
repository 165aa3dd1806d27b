"""Values of other types in task.json and config.json, and tokenizers whose ids have gaps."""

from __future__ import annotations

import errno
import json

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.activations import ACT2FN

from data.support import error_of, number_tokenizer
from funnelformer import FunnelformerConfig
from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.foreign_options import make_config
from funnelformer.config.model_options import _CHOICES
from funnelformer.data.tokenizer import check_vocabulary, load_tokenizer, model_ids, num_ids, save_tokenizer
from funnelformer.inference.export_config import read_export_config
from funnelformer.inference.settings import read_architectures, read_settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("max_length", value) for value in (-1, 0, 2, "x", 1.5, [1], None, True, 10**30)),
        *(("doc_stride", value) for value in (0, "x", 1.5, [1])),
        *(("windows", value) for value in ("last", "first:0", 3, ["mean"])),
        *(
            (key, value)
            for key in ("task", "text", "text_pair", "label", "label_separator")
            for value in (["a"], 1, "")
        ),
        *(("null_threshold", value) for value in ("x", [1], True, 10**300)),
    ],
)
def test_values_of_task_json(tmp_path, key, value):
    (tmp_path / "task.json").write_text(json.dumps({key: value}))
    message = error_of(read_settings, str(tmp_path))
    assert message.startswith(f"{tmp_path / 'task.json'}: {key} is ")
    assert "; allowed: " in message


def test_a_sound_task_json(tmp_path):
    task = {"task": None, "text": "a", "label": "b", "max_length": 3, "doc_stride": 1, "null_threshold": -1.5}
    (tmp_path / "task.json").write_text(json.dumps({**task, "of_a_later_version": [1]}))
    assert read_settings(str(tmp_path)) == {**task, "of_a_later_version": [1]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("vocab_size", value) for value in ("x", 1.5, [1], True, 10**30)),
        *(("problem_type", value) for value in ("x", 1, ["regression"])),
        *(("architectures", value) for value in ("FunnelformerModel", 1, [1])),
        *(("id2label", value) for value in ({"x": "a"}, {"1": "a"}, {"0": None}, {"0": ["a"]})),
        *(("pad_token_id", value) for value in ("x", 1.5, [1])),
        *(("hidden_dropout", value) for value in ("x", [1], True, float("nan"))),
        *(("hidden_act", value) for value in (1, ["gelu"])),
    ],
)
def test_values_of_config_json(key, value):
    message = error_of(make_config, {key: value}, "config.json")
    assert message.startswith("config.json: ")
    assert key in message


def test_architectures(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": 3}')
    assert error_of(read_architectures, str(tmp_path)) == (
        f"{tmp_path / 'config.json'}: architectures is 3; allowed: a list of names"
    )


def test_ids_with_gaps():
    """1,997 tokens with ids up to 2,000."""
    tokenizer = number_tokenizer()
    largest = max(tokenizer.get_vocab().values())
    assert len(tokenizer) <= largest
    assert num_ids(tokenizer) == largest + 1
    assert model_ids(tokenizer)["vocab_size"] == largest + 1
    check_vocabulary(tokenizer, largest + 1, "x")
    assert "ids up to 2000" in error_of(check_vocabulary, tokenizer, largest, "x")


def test_a_tokenizer_written_to_a_full_disk(monkeypatch, tmp_path):
    def fail(self, *_args, **_options):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left") as error:
        save_tokenizer(number_tokenizer(), tmp_path)
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}, "ab"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 2}, "ab"),
        ({"label2id": {"b": 1, "a": 0}}, "ab"),
        ({"label2id": {"b": "1", "a": "0"}}, "ab"),
        # What transformers leaves in the other key when only one is ever set.
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, "ab"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, "abc"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"a": 0, "b": 1}}, "ab"),
    ],
)
def test_names_of_classes(tmp_path, values, names):
    for config in configs(tmp_path, values):
        assert config.id2label == dict(enumerate(names))
        assert config.label2id == {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}},
            "label2id contradicts id2label: class 0 is 'b' in the one and 'a' in the other",
        ),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1, "c": 2}},
            "label2id contradicts id2label: class 2 is 'c' in the one and None in the other",
        ),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0}},
            "label2id contradicts id2label: class 1 is None",
        ),
        ({"label2id": {"a": 0, "b": 0}}, "label2id is {'a': 0, 'b': 0}; allowed: names, each with one of"),
        ({"label2id": {"a": 0, "b": 2}}, "label2id is {'a': 0, 'b': 2}; allowed: names, each with one of"),
        ({"label2id": {"a": 0.5}}, "label2id is {'a': 0.5}; allowed: names"),
        ({"label2id": ["a", "b"]}, "label2id is ['a', 'b']; allowed: names"),
        (
            {"id2label": {"0": "a", "2": "b"}},
            "id2label is {'0': 'a', '2': 'b'}; allowed: the numbers from 0 on",
        ),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label has two classes with the name 'a'"),
        (
            {"id2label": {"0": "a", "1": "b"}, "num_labels": 3},
            "num_labels is 3, but there are names for 2 classes",
        ),
        ({"num_labels": "x"}, "num_labels is 'x'; allowed: a whole number, 1 or more"),
        (
            {"num_labels": 1, "problem_type": "single_label_classification"},
            "num_labels is 1, but problem_type is single_label_classification; allowed: 2 or more classes",
        ),
        ({"dtype": "nope"}, "dtype is 'nope'; allowed: float64, float32, float16, bfloat16"),
        ({"torch_dtype": "int8"}, "dtype is 'int8'; allowed: float64"),
        ({"hidden_act": "nope"}, "hidden_act is 'nope'; allowed: gelu, gelu_10"),
    ],
)
def test_classes_and_words_that_cannot_be(tmp_path, values, message):
    """Of a model of ours, of an export, and of another library's, which never blames the tokenizer beside it."""
    for kind, read in READERS.items():
        if kind == "export" and "dtype" in message:
            continue  # which a graph says itself
        folder = tmp_path / kind
        write_config(folder, kind, values)
        said = error_of(read, folder)
        assert said.startswith(f"{folder / 'config.json'}: model config: {message}"), kind


READERS = {
    "ours": FunnelformerConfig.from_pretrained,
    "export": read_export_config,
    "bert": FunnelformerConfig.from_pretrained,
    "funnel": FunnelformerConfig.from_pretrained,
    "tokenizer": load_tokenizer,
}


def configs(folder, values):
    for kind in ("ours", "export", "bert", "funnel"):
        write_config(folder / kind, kind, values)
        yield READERS[kind](folder / kind)


def write_config(folder, kind, values):
    folder.mkdir()
    model_type = kind if kind in ("bert", "funnel") else "funnelformer"
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **values}))
    if kind == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("distilbert", "activation", "nope"),
        ("bert", "hidden_dropout_prob", 5),
        ("bert", "attention_probs_dropout_prob", -1),
        ("funnel", "d_inner", 0),
        ("roberta", "intermediate_size", 0),
    ],
)
def test_a_key_of_another_library_is_called_by_its_name(tmp_path, model_type, key, value):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, key: value}))
    message = error_of(FunnelformerConfig.from_pretrained, tmp_path)
    assert message.startswith(f"{tmp_path / 'config.json'}: ")
    assert f"{key} is {value!r}; allowed: " in message


def test_weights_that_say_they_are_quantised(tmp_path):
    write_config(tmp_path / "a", "ours", {"quantization_config": {"quant_method": "nope"}})
    for read in (FunnelformerConfig.from_pretrained, load_folder):
        assert error_of(read, tmp_path / "a") == (
            f"{tmp_path / 'a' / 'config.json'}: quantization_config is given; allowed: none, "
            "because quantised weights cannot be read"
        )


def test_the_activations_are_transformers():
    assert set(_CHOICES["hidden_act"]) == {*ACT2FN} - {"prelu", "xielu"}  # which have weights of their own
