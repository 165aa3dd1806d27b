"""transformers' encoders of every type and head: what ours computes of their weights, and the way back.

The differences are appended to the file named by FUNNELFORMER_PARITY_TABLE, if set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import funnelformer
from checkpoints.encoders import CASES, UNMASKED, batch, left_padded, save_stock, stock_model, to_left
from funnelformer import FunnelformerConfig, FunnelformerForMaskedLM, FunnelformerModel
from funnelformer.checkpoints import convert, load_folder
from funnelformer.checkpoints.folders import ENCODERS, detect
from funnelformer.checkpoints.native import ARCHITECTURES
from funnelformer.errors import UserError

TOLERANCE = 1e-5
LENGTHS = (1, 2, 7, 17, 33)


def run(model: torch.nn.Module, inputs: dict[str, Tensor], choices: bool) -> Tensor:
    if choices:
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
    with torch.no_grad():
        output: Any = model(**inputs)
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    found: Tensor = output.logits if "logits" in output else output.last_hidden_state
    if isinstance(model, transformers.ElectraForPreTraining):
        return -found  # of a replaced token, ours of an original one
    return found[0] if choices else found


def differences(name: str, architecture: str, theirs: torch.nn.Module, ours: torch.nn.Module) -> list[float]:
    """Of the real tokens, over all lengths, padded on either side."""
    found = []
    choices = architecture == "multiple_choice"
    per_token = architecture not in ("sequence_classification", "multiple_choice")
    for length in LENGTHS:
        right = batch(name, length)
        left = left_padded(right)
        mask = right["attention_mask"]
        for inputs in (right, left):
            if name in UNMASKED:
                expected = run(theirs, {k: v for k, v in inputs.items() if k != "attention_mask"}, choices)
                found.append((run(ours, inputs, choices) - expected).abs().max().item())
                continue
            computed, expected = run(ours, inputs, choices), run(theirs, right, choices)
            if not per_token:  # theirs reads the first token, which a left-padded row has padding at
                found.append((computed - expected).abs().max().item())
                continue
            real = inputs["attention_mask"].bool()
            if inputs is left:
                positions = (mask.flip(1).cumsum(1) - 1).clamp(min=0)
                given = (
                    left if ENCODERS[name].positions_after_padding else {**left, "position_ids": positions}
                )
                stock_left = run(theirs, given, choices)
                found.append((computed - stock_left)[real].abs().max().item())
                expected = to_left(expected, mask)
            found.append((computed - expected)[real].abs().max().item())
    return found


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_equals_transformers(name: str, architecture: str, tmp_path: Path) -> None:
    theirs = save_stock(tmp_path / "theirs", name, architecture)
    assert detect(tmp_path / "theirs") == name
    ours = getattr(funnelformer, ARCHITECTURES[architecture]).from_pretrained(tmp_path / "theirs").eval()
    worst = max(differences(name, architecture, theirs, ours))
    if path := os.environ.get("FUNNELFORMER_PARITY_TABLE"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"| {name} | {architecture.replace('_', ' ')} | {worst:.1e} |\n")
    assert worst <= TOLERANCE


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_there_and_back(name: str, architecture: str, tmp_path: Path) -> None:
    """Stock transformers reads what is written without a missing or further tensor, and ours has the same bits again."""
    save_stock(tmp_path / "theirs", name, architecture)
    convert(tmp_path / "theirs", tmp_path / "ours")
    report = convert(tmp_path / "ours", tmp_path / "written", name)
    assert (report.target_format, report.architecture) == (name, architecture)
    assert report.difference <= TOLERANCE
    convert(tmp_path / "written", tmp_path / "again")
    first, again = (load_file(tmp_path / folder / "model.safetensors") for folder in ("ours", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    configs = [FunnelformerConfig.from_pretrained(tmp_path / folder) for folder in ("ours", "again")]
    assert configs[0].to_dict() == configs[1].to_dict()
    stock = getattr(transformers, ENCODERS[name].class_name(architecture))
    model, loading = stock.from_pretrained(tmp_path / "written", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    assert model.config.architectures == [ENCODERS[name].class_name(architecture)]
