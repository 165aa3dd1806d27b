"""Damaged files of every form: whatever is in them, a reader returns a model or raises one UserError of one line.

Each form is read from 150 damaged files; marked slow, from 5,000. The damage: bytes changed, inserted, repeated, taken
out, the end cut off, several at once. Reading means all of it: config, tensors, and every number in them.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.base.errors import UserError
from funnelformer.checkpoints import native, original_tf, original_torch
from funnelformer.checkpoints.archives import unpacked
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import map_folder
from funnelformer.checkpoints.torch_file import read_torch_file
from funnelformer.checkpoints.verify import read_cases

FEW, MANY = 150, 5000


def tiny() -> FunnelformerModel:
    torch.manual_seed(0)
    options = {
        "padding": "original",
        "vocab_size": 7,
        "embedding_size": 8,
        "num_attention_heads": 2,
        "head_size": 4,
    }
    return FunnelformerModel(
        FunnelformerConfig(blocks=[1, 1], hidden_size=8, intermediate_size=8, decoder_layers=1, **options)
    )


def torch_zip(folder: Path) -> Path:
    model = tiny()
    original_torch.save(model.config, model.state_dict(), "model", folder)
    return folder / "model.ckpt.pt"


def torch_older(folder: Path) -> Path:
    path = torch_zip(folder)
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    return path


def finetuned(zipped: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = torch_zip(folder)
        parameter = torch.nn.Parameter(torch.ones(3))
        parameter.grad = torch.ones(3)
        optimizer = torch.optim.AdamW([parameter])
        optimizer.step()
        torch.save([torch.load(path), optimizer], path, _use_new_zipfile_serialization=zipped)
        return path

    return make


def safetensors(folder: Path) -> Path:
    model = tiny()
    native.save(model.config, model.state_dict(), "model", folder)
    return folder / "model.safetensors"


def config(folder: Path) -> Path:
    return safetensors(folder).with_name("config.json")


def tensorflow(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pytest.importorskip("google_crc32c")
        model = tiny()
        changes = {"layer_norm_eps": 1e-8}
        changed = FunnelformerConfig(**{**model.config.to_dict(), **changes})
        original_tf.save(changed, model.state_dict(), "model", folder)
        return folder / name

    return make


def archive(folder: Path) -> Path:
    inner = folder / "inner"
    torch_zip(inner)
    path = folder / "model.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(inner, "inner")
    return path


def cases(folder: Path) -> Path:
    path = folder / "cases.npz"
    np.savez(path, **{"c0/inputs": np.zeros((1, 4), int), "c0/hidden_00": np.zeros((1, 4, 8), np.float32)})
    return path


def read_model(path: Path) -> None:
    loaded = map_folder(path.parent)
    for tensor in loaded.state_dict.values():
        tensor.sum()


def read_archive(path: Path) -> None:
    with unpacked(path) as folder:
        map_folder(folder)


FORMS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "torch zip": (torch_zip, read_model),
    "torch older": (torch_older, read_model),
    "fine-tuned zip": (finetuned(True), read_model),
    "fine-tuned older": (finetuned(False), read_model),
    "torch zip, copied": (torch_zip, read_torch_file),
    "safetensors": (safetensors, read_model),
    "config.json": (config, read_model),
    "TensorFlow index": (tensorflow("model.ckpt.index"), read_model),
    "TensorFlow data": (tensorflow("model.ckpt.data-00000-of-00001"), read_model),
    "net_config.json": (tensorflow("net_config.json"), read_model),
    "tar.gz": (archive, read_archive),
    "cases.npz": (cases, read_cases),
}
PLACE = st.floats(0, 1, exclude_max=True)
DAMAGE = st.one_of(
    st.tuples(st.just("change"), PLACE, st.integers(0, 255)),
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 64)),
    st.tuples(st.just("remove"), PLACE, st.integers(1, 64)),
    st.tuples(st.just("cut"), PLACE, st.just(0)),
)


def damaged(content: bytes, damages: list[tuple[str, float, object]], from_end: bool) -> bytes:
    data = bytearray(content)
    for kind, share, value in damages:
        # heads and tails are where the forms keep what is not plain numbers
        span = min(len(data), 1024) if from_end else len(data)
        at = len(data) - span + int(share * span)
        if kind == "change":
            data[at : at + 1] = bytes([value])
        elif kind == "flip" and at < len(data):
            data[at] ^= 1 << value
        elif kind == "insert":
            data[at:at] = value
        elif kind == "repeat":
            data[at:at] = data[at : at + value]
        elif kind == "remove":
            del data[at : at + value]
        else:
            del data[at:]
    return bytes(data)


def fuzz(form: str, folder: Path, number: int) -> None:
    make, read = FORMS[form]
    path = make(folder)
    content = path.read_bytes()
    read(path)

    @settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damages=st.lists(DAMAGE, min_size=1, max_size=3), from_end=st.booleans(), head=st.booleans())
    def run(damages: list[tuple[str, float, object]], from_end: bool, head: bool) -> None:
        if head and not from_end:
            first = content[:1024]
            path.write_bytes(damaged(first, damages, False) + content[1024:])
        else:
            path.write_bytes(damaged(content, damages, from_end))
        try:
            read(path)
        except UserError as error:
            if "\n" in str(error):
                raise

    run()


@pytest.mark.parametrize("form", FORMS)
def test_damaged_file(form: str, tmp_path: Path) -> None:
    fuzz(form, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("form", FORMS)
def test_many_damaged_files(form: str, tmp_path: Path) -> None:
    fuzz(form, tmp_path, MANY)


@pytest.mark.parametrize(
    "form", ["torch zip", "torch older", "safetensors", "TensorFlow index", "TensorFlow data"]
)
def test_nothing_is_left_of_a_conversion_that_fails(form: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = FORMS[form][0](source)
    content = path.read_bytes()
    for share in (0.0, 0.2, 0.6, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match=path.name.split(".data")[0]) as error:
            convert(source, tmp_path / "out", "original-torch" if form == "safetensors" else "funnelformer")
        assert "\n" not in str(error.value)
        assert {entry.name for entry in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize("form", ["torch zip", "torch older", "safetensors", "TensorFlow data"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none(form: str, number: float, tmp_path: Path) -> None:
    """NaN in an otherwise sound file of every form."""
    model = tiny()
    state = dict(model.state_dict())
    state["encoder.blocks.1.0.mixer_norm.bias"] = torch.full((8,), number)
    if form == "TensorFlow data":
        pytest.importorskip("google_crc32c")
        values = {**model.config.to_dict(), "layer_norm_eps": 1e-8}
        original_tf.save(FunnelformerConfig(**values), state, "model", tmp_path)
    elif form == "safetensors":
        native.save(model.config, state, "model", tmp_path)
    else:
        original_torch.save(model.config, state, "model", tmp_path)
        if form == "torch older":
            path = tmp_path / "model.ckpt.pt"
            torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="holds NaN or infinity"):
        map_folder(tmp_path)
