"""Small models and folders that several tests of the checkpoints need."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from transformers import FunnelConfig


@pytest.fixture
def golden() -> Path:
    return Path(__file__).parents[1] / "golden"


@pytest.fixture
def tiny_funnel() -> FunnelConfig:
    """A stock Funnel with repeats in its first block, where the skip differs from ours."""
    torch.manual_seed(0)
    return FunnelConfig(
        vocab_size=50,
        block_sizes=[2, 1],
        block_repeats=[2, 2],
        num_decoder_layers=1,
        d_model=16,
        n_head=2,
        d_head=4,
        d_inner=24,
        initializer_std=0.5,
        num_labels=3,
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that finds the packages installed here, and not this one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # A path alone: the files of the folder it names that would add more paths, an editable install's, are not read.
    (Path(paths["purelib"]) / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin" / "python"
