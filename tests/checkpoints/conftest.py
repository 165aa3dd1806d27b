"""Small models and folders that several tests of the checkpoints need."""

from __future__ import annotations

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
