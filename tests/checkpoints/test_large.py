"""Time and memory of converting B10-10-10H1024, the largest release, made here with random weights.

    pytest -s -m slow tests/checkpoints/test_large.py

prints the figures; of these memory is tested, time is not. Peak memory is the largest resident set of a process that
calls `convert`, with the pages of mapped files. What Python, torch and transformers take, almost 0.5 GB, is in the
figures and not in what is tested.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from funnelformer.checkpoints.weights import read_state_dict

MAX_RATIO = 1.1
MAKE = """
import json, pathlib, sys, torch
from funnelformer import FunnelformerConfig, FunnelformerModel
from funnelformer.checkpoints import original_torch, transformers_funnel
folder, form = pathlib.Path(sys.argv[1]), sys.argv[2]
options = {"original-torch": {"padding": "original"}}.get(
    form, {"padding": "transformers", "default_token_type_id": 0})
config = FunnelformerConfig.from_name("B10-10-10H1024", **options)
with torch.device("meta"):
    model = FunnelformerModel(config)
generator = torch.Generator().manual_seed(0)
state = {name: torch.empty(parameter.shape).normal_(0, 0.02, generator=generator) + name.endswith("norm.weight")
         for name, parameter in model.named_parameters()}
if form == "transformers":
    transformers_funnel.save(config, state, "model", folder)
else:
    # in the older form of torch.save, as the releases are
    theirs, tensors, *_ = original_torch.export(config, state, "model")
    folder.mkdir()
    for name in tensors:
        tensors[name] = tensors[name].contiguous()
    torch.save(tensors, folder / "model.ckpt.pt", _use_new_zipfile_serialization=False)
    (folder / "net_config.pytorch.json").write_text(json.dumps(theirs))
"""
CONVERT = """
import sys, time
start = time.perf_counter()
import torch
from funnelformer.checkpoints.convert import convert
from funnelformer.cost.peak import peak_memory_bytes
imports = peak_memory_bytes(torch.device("cpu"))
difference = convert(*sys.argv[1:]).difference
wall_s, cpu_s = time.perf_counter() - start, time.process_time()
print(wall_s, cpu_s, imports, peak_memory_bytes(torch.device("cpu")), difference)
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def weights(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.suffix in (".pt", ".safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["original-torch", "transformers"])
def test_largest_release(form: str, tmp_path: Path) -> None:
    source = tmp_path / form
    run(MAKE, source, form)
    chain = [(form, "funnelformer"), ("funnelformer", form)]
    folders = [source, *(tmp_path / str(step) for step in range(len(chain)))]
    for (read, written), here, there in zip(chain, folders, folders[1:], strict=False):
        wall_s, cpu_s, imports, peak, difference = map(float, run(CONVERT, here, there, written).split())
        size = weights(here).stat().st_size
        print(
            f"| {read} ({weights(here).name}) | {written} | {size / 1e6:,.0f} MB | {wall_s:.1f} s | {cpu_s:.1f} s "
            f"| {peak / 1e6:,.0f} MB | {peak / size:.2f} | {difference:.1e} |"
        )
        assert peak - imports <= MAX_RATIO * size
    before, after = (read_state_dict(weights(folder), mapped=True) for folder in (folders[0], folders[2]))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    shutil.rmtree(tmp_path)
