"""Reading torch files: what is read, what is refused, and that nothing in a file is run."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from funnelformer.base.errors import UserError
from funnelformer.checkpoints.torch_file import Placeholder, read_torch_file
from funnelformer.checkpoints.weights import read_state_dict

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Payload:
    """Runs a command when unpickled in the ordinary way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Importer:
    """Imports a module when unpickled in the ordinary way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("antigravity",)


def save(value: Any, path: Path, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def one_line(error: pytest.ExceptionInfo[UserError], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@FORMS
def test_optimizer_becomes_a_placeholder_and_the_weights_are_complete(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    # a view that shares its storage and a transposed one, as real state dicts have
    base = torch.arange(12.0).reshape(3, 4)
    state = OrderedDict(
        model.state_dict(), view=base[1:], turned=base.T, half=base.half(), empty=torch.empty(0, 3)
    )
    path = save([state, optimizer], tmp_path / "model.pt", zipped)
    read, placeholder = read_torch_file(path)
    assert isinstance(placeholder, Placeholder)
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert read_state_dict(path).keys() == state.keys()


def test_released_finetuned_form_equals_an_ordinary_load(golden: Path) -> None:
    path = golden / "pt_finetuned_form" / "model.pt"
    expected = torch.load(path, weights_only=False)[0]
    state = read_state_dict(path)
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)


@FORMS
@pytest.mark.parametrize("nested", ["alone", "in_list", "in_state_dict", "beside_optimizer", "as_key"])
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool, nested: str) -> None:
    ran = tmp_path / "ran"
    evil = Payload(f"touch {ran}")
    value = {
        "alone": evil,
        "in_list": [evil],
        "in_state_dict": OrderedDict(weight=torch.ones(2), other=evil),
        "beside_optimizer": [{"weight": torch.ones(2)}, torch.optim.SGD([torch.ones(1)]), evil],
        "as_key": {("a", evil): torch.ones(1)},
    }[nested]
    path = save(value, tmp_path / "model.pt", zipped)
    for read in (read_torch_file, read_state_dict):
        with pytest.raises(UserError) as error:
            read(path)
        assert f"holds code ({os.name}.system): refused" in one_line(error, path)
    assert not ran.exists()


@FORMS
def test_nothing_is_imported(tmp_path: Path, zipped: bool) -> None:
    path = save([{}, Importer()], tmp_path / "model.pt", zipped)
    with pytest.raises(UserError, match=r"holds code \(builtins.__import__\): refused"):
        read_torch_file(path)


def test_code_in_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Payload(f"touch {tmp_path / 'ran'}")))
    with pytest.raises(UserError, match="holds code"):
        read_torch_file(path)
    assert not (tmp_path / "ran").exists()


def test_attributes_of_what_the_file_is_given_cannot_be_set(tmp_path: Path) -> None:
    # GLOBAL torch._utils._rebuild_tensor_v2, then BUILD with (None, {"_call": ...})
    body = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00_callK\x01s\x86b."
    header = b"".join(
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    path = tmp_path / "model.pt"
    path.write_bytes(header + body + pickle.dumps([], 2))
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    one_line(error, path)
    assert (
        len(
            read_torch_file(save([torch.ones(2), torch.optim.SGD([torch.ones(1)])], tmp_path / "ok.pt", True))
        )
        == 2
    )


@FORMS
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 0.999])
def test_cut_short(tmp_path: Path, zipped: bool, keep: float) -> None:
    model = torch.nn.Linear(40, 40)
    path = save([model.state_dict(), torch.optim.AdamW(model.parameters())], tmp_path / "model.pt", zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"hello, this is text\n", "not a PyTorch checkpoint"),
        (bytes(range(256)) * 4, "not a PyTorch checkpoint"),
        (pickle.dumps([1, 2]), "not a PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(64), "cut short or damaged"),
    ],
)
def test_garbage(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as error:
        read_torch_file(path)
    one_line(error, path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_torch_file(tmp_path / "model.pt")


def test_tensor_outside_its_storage_is_refused(tmp_path: Path) -> None:
    path = save([{"weight": torch.ones(4)}, torch.optim.SGD([torch.ones(1)])], tmp_path / "model.pt", False)
    content = path.read_bytes()
    # the tensor's size, a one-tuple of 4, becomes 9
    damaged = content.replace(b"K\x04\x85", b"K\x09\x85")
    assert damaged != content
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="outside its storage"):
        read_torch_file(path)
