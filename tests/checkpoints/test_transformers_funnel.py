"""transformers' Funnel: configs and weights in both directions, equal outputs of both implementations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import FunnelConfig

from funnelformer.base.errors import UserError
from funnelformer.checkpoints import transformers_funnel
from funnelformer.checkpoints.compare import build_model, difference, probe_output, reference_model
from funnelformer.checkpoints.folders import load_folder
from funnelformer.config.model_config import FunnelformerConfig

# measured: 2.8e-5 in float32, logits up to about 7
TOLERANCE = 1e-4


def max_difference(first, second, config):
    return difference(probe_output(first, config), probe_output(second, config))


CLASSES = {
    "FunnelModel": "model",
    "FunnelBaseModel": "model",
    "FunnelForMaskedLM": "masked_lm",
    "FunnelForSequenceClassification": "sequence_classification",
    "FunnelForTokenClassification": "token_classification",
    "FunnelForQuestionAnswering": "question_answering",
    "FunnelForMultipleChoice": "multiple_choice",
    "FunnelForPreTraining": "token_detection",
}


def save_stock(name: str, config: FunnelConfig, folder: Path) -> Path:
    if name == "FunnelForQuestionAnswering":
        config.num_labels = 2  # the only number with which it runs
    getattr(transformers, name)(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_round_trip_and_outputs(name: str, tiny_funnel: FunnelConfig, tmp_path: Path) -> None:
    source = save_stock(name, tiny_funnel, tmp_path / "source")
    loaded = load_folder(source)
    assert (loaded.source, loaded.architecture, loaded.ignored) == ("transformers-funnel", CLASSES[name], {})
    has_decoder = name not in transformers_funnel.WITHOUT_DECODER
    assert loaded.config.decoder_layers == (1 if has_decoder else 0)
    assert loaded.config.decoder_skip_state == (2 if has_decoder else None)
    ours = build_model(loaded.config, loaded.state_dict, loaded.architecture)
    assert max_difference(ours, reference_model(loaded), loaded.config) < TOLERANCE

    left_out = transformers_funnel.save(
        loaded.config, ours.state_dict(), loaded.architecture, tmp_path / "back"
    )
    # a built model has the tied weight, the file has not
    assert set(left_out) == ({"lm_head.decoder.weight"} if loaded.architecture == "masked_lm" else set())
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == [name]
    written = load_folder(tmp_path / "back")
    assert max_difference(reference_model(loaded), reference_model(written), loaded.config) == 0.0


def test_config_both_ways(tiny_funnel: FunnelConfig) -> None:
    tiny_funnel.pooling_type, tiny_funnel.pool_q_only, tiny_funnel.separate_cls = "max", False, False
    tiny_funnel.id2label = {0: "no", 1: "yes", 2: "perhaps"}
    tiny_funnel.label2id = {"no": 0, "yes": 1, "perhaps": 2}
    ours = transformers_funnel.config_from_theirs(tiny_funnel.to_dict(), "x", decoder=True)
    assert (ours.blocks, ours.repeats, ours.pooling, ours.mlm_head) == ([2, 1], [2, 2], "max", "linear")
    back = transformers_funnel.config_to_theirs(ours, "model").to_dict()
    known = {key: value for key, value in tiny_funnel.to_dict().items() if key != "architectures"}
    assert {key: back[key] for key in known} == known


def test_two_fields_are_not_in_their_form(tiny_funnel: FunnelConfig) -> None:
    ours = transformers_funnel.config_from_theirs(tiny_funnel.to_dict(), "x", decoder=True)
    assert (ours.padding, ours.default_token_type_id) == ("transformers", 0)


def test_class_is_told_from_the_weights_where_the_config_does_not_say(
    tiny_funnel: FunnelConfig, tmp_path: Path
) -> None:
    for name, architecture in CLASSES.items():
        if name == "FunnelForMultipleChoice":
            continue  # its weights are those of a classifier with one class
        folder = save_stock(name, tiny_funnel, tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        del config["architectures"]
        (folder / "config.json").write_text(json.dumps(config))
        assert load_folder(folder).architecture == architecture


def test_untied_output_is_kept(tiny_funnel: FunnelConfig, tmp_path: Path) -> None:
    tiny_funnel.tie_word_embeddings = False
    loaded = load_folder(save_stock("FunnelForMaskedLM", tiny_funnel, tmp_path))
    assert "lm_head.decoder.weight" in loaded.state_dict
    ours = build_model(loaded.config, loaded.state_dict, "masked_lm")
    assert max_difference(ours, reference_model(loaded), loaded.config) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pooling": "top"}, "pooling='top'"),
        ({"position": "absolute"}, "position='absolute'"),
        ({"embedding_size": 8}, "embedding_size=8"),
        ({"decoder_repeats": 2}, "decoder_repeats=2"),
        ({"cls_token_type_id": 3}, "cls_token_type_id=3"),
        ({"padding": "exact"}, "padding='exact'; --set padding=transformers converts"),
        ({"default_token_type_id": None}, "--set default_token_type_id=0 converts"),
        ({"decoder_skip_state": None}, "--set decoder_skip_state=2 converts"),
        ({"decoder_skip_state": 1}, "--set decoder_skip_state=2 converts"),
    ],
)
def test_options_the_form_cannot_hold(
    tiny_funnel: FunnelConfig, change: dict[str, Any], expected: str
) -> None:
    ours = transformers_funnel.config_from_theirs(tiny_funnel.to_dict(), "x", decoder=True)
    with pytest.raises(UserError, match=expected) as error:
        transformers_funnel.config_to_theirs(FunnelformerConfig(**{**ours.to_dict(), **change}), "model")
    assert "\n" not in str(error.value)


def test_dense_masked_lm_head_cannot_be_held(tiny_funnel: FunnelConfig) -> None:
    ours = transformers_funnel.config_from_theirs(tiny_funnel.to_dict(), "x", decoder=True)
    config = FunnelformerConfig(**{**ours.to_dict(), "mlm_head": "dense"})
    with pytest.raises(UserError, match="mlm_head='dense'"):
        transformers_funnel.config_to_theirs(config, "masked_lm")
    transformers_funnel.config_to_theirs(config, "model")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pooling_type": "median"}, "median"),
        ({"block_sizes": [2, 1, 1]}, "same length"),
        ({"architectures": ["BertModel"]}, "architectures is \\['BertModel'\\]"),
        ({"num_decoder_layers": 0}, "num_decoder_layers is 0"),
        ({"d_model": 18}, "expected \\[50, 18\\]"),
    ],
)
def test_bad_config(tiny_funnel: FunnelConfig, tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    folder = save_stock("FunnelModel", tiny_funnel, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=expected) as error:
        load_folder(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_missing_and_unknown_tensors(tiny_funnel: FunnelConfig, tmp_path: Path) -> None:
    folder = save_stock("FunnelModel", tiny_funnel, tmp_path)
    state = load_file(folder / "model.safetensors")
    name = "decoder.layers.0.attention.r_kernel"
    save_file({key: state[key] for key in state if key != name}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"r_kernel' of shape \[16, 2, 4\] is missing"):
        load_folder(folder)
    save_file({**state, "encoder.extra": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor 'encoder\.extra' belongs to no part of this model"):
        load_folder(folder)
