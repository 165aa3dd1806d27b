"""The engines of exported graphs: which is chosen, and what OpenVINO makes of a graph, float32 and int8."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from funnelformer.base.errors import UserError
from funnelformer.inference import engines
from funnelformer.inference.engines import best_engine, open_session
from funnelformer.inference.onnx_model import choose_backend

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def write_graph(file, nodes, constants, outputs, size):
    """A graph that reads x [batch, size] in float32."""
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [make("x", onnx.TensorProto.FLOAT, ["batch", size])],
        [make(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, file)
    return file


def double(file):
    """Two outputs, 2 x and x + 1, not in the order of the alphabet."""
    nodes = [
        onnx.helper.make_node("Mul", ["x", "two"], ["twice"]),
        onnx.helper.make_node("Add", ["x", "one"], ["more"]),
    ]
    constants = {"two": np.float32(2), "one": np.float32(1)}
    return write_graph(file, nodes, constants, ["twice", "more"], 3)


def int8_product(file, weight, zero, scale):
    """As `export --int8 dynamic` writes a product: the input quantised as it comes, scales of the columns after it."""
    node = onnx.helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "q_scale", "q_zero"]),
        node("MatMulInteger", ["q", "weight", "q_zero", "zero"], ["sums"]),
        node("Cast", ["sums"], ["sums_float"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["q_scale", "scale"], ["scales"]),
        node("Mul", ["sums_float", "scales"], ["y"]),
    ]
    constants = {"weight": weight, "zero": zero, "scale": scale}
    return write_graph(file, nodes, constants, ["y"], weight.shape[0])


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_outputs_are_the_callers(engine, tmp_path):
    """A later run does not write into what an earlier one gave, nor into its inputs, whatever their strides."""
    if engine == "openvino":
        pytest.importorskip("openvino", reason="needs the extra openvino")
    session = open_session(double(tmp_path / "model.onnx"), engine)
    assert session.input_names == ["x"]
    assert session.output_names == ["twice", "more"]
    x = np.arange(6, dtype=np.float32).reshape(3, 2).T
    first = session.run({"x": x})
    session.run({"x": np.full((2, 3), 9, np.float32)})
    assert list(first) == ["twice", "more"]
    np.testing.assert_array_equal(first["twice"], [[0, 4, 8], [2, 6, 10]])
    np.testing.assert_array_equal(first["more"], [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(x, [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("size", [16, 256])
def test_int8_products_in_openvino(size, zero, tmp_path):
    """Within the rounding of inputs to 8 bits: 255 steps from the least to the largest of them."""
    pytest.importorskip("openvino", reason="needs the extra openvino")
    generator = np.random.default_rng(0)
    weight = generator.integers(-64, 64, (size, 24), dtype=np.int8)
    zeros = np.full(24, zero, np.int8)
    scale = generator.uniform(0.001, 0.01, 24).astype(np.float32)
    x = generator.standard_normal((5, size)).astype(np.float32)
    file = int8_product(tmp_path / "model.onnx", weight, zeros, scale)
    expected = x @ ((weight.astype(np.float32) - zero) * scale)
    found = open_session(file, "openvino").run({"x": x})["y"]
    step = (x.max() - x.min()) / 255
    bound = step / 2 * np.linalg.norm((weight.astype(np.float32) - zero) * scale, axis=0).max() * 4
    assert np.abs(found - expected).max() < bound
    theirs = open_session(file, "onnx").run({"x": x})["y"]
    assert np.abs(theirs - expected).max() < bound


def test_threads_and_precision_of_openvino(tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    session = open_session(double(tmp_path / "model.onnx"), "openvino", num_threads=2)
    compiled = session._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    session = open_session(tmp_path / "model.onnx", "openvino")
    threads = session._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS")
    assert threads == torch.get_num_threads()


def test_openvino_reports_nothing(tmp_path):
    """In a process that imports it first here: at its import it would."""
    pytest.importorskip("openvino_telemetry", reason="needs the extra openvino")
    code = (
        "import sys; from pathlib import Path; from funnelformer.inference.engines import open_session; "
        "open_session(Path(sys.argv[1]), 'openvino'); "
        "print(*(name for name in sys.modules if name.startswith('openvino_telemetry')), 'done')"
    )
    (tmp_path / "home").mkdir()
    environment = {"HOME": str(tmp_path / "home"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, str(double(tmp_path / "model.onnx"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["done"], done.stderr
    assert not list((tmp_path / "home").iterdir())


def test_no_torch_is_loaded():
    """What runs a graph alone needs none; threads are then those of OMP_NUM_THREADS."""
    code = (
        "import sys; from funnelformer.inference import engines; "
        "print(engines._default_threads(), 'torch' in sys.modules)"
    )
    environment = {"OMP_NUM_THREADS": "3", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["3", "False"], done.stderr


@pytest.mark.parametrize(
    ("installed", "int8", "engine"),
    [
        (("onnxruntime", "openvino"), None, "openvino"),
        (("onnxruntime", "openvino"), {"mode": "dynamic"}, "onnx"),
        (("onnxruntime",), None, "onnx"),
        (("openvino",), {"mode": "dynamic"}, "openvino"),
    ],
)
def test_the_engine_that_auto_takes(installed, int8, engine, tmp_path, monkeypatch):
    (tmp_path / "export.json").write_text(
        json.dumps({"task": "embeddings"} | ({"int8": int8} if int8 else {}))
    )
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr(engines, "find_spec", lambda name: name if name in installed else None)
    assert best_engine(tmp_path) == engine
    assert choose_backend(tmp_path, "auto") == engine
    assert choose_backend(tmp_path, "torch") == "torch"
    (tmp_path / "model.safetensors").touch()
    assert choose_backend(tmp_path, "auto") == "torch"
    assert choose_backend(tmp_path, "openvino") == "openvino"


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"no model\.onnx, which --backend openvino runs; make one: funnelformer"
    ):
        choose_backend(tmp_path, "openvino")
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="OpenVINO cannot load it") as raised:
        open_session(tmp_path / "model.onnx", "openvino")
    assert "\n" not in str(raised.value)
    monkeypatch.setattr("funnelformer.base.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"openvino is not installed: pip install 'funnelformer\[openvino\]'"):
        open_session(tmp_path / "model.onnx", "openvino")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run this export, pip install 'funnelformer\[openvino\]' or 'funn"):
        choose_backend(tmp_path, "auto")


def test_openvino_alone_cannot_serve_top_pooling(tmp_path, monkeypatch):
    """Of the two engines only the one that helps is named."""
    (tmp_path / "config.json").write_text('{"pooling": "top"}')
    monkeypatch.setattr(engines, "find_spec", lambda name: name if name == "openvino" else None)
    with pytest.raises(UserError, match=r"to run this export, pip install 'funnelformer\[onnx\]'$"):
        best_engine(tmp_path)
