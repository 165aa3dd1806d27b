"""Compare a converted model with what its source computes: recorded arrays, or the source's own library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError, did_you_mean
from ..base.json_toml import read_json
from ..config.model_config import FunnelformerConfig
from .compare import build_model, build_stock, difference, has_stock, probe_batch, run_batch, without_padding
from .loaded import Loaded, Part

__all__ = ["STOCK", "compare_with_cases", "compare_with_stock", "read_cases"]

# What the user says for the second.
STOCK = "transformers"
_STOCK_LENGTHS = (16, 33, 64, 127)
# recorded name -> ours; the originals' mask is 1 at padding
_INPUTS = {
    "inputs": "input_ids",
    "input_ids": "input_ids",
    "seg_id": "token_type_ids",
    "token_type_ids": "token_type_ids",
    "segment_ids": "segment_ids",
    "attention_mask": "attention_mask",
}
_PADDING = "input_mask"
_LOGITS = {
    "sequence_classification": "cls_logits",
    "token_detection": "disc_logits",
    "masked_lm": "mlm_logits",
}


def compare_with_stock(source: Loaded, written: Part) -> dict[str, float]:
    """Hidden states and logits of stock transformers against ours, over batches of several lengths.

    Returns the largest difference of each batch. Raises UserError when the source is no model of transformers.
    """
    if not has_stock(source):
        raise UserError(
            f"{source.folder}: --verify {STOCK} is for that library's own folders; give recorded cases (.npz)"
        )
    found: dict[str, float] = {}
    theirs: dict[int, list[Tensor]] = {}
    model = build_stock(source)
    is_absolute = source.config.position == "absolute"
    longest = source.config.max_position_embeddings if is_absolute else max(_STOCK_LENGTHS)
    for length in sorted({min(length, longest) for length in _STOCK_LENGTHS}):
        theirs[length] = _outputs(model, probe_batch(source.config, length), source.config)
    del model
    ours = build_model(written.config, written.state_dict, written.architecture)
    for length, expected in theirs.items():
        computed = _outputs(ours, probe_batch(source.config, length), source.config)
        pairs = zip(computed, expected, strict=True)
        found[f"length {length}"] = max(difference(first, second) for first, second in pairs)
    return found


@torch.no_grad()
def _outputs(model: torch.nn.Module, batch: Mapping[str, Tensor], config: FunnelformerConfig) -> list[Tensor]:
    last, output = run_batch(model, batch, config, output_hidden_states=True)
    # the last one is the decoder's in both; the two list what lies between in different orders
    return [last, without_padding(output.hidden_states[-1].float(), batch, config)]


def compare_with_cases(written: Part, path: str | Path) -> dict[str, float]:
    """Recorded cases against a model: case and array -> largest difference.

    path: .npz with arrays named `<case>/<array>`: the inputs `inputs` (or `input_ids`), `input_mask` (1 at padding) or
        `attention_mask` (1 at real tokens), `seg_id`, and of the outputs what is there: `hidden_NN` from the embeddings
        on, `encoder_hidden_NN` from the first layer on, `decoder_output`, and the logits of the model's head. A
        `cases.json` beside it gives each case's `truncate_seq`.
    Raises UserError naming the file and the case.
    """
    path = Path(path)
    found: dict[str, float] = {}
    for case, arrays, truncate_seq in read_cases(path):
        values = written.config.to_dict()
        if truncate_seq is not None:
            values["truncate_seq"] = truncate_seq
        config = FunnelformerConfig.from_dict(values)
        try:
            for name, value in _compare_case(config, written, arrays).items():
                found[f"{case} {name}"] = value
        except (UserError, ValueError, RuntimeError, IndexError) as error:
            raise UserError(f"{path}: case {case}: {str(error).splitlines()[0]}") from error
    if not found:
        raise UserError(f"{path}: no case has an output that this model computes")
    return found


def read_cases(path: Path) -> list[tuple[str, dict[str, np.ndarray], bool | None]]:
    """Name, arrays and `truncate_seq` (None: no `cases.json` says) of each case. Raises UserError naming the file."""
    if not path.is_file():
        near = sorted(entry.name for entry in path.parent.glob("*.npz"))
        raise UserError(f"{path}: no such file{did_you_mean(path.name, near)}")
    try:
        # numpy leaves a file open that it cannot read
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        described = path.with_name("cases.json")
        metas = read_json(described)["cases"] if described.is_file() else []
        truncate = {meta["case"]: bool(meta["truncate_seq"]) for meta in metas if "truncate_seq" in meta}
    except Exception as error:  # numpy and zipfile raise whatever the bytes of a damaged file lead them to
        detail = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({detail})") from error
    cases: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        case, separator, key = name.partition("/")
        if separator and "/" not in key:
            cases.setdefault(case, {})[key] = array
    return [
        (case, found, truncate.get(case))
        for case, found in sorted(cases.items())
        if "inputs" in found or "input_ids" in found
    ]


@torch.no_grad()
def _compare_case(
    config: FunnelformerConfig, written: Part, arrays: Mapping[str, np.ndarray]
) -> dict[str, float]:
    inputs = {ours: torch.from_numpy(arrays[name]).long() for name, ours in _INPUTS.items() if name in arrays}
    if _PADDING in arrays:
        inputs["attention_mask"] = 1 - torch.from_numpy(arrays[_PADDING]).long()
    model = build_model(config, written.state_dict, written.architecture)
    output: Any = model(**inputs, output_hidden_states=True)
    states = output.hidden_states
    num_encoder = sum(config.block_applications)
    computed = {"factorized_last_hidden": states[num_encoder]}
    computed |= {f"hidden_{i:02d}": state for i, state in enumerate(states[: num_encoder + 1])}
    computed |= {f"encoder_hidden_{i:02d}": state for i, state in enumerate(states[1 : num_encoder + 1])}
    if len(states) > num_encoder + 1:
        computed["decoder_output"] = states[-1]
    if written.architecture in _LOGITS:
        name = _LOGITS[written.architecture]
        computed |= {name: output.logits, f"factorized_{name}": output.logits}
    return {
        name: difference(tensor.float(), torch.from_numpy(arrays[name]).float())
        for name, tensor in computed.items()
        if name in arrays
    }
