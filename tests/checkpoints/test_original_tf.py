"""TensorFlow checkpoints: the table in both directions, whole pretraining states, and the files themselves."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from funnelformer import FunnelformerConfig
from funnelformer.base.errors import UserError
from funnelformer.checkpoints import native, original_tf
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import load_folder, map_folder
from funnelformer.checkpoints.original_tf import import_variables
from funnelformer.checkpoints.tensor_bundle import read_bundle, write_bundle
from funnelformer.checkpoints.weights import read_state_dict
from golden_cases import bundled, golden_folders, released

pytest.importorskip("google_crc32c", reason="the extra funnelformer[tensorflow] is not installed")
FOLDERS = pytest.mark.parametrize("folder", golden_folders("tf_"), ids=lambda path: path.name)
# The measured differences of the recorded cases are up to 9.8e-6.
TOLERANCE = 5e-5


def full(folder: Path, to: Path) -> tuple[Path, dict[str, Tensor]]:
    """A whole pretraining state made of a fixture: its model, a smaller generator, random moments, step 7."""
    variables, net = bundled(folder)
    config = import_variables(variables, net, "fixture").discriminator.config
    generator = FunnelformerConfig(
        **{**config.to_dict(), "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 16}
    )
    draw = torch.Generator().manual_seed(0)
    for row in original_tf._table(generator, "masked_lm", "generator/"):
        if row.theirs.startswith("generator/"):
            variables[row.theirs] = torch.randn(row.shape("theirs"), generator=draw)
    for name in list(variables):
        for slot in original_tf.MOMENTS.values():
            variables[f"{name}/{slot}"] = torch.rand(variables[name].shape, generator=draw)
    variables["global_step"] = torch.tensor(7)
    to.mkdir()
    shutil.copy(folder / "net_config.json", to)
    write_bundle(to / "model.ckpt.index", variables)
    return to, variables


# ---- the table


@FOLDERS
def test_core_round_trip_is_exact(folder: Path, tmp_path: Path) -> None:
    source = released(folder, tmp_path / "source")
    before = read_bundle(source / "model.ckpt-1000.index")
    report = convert(source, tmp_path / "ours", verify=folder / "cases.npz")
    assert (report.source_format, report.architecture, report.ignored) == (
        "original-tf",
        "token_detection",
        {},
    )
    assert report.num_tensors == len(before)
    assert {row.source for row in report.table} == before.keys()
    assert max(report.verified.values()) < TOLERANCE
    assert any("disc_logits" in name for name in report.verified)
    convert(tmp_path / "ours", tmp_path / "back", "original-tf")
    after = read_bundle(tmp_path / "back" / "model.ckpt.index")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    theirs, ours = (
        json.loads((where / "net_config.json").read_text()) for where in (source, tmp_path / "back")
    )
    assert theirs == ours


@FOLDERS
def test_whole_state_is_kept(folder: Path, tmp_path: Path) -> None:
    source, variables = full(folder, tmp_path / "source")
    report = convert(source, tmp_path / "ours")
    assert report.ignored == {}
    assert {row.source for row in report.table} == {
        name for name in variables if not name.endswith(("/adam_m", "/adam_v")) and name != "global_step"
    }
    pretraining = native.load_pretraining(tmp_path / "ours")
    assert pretraining is not None
    assert pretraining.step == 7
    generator = load_folder(tmp_path / "ours" / "generator")
    assert (generator.architecture, generator.config.hidden_size) == ("masked_lm", 8)
    loaded = load_folder(tmp_path / "ours")
    shared = "funnelformer.embeddings.word_embeddings.weight"
    assert torch.equal(generator.state_dict[shared], loaded.state_dict[shared])
    # every moment, against the variable it belongs to
    electra = import_variables(variables, bundled(folder)[1], "full")
    assert (
        pretraining.moments.keys()
        == electra.moments.keys()
        == set(electra.names)
        - {
            f"generator.funnelformer.embeddings.{name}"
            for name in ("word_embeddings.weight", "layer_norm.weight", "layer_norm.bias")
        }
    )
    total = dict.fromkeys(original_tf.MOMENTS.values(), 0.0)
    for parameter, moments in pretraining.moments.items():
        for kind, slot in original_tf.MOMENTS.items():
            theirs = variables[f"{electra.names[parameter]}/{slot}"]
            ours = moments[kind]
            assert torch.equal(ours.flatten().sort()[0], theirs.flatten().sort()[0]), parameter
            assert torch.equal(ours, electra.moments[parameter][kind])
            total[slot] += float(ours.double().sum())
    for slot, value in total.items():
        expected = sum(float(t.double().sum()) for name, t in variables.items() if name.endswith(slot))
        assert value == pytest.approx(expected, rel=1e-12)
    # a second conversion keeps it
    convert(tmp_path / "ours", tmp_path / "again")
    for name in ("optimizer.safetensors", "generator/model.safetensors", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_a_moment_turns_as_its_kernel_does(tmp_path: Path) -> None:
    folder = golden_folders("tf_full")[0]
    _, variables = full(folder, tmp_path / "source")
    moments = map_folder(tmp_path / "source").pretraining.moments  # type: ignore[union-attr]
    theirs = variables["model/encoder/layer_0/ff/layer_1/kernel/adam_m"]
    name = "discriminator.funnelformer.encoder.blocks.0.0.feed_forward.expand.weight"
    assert torch.equal(moments[name]["exp_avg"], theirs.T)


def test_one_model_alone_goes_to_the_other_forms(tmp_path: Path) -> None:
    source, _ = full(golden_folders("tf_full_e32")[0], tmp_path / "source")
    report = convert(source, tmp_path / "torch", "original-torch", overrides={"layer_norm_eps": 1e-9})
    assert (
        report.ignored["the generator, the optimizer's moments and the step"]
        == "original-torch holds one model alone"
    )
    assert not (tmp_path / "torch" / "generator").exists()
    core = convert(source, tmp_path / "core", "original-tf")
    assert core.difference == 0.0
    assert "model/binary_loss/weight" in read_bundle(tmp_path / "core" / "model.ckpt.index")


def test_the_published_converters_result(golden: Path, tmp_path: Path) -> None:
    source = released(golden / "tf_full_e32_b1_1x2_d1", tmp_path / "source")
    with pytest.raises(UserError, match="--set layer_norm_eps=1e-09 converts"):
        convert(source, tmp_path / "torch", "original-torch")
    convert(source, tmp_path / "torch", "original-torch", overrides={"layer_norm_eps": 1e-9})
    ours = read_state_dict(tmp_path / "torch" / "model.ckpt.pt")
    theirs = read_state_dict(golden / "pt_from_tf_full_e32_b1_1x2_d1" / "model.ckpt.pt")
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mixer": "ponet"}, "original TensorFlow form cannot hold mixer='ponet'"),
        ({"pooling": "top"}, "cannot hold pooling='top'"),
        ({"separate_cls": False}, "cannot hold separate_cls=False"),
        ({"decoder_skip_state": 1}, "cannot hold decoder_skip_state=1"),
        ({"padding": "exact"}, "--set padding=original converts"),
    ],
)
def test_options_the_form_cannot_hold(change: dict[str, Any], expected: str) -> None:
    variables, net = bundled(golden_folders("tf_core")[0])
    part = import_variables(variables, net, "x").discriminator
    config = FunnelformerConfig(**{**part.config.to_dict(), **change})
    with pytest.raises(UserError, match=expected):
        original_tf.export(config, part.state_dict, part.architecture)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "model/encoder/layer_1/ff/layer_1/bias",
            None,
            r"layer_1/ff/layer_1/bias' of shape \[64\] is missing",
        ),
        ("model/encoder/layer_1/ff/layer_1/bias", torch.ones(3), r"has shape \[3\], expected \[64\]"),
        ("model/encoder/layer_9/ff/layer_1/bias", torch.ones(64), "belongs to no part of this model"),
        (
            "model/input/layer_norm/beta/adam_m",
            None,
            r"adam_m: tensor 'model/input/layer_norm/beta' .* is missing",
        ),
        (
            "model/input/other/adam_v",
            torch.ones(3),
            "model/input/other/adam_v is the moment of a variable that is not",
        ),
        ("generator/lm_loss/bias", None, "'generator/lm_loss/bias' of shape .* is missing"),
        ("generator/encoder/layer_0/rel_attn/q/kernel", None, "layer_0/rel_attn/q/kernel' is missing"),
        ("generator/encoder/layer_0/rel_attn/q/kernel", torch.ones(8), "expected 3 dimensions"),
        ("global_step", torch.ones(2), "'global_step' is not one whole number"),
    ],
)
def test_bad_variables(tmp_path: Path, name: str, value: Tensor | None, expected: str) -> None:
    folder = golden_folders("tf_full_e16")[0]
    _, variables = full(folder, tmp_path / "source")
    variables.pop(name, None)
    if value is not None:
        variables[name] = value
    with pytest.raises(UserError, match=expected):
        import_variables(variables, bundled(folder)[1], "the checkpoint")


# ---- the files


def rewrite(path: Path, at: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Path]:
    index = tmp_path / "model.ckpt.index"
    write_bundle(
        index, {"a": torch.arange(6.0).reshape(2, 3), "b/c": torch.tensor(3), "e": torch.empty(0, 4)}
    )
    return index


def test_types_shapes_and_many_names(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64)
    tensors = {
        f"{dtype}/{i:03d}": torch.randn(i % 5, 3, generator=draw).to(dtype)
        for dtype in dtypes
        for i in range(40)
    }
    # more than one block of the index; places in the data that are no multiple of a number's size
    tensors |= {f"long/{'x' * 3000}/{i}": torch.randn(2, generator=draw).half() for i in range(120)}
    tensors |= {"odd/half": torch.ones(1).half(), "odd/single": torch.ones(2), "turned": torch.randn(3, 4).T}
    write_bundle(tmp_path / "x.index", tensors)
    found = read_bundle(tmp_path / "x.index")
    assert found.keys() == tensors.keys()
    assert all(found[n].dtype == tensors[n].dtype and torch.equal(found[n], tensors[n]) for n in tensors)


def test_damage_is_found(bundle: Path) -> None:
    data = bundle.with_name("model.ckpt.data-00000-of-00001")
    sound = bundle.read_bytes(), data.read_bytes()
    cases = [
        (data, 3, b"\x01", "checksum of variable 'a' is wrong"),
        (bundle, 20, b"\x01", "checksum of a block is wrong"),
        (bundle, len(sound[0]) - 4, b"\x01", "wrong magic number"),
    ]
    for path, at, value, expected in cases:
        rewrite(path, at, value)
        with pytest.raises(UserError, match=expected):
            read_bundle(bundle)
        bundle.write_bytes(sound[0])
        data.write_bytes(sound[1])
    data.write_bytes(sound[1][:-1])
    with pytest.raises(UserError, match=r"data-00000-of-00001: cut short \(variable 'b/c'"):
        read_bundle(bundle)
    data.unlink()
    with pytest.raises(UserError, match=r"data-00000-of-00001: no such file, which model.ckpt.index names"):
        read_bundle(bundle)


def test_several_checkpoints_are_not_guessed_between(bundle: Path) -> None:
    shutil.copy(bundle, bundle.with_name("model.ckpt-9.index"))
    (bundle.parent / "net_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"several checkpoints \(model.ckpt-9.index, model.ckpt.index\)"):
        load_folder(bundle.parent)


def test_a_missing_extra_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    for call in (lambda: read_bundle(bundle), lambda: write_bundle(bundle, {})):
        with pytest.raises(UserError, match=r"pip install 'funnelformer\[tensorflow\]'") as error:
            call()
        assert "\n" not in str(error.value)


def test_a_type_without_a_code(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"variable 'x' has type torch\.complex64"):
        write_bundle(tmp_path / "model.ckpt.index", {"x": torch.ones(2, dtype=torch.complex64)})


# ---- against TensorFlow


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="tensorflow is not installed")
def test_tensorflow_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    import tensorflow

    draw = np.random.default_rng(0)
    arrays = {
        f"scope_{i}/{kind}": draw.normal(size=(i % 4, 3)).astype(kind)
        for i in range(40)
        for kind in ("float32", "float64", "float16", "int32", "int64")
    }
    write_bundle(tmp_path / "ours.index", {name: torch.from_numpy(array) for name, array in arrays.items()})
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "ours"))
    assert reader.get_variable_to_shape_map().keys() == arrays.keys()
    assert all((reader.get_tensor(name) == array).all() for name, array in arrays.items())
    tensorflow.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs"),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=list(arrays.values()),
    )
    found = read_bundle(tmp_path / "theirs.index")
    assert found.keys() == arrays.keys()
    assert all(torch.equal(found[name], torch.from_numpy(array)) for name, array in arrays.items())
    data = ".data-00000-of-00001"
    assert (tmp_path / f"ours{data}").stat().st_size == (tmp_path / f"theirs{data}").stat().st_size


CHECKPOINTS = [
    (name, kind)
    for name, kinds in {
        "tf_core_e32_b222_d2": ("core",),
        "tf_core_nosep_b111_d0": ("core",),
        "tf_full_e16_b1_1x2_d1": ("full",),
        "tf_full_e32_b1_1x2_d1": ("core", "full", "init"),
    }.items()
    for kind in kinds
]


@pytest.mark.parametrize(("name", "kind"), CHECKPOINTS)
def test_checkpoints_that_tensorflow_wrote(name: str, kind: str, golden: Path, tmp_path: Path) -> None:
    """Every variable is read, converted and accounted for; the bundled weights are among them bit for bit."""
    root = os.environ.get("FUNNELFORMER_GOLDEN")
    if root is None:
        pytest.skip(
            "the checkpoint files are not bundled; FUNNELFORMER_GOLDEN names the folder that holds them"
        )
    source = tmp_path / "source"
    shutil.copytree(Path(root) / name / kind, source)
    for file in ("net_config.json", "vocab.uncased.txt"):
        shutil.copy(Path(root) / name / file, source)
    variables = read_bundle(source / "model.ckpt.index")
    if kind != "init" and (golden / name / "weights.npz").exists():
        bundled_variables, _ = bundled(golden / name)
        assert all(torch.equal(variables[key], tensor) for key, tensor in bundled_variables.items())
    has_verdict = (
        "nosep" not in name and kind != "init"
    )  # without separate_cls TensorFlow disagrees with itself
    verify = Path(root) / name / "cases.npz" if has_verdict else None
    report = convert(source, tmp_path / "ours", verify=verify)
    used = {row.source for row in report.table} | report.ignored.keys()
    slots = {key for key in variables if key.endswith(("/adam_m", "/adam_v"))} | (
        {"global_step"} & variables.keys()
    )
    assert used | slots == variables.keys()
    assert max(report.verified.values(), default=0.0) < TOLERANCE
    pretraining = native.load_pretraining(tmp_path / "ours")
    assert (pretraining is None) == (kind == "core")
    if pretraining is not None:
        assert pretraining.step == (3 if kind == "full" else 0)
        assert 2 * len(pretraining.moments) == len(slots - {"global_step"})


def varints(data: bytes, number: int) -> tuple[list[int], bytes]:
    """LevelDB's numbers of seven bits a byte, lowest first, and what follows them."""
    found = []
    for _ in range(number):
        value = shift = 0
        while True:
            byte, data = data[0], data[1:]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        found.append(value)
    return found, data


def test_the_last_48_bytes_are_leveldbs_footer(bundle: Path) -> None:
    """Two handles that tile the end of the file, zeros, and the leading 8 bytes of a hash of LevelDB's address."""
    data = bundle.read_bytes()
    address = b"http://code.google.com/p/leveldb/\n"
    assert data[-8:] == hashlib.sha1(address).digest()[:8][::-1]
    (meta, meta_size, index, index_size), rest = varints(data[-48:-8], 4)
    assert rest == bytes(len(rest))
    trailer = 5  # of every block: its kind of compression and its checksum
    assert meta + meta_size + trailer == index
    assert index + index_size + trailer == len(data) - 48
