"""The authors' PyTorch form: reading, writing back bit for bit, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from funnelformer.base.errors import UserError
from funnelformer.checkpoints import original_torch
from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.net_config import config_values, net_config
from funnelformer.checkpoints.weights import read_state_dict
from funnelformer.config.model_config import FunnelformerConfig
from golden_cases import golden_folders, load_case_model

PT_FOLDERS = pytest.mark.parametrize("folder", golden_folders("pt_"), ids=lambda path: path.name)


def tree(folder: Path) -> dict[str, Any]:
    return json.loads(original_torch.find_config(folder).read_text())


@PT_FOLDERS
def test_round_trip_is_exact_and_in_order(folder: Path, tmp_path: Path) -> None:
    loaded = original_torch.load(folder)
    config, state, architecture = loaded.config, loaded.state_dict, loaded.architecture
    assert not loaded.ignored
    assert (config.padding, config.default_token_type_id, config.layer_norm_eps) == ("original", None, 1e-9)
    assert original_torch.save(config, state, architecture, tmp_path) == {}
    source = read_state_dict(
        next(folder / name for name in original_torch.WEIGHTS if (folder / name).exists())
    )
    written = read_state_dict(tmp_path / "model.ckpt.pt")
    assert all(torch.equal(written[name], source[name]) for name in source)
    # fine-tuning stores its modules in another order than the published converter
    assert (list if architecture == "model" else set)(written) == (list if architecture == "model" else set)(
        source
    )
    assert (tmp_path / "net_config.pytorch.json").read_text() == original_torch.find_config(
        folder
    ).read_text()


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, atol=1e-5)


def test_kernels_turn_around(golden: Path) -> None:
    folder = golden / "pt_b222_sep_qonly_mean"
    theirs = read_state_dict(folder / "model.ckpt.pt")
    ours = load_folder(folder).state_dict
    x = torch.randn(32, generator=torch.Generator().manual_seed(0))
    layer = "encoder.blocks.1.0."  # layer 2, counted through
    query = torch.einsum("d,dhe->he", x, theirs["attn_layers.2.q_head.weight"]).flatten()
    assert close(ours[f"{layer}mixer.query.weight"] @ x, query)
    relative = torch.einsum("d,dhe->he", x, theirs["attn_layers.2.r_kernel"]).flatten()
    assert close(ours[f"{layer}mixer.relative.weight"] @ x, relative)
    output = torch.einsum("he,hed->d", x.reshape(4, 8), theirs["attn_layers.2.post_proj.weight"])
    assert close(ours[f"{layer}mixer.output.weight"] @ x, output)
    assert close(ours[f"{layer}feed_forward.expand.weight"] @ x, x @ theirs["pffn_layers.2.pffn.0.weight"])


def test_tensorflow_names_give_what_the_published_converter_gives(golden: Path) -> None:
    _, converted = load_case_model(golden / "pt_from_tf_full_e32_b1_1x2_d1")
    config, state = load_case_model(golden / "tf_full_e32_b1_1x2_d1")
    assert (config.decoder_layers, config.blocks, config.repeats) == (1, [1, 1], [1, 2])
    assert all(torch.equal(state[name], converted[name]) for name in converted)
    assert any(name.startswith("decoder.layers.0.") for name in state)


def test_finetuned_head(golden: Path) -> None:
    loaded = load_folder(golden / "pt_finetuned_form")
    assert loaded.architecture == "sequence_classification"
    assert loaded.config.num_labels == 3
    assert loaded.state_dict["classifier.output.weight"].shape == (3, 32)
    assert "funnelformer.embeddings.word_embeddings.weight" in loaded.state_dict


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"block_size": "2_x2"}, "block_size is '2_x2'; allowed: layers"),
        ({"block_size": "0_2"}, "blocks is \\[0, 2\\]"),
        ({"pooling_size": 3}, "pooling_size is 3; allowed: 2"),
        ({"pooling_type": "median"}, "pooling is 'median'"),
        ({"d_modle": 4}, "unknown key 'd_modle'; did you mean 'd_model'"),
        ({"d_embed": 16}, "d_embed is not d_model"),
        ({"ff_activation": "swish"}, "ff_activation is 'swish'"),
        ({"d_model": None}, "key 'd_model' is missing"),
    ],
)
def test_bad_config(tmp_path: Path, golden: Path, change: dict[str, Any], expected: str) -> None:
    source = golden / "pt_single_sep"
    net = {key: value for key, value in {**tree(source), **change}.items() if value is not None}
    (tmp_path / "net_config.pytorch.json").write_text(json.dumps(net))
    shutil.copy(source / "model.ckpt.pt", tmp_path)
    with pytest.raises(UserError, match=expected) as error:
        load_folder(tmp_path)
    assert "net_config.pytorch.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("attn_layers.1.r_kernel", None, "'attn_layers.1.r_kernel' of shape \\[32, 4, 8\\] is missing"),
        ("input_layer.1.bias", torch.ones(31), "shape \\[31\\], expected \\[32\\]"),
        # the same numbers in another shape must not pass for an input-first kernel
        ("pffn_layers.0.pffn.0.weight", torch.ones(64, 32), "shape \\[64, 32\\], expected \\[32, 64\\]"),
        ("attn_layers.9.r_w_bias", torch.ones(4, 8), "'attn_layers.9.r_w_bias' belongs to no part"),
        ("input_layer.1.bias", torch.ones(32, dtype=torch.int64), "is int64, so it is not a weight"),
    ],
)
def test_bad_tensor(
    tmp_path: Path, golden: Path, name: str, tensor: torch.Tensor | None, expected: str
) -> None:
    source = golden / "pt_single_sep"
    state = read_state_dict(source / "model.ckpt.pt")
    state.pop(name, None)
    torch.save(state if tensor is None else {**state, name: tensor}, tmp_path / "model.ckpt.pt")
    shutil.copy(source / "net_config.pytorch.json", tmp_path)
    with pytest.raises(UserError, match=expected) as error:
        load_folder(tmp_path)
    assert "model.ckpt.pt" in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pooling": "top"}, "cannot hold pooling='top'"),
        ({"position": "absolute", "hidden_act": "relu"}, "position='absolute', hidden_act='relu'"),
        ({"layer_norm_eps": 1e-5}, "cannot hold layer_norm_eps=1e-05; --set layer_norm_eps=1e-09"),
        ({"padding": "exact"}, "--set padding=original"),
        ({"default_token_type_id": 0}, "--set default_token_type_id=none"),
    ],
)
def test_options_the_form_cannot_hold(golden: Path, change: dict[str, Any], expected: str) -> None:
    loaded = original_torch.load(golden / "pt_single_sep")
    config = FunnelformerConfig(**{**loaded.config.to_dict(), **change})
    with pytest.raises(UserError, match=expected):
        original_torch.export(config, loaded.state_dict, loaded.architecture)


def test_layouts() -> None:
    net = {"block_size": "1_2x2_1x3", "decoder_size": "1x2"}
    net |= dict.fromkeys(["d_embed", "d_model", "d_inner", "d_head", "n_head", "vocab_size"], 8)
    net |= dict.fromkeys(["dropout", "dropatt", "dropact"], 0.0)
    net |= {"separate_cls": True, "pooling_type": "mean", "pool_q_only": True, "pooling_size": 2}
    config = FunnelformerConfig(**config_values(net, "net"))
    assert (config.blocks, config.repeats) == ([1, 2, 1], [1, 2, 3])
    assert (config.decoder_layers, config.decoder_repeats) == (1, 2)
    assert net_config(config)["block_size"] == "1_2x2_1x3"
