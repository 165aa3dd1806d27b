"""That the fixture of conftest shows a read of memory that nobody wrote."""

import torch

from funnelformer import FunnelformerForMaskedLM
from models import small_config


def test_what_is_not_initialised_is_nan():
    for tensor in (torch.empty(3), torch.empty_like(torch.ones(3)), torch.ones(1).new_empty(3)):
        assert tensor.isnan().all()
    assert torch.empty(3, dtype=torch.long).dtype == torch.long
    assert torch.empty(3, device="meta").is_meta


def test_every_parameter_has_an_initial_value():
    for options in (
        {},
        {"mixer": "ponet"},
        {"position": "absolute", "mixer": "fourier"},
        {"embedding_size": 16},
    ):
        model = FunnelformerForMaskedLM(small_config(**options))
        assert all(parameter.isfinite().all() for parameter in model.parameters())
