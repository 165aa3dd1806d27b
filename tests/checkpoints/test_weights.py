"""State dicts: the file forms, shards, and the tensors that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.base.errors import UserError
from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.weights import check_weights, read_state_dict, write_safetensors
from funnelformer.cost.info import describe


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(tmp_path: Path, name: str, bad: float) -> None:
    path = write({"fine": torch.ones(3), "broken": torch.tensor([0.0, bad])}, tmp_path / name)
    with pytest.raises(UserError, match="tensor 'broken' holds NaN or infinity"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_joined(tmp_path: Path, suffix: str) -> None:
    names = [f"model-{i}{suffix}" for i in range(2)]
    for i, name in enumerate(names):
        write({f"t{i}": torch.full((2,), float(i))}, tmp_path / name)
    index = tmp_path / f"model{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": {"t0": names[0], "t1": names[1]}}))
    assert {name: tensor.tolist() for name, tensor in read_state_dict(index).items()} == {
        "t0": [0, 0],
        "t1": [1, 1],
    }


@pytest.mark.parametrize(
    ("weight_map", "expected"),
    [
        ({"t0": "../elsewhere.bin"}, "not a plain file name"),
        ({"t0": "absent.bin"}, "names the shard absent.bin, and there is no such file"),
        ({"t0": "one.bin", "t9": "one.bin"}, "'t9' is in the index but not in its shard one.bin"),
        ({"t0": "one.bin", "t9": "two.bin"}, "'t9' is in the index but not in its shard two.bin"),
        ({"t0": "one.bin", "t1": "one.bin"}, "'t1' is in the index but not in its shard one.bin"),
        ({"t0": "one.bin", "t1": "two.bin"}, r"two.bin: holds tensor 't2', which .*index.json does not list"),
        (
            {"t0": "two.bin", "t1": "two.bin", "t2": "two.bin"},
            "'t0' is in the index but not in its shard two.bin",
        ),
        ({}, "'weight_map' is missing or empty"),
        ([1], "'weight_map' is missing or empty"),
        ({"t0": ["one.bin"]}, r"shard \['one.bin'\] is not a plain file name"),
        ({"t0": {"one.bin": 1}}, "is not a plain file name"),
        ({"t0": "pytorch_model.bin.index.json"}, "is not a plain file name of weights"),
        ({"t0": "o\nne.bin"}, "is not a plain file name"),
    ],
)
def test_bad_index(tmp_path: Path, weight_map: Any, expected: str) -> None:
    write({"t0": torch.ones(1)}, tmp_path / "one.bin")
    write({"t1": torch.ones(1), "t2": torch.ones(1)}, tmp_path / "two.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for read in (lambda: read_state_dict(index), lambda: check_weights(tmp_path)):
        with pytest.raises(UserError, match=expected):
            read()


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    """Neither of them counts more than the other."""
    write({"t0": torch.ones(1)}, tmp_path / "one.safetensors")
    write({"t0": torch.zeros(1), "t1": torch.ones(1)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t0": "one.safetensors", "t1": "two.safetensors"}}))
    for read in (lambda: read_state_dict(index), lambda: check_weights(tmp_path)):
        with pytest.raises(
            UserError, match=r"two.safetensors: holds tensor 't0', which .* does not list for this shard"
        ):
            read()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_numbers_that_need_scales_are_no_weights(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    """Of our own folders, wherever they are read; other libraries' tensors go through a table that asks the same."""
    config = FunnelformerConfig.from_name("L1H16", vocab_size=20, architectures=["FunnelformerModel"])
    model = FunnelformerModel(config)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    name = "encoder.blocks.0.0.mixer.query.weight"
    config.save_pretrained(tmp_path)
    path = write(
        {**state, name: (state[name] * 100).to(dtype)},
        tmp_path / {".bin": "pytorch_model.bin"}.get(suffix, "model.safetensors"),
    )
    expected = rf"{path.name}: tensor '{name}' is (u?int\d+|bool|float8\w*), so it is not a weight without the scales"
    for read in (load_folder, FunnelformerModel.from_pretrained, describe):
        with pytest.raises(UserError, match=expected):
            read(tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0.5, 2], "holds a list, not a state dict"),
        ({}, "holds an empty dict"),
        ({"step": 3}, "entry 'step' is a int, not a tensor"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
    ],
)
def test_no_state_dict(tmp_path: Path, value: Any, expected: str) -> None:
    path = tmp_path / "model.pt"
    torch.save(value, path)
    with pytest.raises(UserError, match=expected):
        read_state_dict(path)


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = write({"t": torch.ones(100)}, tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="cut short or damaged") as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)


def test_every_kind_of_number_is_written(tmp_path):
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    dtypes += (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    state = {str(dtype): torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype) for dtype in dtypes}
    write_safetensors(state, tmp_path / "a.safetensors")
    found = read_state_dict(tmp_path / "a.safetensors")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_other_numbers_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(
        UserError, match=r"a.safetensors: tensor 'x' is complex64; allowed: float64, .*, bool"
    ):
        write_safetensors({"x": torch.zeros(2, dtype=torch.complex64)}, path)
    assert not path.exists()
