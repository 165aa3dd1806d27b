"""The published PoNet form: what is read, what is left out, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from funnelformer import (
    FunnelformerForSequenceClassification,
    FunnelformerForTokenClassification,
    FunnelformerModel,
)
from funnelformer.base.errors import UserError
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.weights import read_state_dict


@pytest.fixture
def ponet(golden: Path) -> Path:
    return golden / "ponet_clsgsepg"


@pytest.fixture
def copy(ponet: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(ponet, folder)
    return folder


def change(
    folder: Path, config: dict | None = None, drop: tuple[str, ...] = (), **tensors: torch.Tensor
) -> None:
    values = json.loads((folder / "config.json").read_text()) | (config or {})
    values = {key: value for key, value in values.items() if key not in drop}
    (folder / "config.json").write_text(json.dumps(values))
    state = read_state_dict(folder / "pytorch_model.bin") | tensors
    state = {name: tensor for name, tensor in state.items() if name not in drop}
    torch.save(state, folder / "pytorch_model.bin")


def test_every_tensor_is_used_or_left_out_with_a_reason(ponet: Path) -> None:
    loaded = load_folder(ponet)
    assert (loaded.source, loaded.architecture) == ("ponet", "masked_lm")
    theirs = read_state_dict(ponet / "pytorch_model.bin")
    assert len(loaded.state_dict) + len(loaded.ignored) == len(theirs)
    assert set(loaded.ignored) == {
        "cls.predictions.decoder.bias",
        "cls.predictions.decoder.weight",
        "ponet.embeddings.position_ids",
        "ponet.pooler.dense.bias",
        "ponet.pooler.dense.weight",
    }
    config = loaded.config
    read = (config.mixer, config.position, config.type_vocab_size, config.cls_token_id, config.sep_token_id)
    assert read == ("ponet", "absolute", 2, 101, 102)


def test_convert(ponet: Path, tmp_path: Path) -> None:
    report = convert(ponet, tmp_path / "ours")
    assert report.source_format == "ponet"
    assert report.difference == 0.0
    with pytest.raises(UserError, match=r"cannot hold mixer='ponet', .*position='absolute'"):
        convert(ponet, tmp_path / "original", "original-torch")
    with pytest.raises(UserError, match=r"transformers' Funnel cannot hold"):
        convert(ponet, tmp_path / "transformers", "transformers")


def test_a_classifier_reads_the_pooler(copy: Path) -> None:
    head = {"classifier.weight": torch.randn(3, 32), "classifier.bias": torch.randn(3)}
    change(copy, {"architectures": ["PoNetForSequenceClassification"]}, **head)
    model = FunnelformerForSequenceClassification.from_pretrained(copy).eval()
    body = FunnelformerModel.from_pretrained(copy).eval()
    theirs = read_state_dict(copy / "pytorch_model.bin")
    ids = torch.tensor([[101, 7, 8, 102, 9, 102]])
    first = body(ids).last_hidden_state[:, 0]
    pooled = torch.tanh(first @ theirs["ponet.pooler.dense.weight"].T + theirs["ponet.pooler.dense.bias"])
    expected = pooled @ head["classifier.weight"].T + head["classifier.bias"]
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "drop", "tensors", "message"),
    [
        ({}, ("hidden_size",), {}, "config.json: key 'hidden_size' is missing"),
        ({"num_attention_heads": 5}, (), {}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ({"num_hidden_layers": 0}, (), {}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 2}, (), {}, "tensor 'ponet.encoder.layer.2.*belongs to no part"),
        (
            {},
            ("ponet.embeddings.LayerNorm.bias",),
            {},
            "'ponet.embeddings.LayerNorm.bias' of shape .32. is missing",
        ),
        (
            {},
            (),
            {"cls.predictions.bias": torch.zeros(4)},
            "'cls.predictions.bias' has shape .4., expected .120.",
        ),
    ],
)
def test_what_does_not_fit_is_named(copy, config, drop, tensors, message) -> None:
    change(copy, config, drop, **tensors)
    with pytest.raises(UserError, match=message):
        load_folder(copy)


def test_document_segmentation(copy: Path) -> None:
    """The head over tokens, published beside the backbone, as a model of its own: the recorded logits."""
    head = read_state_dict(copy / "document_segmentation_head.pt")
    change(copy, {"architectures": ["PoNetForDocumentSegmentation"]}, **head)
    loaded = load_folder(copy)
    assert loaded.architecture == "token_classification"
    assert not [name for name in loaded.ignored if name.startswith("classifier")]
    model = FunnelformerForTokenClassification.from_pretrained(copy).eval()
    arrays = np.load(copy / "cases.npz")
    inputs = {
        name: torch.from_numpy(arrays[f"derived_masked/{name}"]).long()
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    with torch.no_grad():
        logits = model(**inputs).logits
    expected = torch.from_numpy(arrays["derived_masked/docseg_logits"])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
