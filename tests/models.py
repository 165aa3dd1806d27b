"""Small models with weights far from their initial values, so that every term of every score matters."""

import warnings

import torch

from funnelformer import FunnelformerConfig


def small_config(name: str = "B2-1x2-2H32", **overrides):
    settings = {"vocab_size": 60, "hidden_dropout": 0.0, "attention_dropout": 0.0, **overrides}
    return FunnelformerConfig.from_name(name, **settings)


def build(
    model_class, config, implementation: str = "sdpa", dtype: torch.dtype = torch.float32, seed: int = 1
):
    """A model of `config` in eval mode with weights of standard deviation 0.3 (embeddings 1)."""
    torch.manual_seed(seed)
    model = model_class._from_config(config, attn_implementation=implementation)
    spread(model, seed)
    return model.to(dtype).eval()


@torch.no_grad()
def spread(model: torch.nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.copy_(1 + 0.3 * noise)
        else:
            parameter.copy_(noise * (1.0 if "word_embeddings" in name else 0.3))


def enable_checkpointing(model) -> None:
    """Renamed in transformers 5.2x; the old name is the one all supported versions have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable()


def batch(length: int, lengths: list[int], vocab_size: int = 60, seed: int = 2):
    """Token ids, mask (1 = real) and segment ids ([CLS] 2, then 0, the second half 1) of a right-padded batch."""
    generator = torch.Generator().manual_seed(seed)
    size = len(lengths)
    input_ids = torch.randint(5, vocab_size, (size, length), generator=generator)
    mask = (torch.arange(length)[None] < torch.tensor(lengths)[:, None]).long()
    segments = (torch.arange(length)[None] >= torch.tensor(lengths)[:, None] // 2).long() * mask
    segments[:, 0] = 2
    return input_ids * mask, mask, segments
