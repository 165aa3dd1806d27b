"""Values of other types in task.json and config.json, and tokenizers whose ids have gaps."""

from __future__ import annotations

import errno
import json

import pytest
from transformers import PreTrainedTokenizerFast

from data.support import error_of, number_tokenizer
from funnelformer.checkpoints.foreign_options import make_config
from funnelformer.data.tokenizer import check_vocabulary, model_ids, num_ids, save_tokenizer
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
