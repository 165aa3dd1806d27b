"""Packages that only some commands need, and what installs them."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import UserError

__all__ = ["WITH_PYTORCH", "missing_from_runtime", "need"]

# What an install without PyTorch lacks, by the name of its import; all of it comes with the package's dependencies.
WITH_PYTORCH = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "jaxtyping",
    "jinja2",
    "matplotlib",
    "pandas",
    "pyarrow",
    "safetensors",
    "scipy",
    "seqeval",
    "sklearn",
)


def need(*names: str, extra: str = "onnx") -> None:
    """Raise UserError for the first package that is not installed, with what installs it."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install 'funnelformer[{extra}]'")


def missing_from_runtime(name: str | None) -> str | None:
    """The message about a package that could not be imported; None if no install of ours brings it."""
    package = (name or "").partition(".")[0]
    if package not in WITH_PYTORCH:
        return None
    return (
        f"{package} is not installed: without it funnelformer runs exports alone (predict, embed, rank, serve; tables "
        "of text, csv and jsonl), see docs/deployment.md; pip install funnelformer brings it"
    )
