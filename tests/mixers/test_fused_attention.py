"""The fused kernels, in a process of their own: Triton's interpreter is chosen for a whole process, when it starts."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from funnelformer import FunnelformerModel
from funnelformer.base.errors import UserError
from models import batch, build, small_config

CASES = Path(__file__).with_name("fused_cases.py")
HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_GPU = torch.cuda.is_available()


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize(
    "interpret",
    [
        pytest.param("1", marks=pytest.mark.slow),
        pytest.param("0", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no GPU")]),
    ],
)
def test_all_cases(interpret):
    # The checks of shapes wrap each function, and Triton compiles no wrapper.
    environment = {**os.environ, "TRITON_INTERPRET": interpret, "FUNNELFORMER_NO_SHAPE_CHECKS": "1"}
    command = [sys.executable, "-m", "pytest", str(CASES), "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="in Triton's interpreter a CPU will do")
def test_where_it_cannot_run_it_says_so_in_one_line(monkeypatch):
    model = build(FunnelformerModel, small_config("L1H32"), "triton")
    what = "a GPU, and the model is on cpu"
    if HAS_TRITON:
        with pytest.raises(UserError, match=f"^attn_implementation='triton' needs {what}; 'sdpa' does not$"):
            model(*batch(5, [5]))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "triton" else find_spec(name, *a)
    )
    with pytest.raises(UserError, match="needs the package triton, which is not installed"):
        model(*batch(5, [5]))
