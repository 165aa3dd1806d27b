"""Load a model from a folder or the Hub and check that it fits; make it ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..base.errors import UserError, joined
from ..base.files import check_readable
from ..checkpoints.folders import find_foreign
from ..modeling import DECODER_PREFIX, HEAD_PREFIXES, FunnelformerModel, fix_tables, prepack

__all__ = ["load_encoder", "load_model", "ready"]


def load_model(
    model_class: Any,
    source: str,
    may_miss: tuple[str, ...] = (),
    may_differ: tuple[str, ...] = (),
    **settings: Any,
) -> tuple[Any, list[str]]:
    """Load a model of `model_class` from a folder or Hub name; return it and its parameters that are random.

    may_miss, may_differ: prefixes of the parameters that the weights may lack, or have in another shape.
    settings: config keys to change.
    Raises UserError naming the first parameter that does not fit, or what cannot be read.
    """
    check_readable(source)
    try:
        model, report = model_class.from_pretrained(
            source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **settings,
        )
    except UserError as error:
        if Path(source).name in str(error):
            raise
        raise UserError(f"{source}: {error}") from error
    except Exception as error:  # transformers, torch, safetensors and the Hub have no common base class
        raise UserError(f"{source}: no model could be loaded ({joined(error)})") from error
    left_out = (*HEAD_PREFIXES, DECODER_PREFIX, f"funnelformer.{DECODER_PREFIX}")
    for name in sorted(report["unexpected_keys"]):
        if not name.startswith(left_out):
            raise UserError(f"{source}: parameter {name} of the weights has no place in the config's model")
    for name, found, wanted in sorted(report["mismatched_keys"]):
        if not name.startswith(may_differ):
            raise UserError(
                f"{source}: parameter {name} has shape {list(found)}, the config wants {list(wanted)}"
            )
    for name in sorted(report["missing_keys"]):
        if not name.startswith(may_miss):
            raise UserError(f"{source}: parameter {name} is not among the weights")
    return model, sorted([*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])])


def load_encoder(source: str, device: str, *, only_runs: bool) -> tuple[Any, bool]:
    """Load the encoder of a folder or Hub name, without decoder and head; also say whether it is another library's."""
    model, _ = load_model(FunnelformerModel, source, decoder_layers=0, decoder_skip_state=None)
    return ready(model, device, only_runs=only_runs), find_foreign(source) is not None


def ready(model: Any, device: str, *, only_runs: bool = True) -> Any:
    """The model in evaluation mode, on an accelerator if `device` is "auto" and there is one.

    only_runs: nothing will change the weights: on a CPU they are prepacked, elsewhere attention's tables are kept. The
        model cannot be saved any more.
    """
    if device == "auto" and torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator()).eval()
        return fix_tables(model) if only_runs else model
    return prepack(model) if only_runs else model.eval()
