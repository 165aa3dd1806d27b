"""Every recorded case, after every conversion: source, target, largest difference.

The rows are appended to the file named by FUNNELFORMER_PARITY_TABLE, if set.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_original_tf import released
from transformers import AutoModel

from funnelformer import FunnelformerConfig
from funnelformer.base.errors import UserError
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import map_folder
from funnelformer.checkpoints.forms import WRITTEN
from funnelformer.checkpoints.verify import compare_with_cases, read_cases
from golden_cases import golden_folders

# As in tests/modeling; PoNet's own float32 and float64 differ by 2.4e-5.
TOLERANCE = {"pt_": 5e-5, "tf_": 5e-5, "ponet_": 1e-4}
OF_THE_ORIGINAL = {"padding": "original", "default_token_type_id": None}
# What a form that is not the source's needs to hold; it changes what the model computes, not its tensors.
OVERRIDES: dict[tuple[str, str], dict[str, Any]] = {
    ("pt_", "original-tf"): {"layer_norm_eps": 1e-8},
    ("tf_", "original-torch"): {"layer_norm_eps": 1e-9},
    ("pt_", "transformers"): {"padding": "transformers", "default_token_type_id": 0},
    ("tf_", "transformers"): {"padding": "transformers", "default_token_type_id": 0},
}


def stock_difference(folder: Path, cases: Path) -> float | None:
    """transformers' own model of a converted folder, on the rows without padding, which it takes otherwise."""
    model = AutoModel.from_pretrained(folder).eval()
    worst = None
    for _, arrays, truncate_seq in read_cases(cases):
        is_whole = ((arrays["input_mask"] == 0) & (arrays["inputs"] != 0)).all(1)
        # it cannot be told to leave segments out, and reads no sequence that is too short to pool
        if "seg_id" not in arrays or not is_whole.any() or arrays["inputs"].shape[1] < 16:
            continue
        if "decoder_output" not in arrays and type(model).__name__ == "FunnelModel":
            continue
        rows = {name: torch.from_numpy(arrays[name][is_whole]).long() for name in ("inputs", "seg_id")}
        model.config.truncate_seq = bool(truncate_seq)
        with torch.no_grad():
            found = model(rows["inputs"], torch.ones_like(rows["inputs"]), rows["seg_id"]).last_hidden_state
        last = (
            "decoder_output"
            if type(model).__name__ == "FunnelModel"
            else sorted(name for name in arrays if name.startswith(("hidden_", "encoder_hidden_")))[-1]
        )
        difference = float((found - torch.from_numpy(arrays[last][is_whole])).abs().max())
        worst = max(worst or 0.0, difference)
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("target", WRITTEN)
@pytest.mark.parametrize("prefix", ["pt_", "tf_", "ponet_"])
def test_after_every_conversion(prefix: str, target: str, tmp_path: Path) -> None:
    if "original-tf" in target or prefix == "tf_":
        pytest.importorskip("google_crc32c")
    found: dict[str, float] = {}
    stock: list[float] = []
    folders = refused = 0
    for folder in golden_folders(prefix):
        if not (folder / "cases.npz").exists():
            continue
        source = released(folder, tmp_path / folder.name) if prefix == "tf_" else folder
        out = tmp_path / f"{folder.name}-out"
        try:
            convert(source, out, target, overrides=OVERRIDES.get((prefix, target), {}))
        except UserError as error:
            if "cannot hold" not in str(error) and "has no model for" not in str(error):
                raise
            refused += 1
            continue
        folders += 1
        written = map_folder(out)
        if target == "transformers":
            if written.architecture != "sequence_classification":
                value = stock_difference(out, folder / "cases.npz")
                stock += [] if value is None else [value]
            values = {**written.config.to_dict(), **OF_THE_ORIGINAL}
            written = replace(written, config=FunnelformerConfig.from_dict(values))
        for name, value in compare_with_cases(written, folder / "cases.npz").items():
            found[f"{folder.name} {name}"] = value
    worst = max(found.values(), default=0.0)
    if path := os.environ.get("FUNNELFORMER_PARITY_TABLE"):
        with open(path, "a") as file:
            own = f"{max(stock):.1e}" if stock else ""
            file.write(
                f"| {prefix} | {target} | {folders} | {refused} | {len(found)} | {worst:.1e} | {own} |\n"
            )
    assert worst <= TOLERANCE[prefix], max(found, key=found.__getitem__)
    assert max(stock, default=0.0) <= TOLERANCE[prefix]
    assert found or refused
