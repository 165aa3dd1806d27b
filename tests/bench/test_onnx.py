"""Models of the benchmark in ONNX Runtime: what they compute is what PyTorch computes, at any shape."""

import pytest
import torch

from funnelformer.bench.config import BenchConfig
from funnelformer.bench.measure import Case, make_call, make_ids, on_device
from funnelformer.bench.subjects import find_subject
from funnelformer.bench.suite import _pairs
from training.toy import fails, tree

pytest.importorskip("onnx", reason="needs the extra onnx")
pytestmark = pytest.mark.usefixtures("no_shape_checks")


def built(name, implementation):
    torch.manual_seed(3)
    return find_subject(name, "--models", implementation).build(64, 50)


@pytest.mark.parametrize(
    ("name", "implementation", "tolerance"),
    # States have a deviation of 1. Measured 5e-7, and 0.02 in int8.
    [("L1H16", "onnx-int8", 0.1), ("bert:L1H16", "onnx", 1e-5)],
)
def test_states_are_those_of_pytorch(name, implementation, tolerance):
    plain, exported = built(name, "sdpa"), built(name, implementation)
    for shape in ((1, 64), (3, 7), (2, 1)):
        case = Case("inference", *shape, "float32")
        ids = make_ids(case, 50)
        assert on_device(exported, case, torch.device("cpu")) is exported
        make_call(exported, ids, case)()
        with torch.inference_mode():
            torch.testing.assert_close(exported(ids)[0], plain(ids)[0], rtol=0, atol=tolerance)
    count, other = (sum(parameter.numel() for parameter in model.parameters()) for model in (plain, exported))
    assert count == other
    assert 0 < exported.weight_bytes < 4 * count + 2**20


def test_implementations_of_any_model(tmp_path):
    config = BenchConfig(
        out=tmp_path,
        models=["B1-1H16", "bert:L1H16"],
        peers=["bert:L1H16"],
        implementations=["eager", "compiled", "onnx", "onnx-int8"],
        modes=["inference"],
    )
    pairs = [(ours.name, ours.implementation, peer.implementation) for ours, peer in _pairs(config)]
    assert pairs == [
        *(("B1-1H16", name, "sdpa") for name in ("eager", "compiled", "onnx", "onnx-int8")),
        *(("bert L1H16", name, "sdpa") for name in ("sdpa", "compiled", "onnx", "onnx-int8")),
    ]


@pytest.mark.parametrize("name", ["prepacked", "onnx"])
def test_what_cannot_be_trained(capsys, tmp_path, name):
    message = fails(capsys, f"bench --quick --implementations {name} --out", tmp_path / "out")
    assert message == f"{name} is for inference with float32 inputs: --modes inference --dtypes float32"
    assert tree(tmp_path) == {}
