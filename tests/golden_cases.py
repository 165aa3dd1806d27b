"""The golden fixtures as our configs, state dicts and cases; what they are is in tests/golden/README.md.

A state dict has the body without prefix (`embeddings...`, `encoder...`, `decoder...`) and, where the fixture
has a head, `classifier...` (TensorFlow: `detector...`); `body` and `with_head` give the forms that FunnelformerModel
and the head models take.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funnelformer.checkpoints.folders import load_folder
from funnelformer.checkpoints.original_tf import import_variables
from funnelformer.checkpoints.tensor_bundle import write_bundle
from funnelformer.checkpoints.weights import read_state_dict
from funnelformer.config.model_config import FunnelformerConfig

GOLDEN = Path(__file__).parent / "golden"
# To keep the repository small; FUNNELFORMER_GOLDEN names the folder that holds them.
NOT_BUNDLED = (
    "pt_b222_sep_qkv_max",
    "pt_edge_short_nosep",
    "pt_rep_nosep_qkv_mean",
    "pt_rep_sep_qonly_mean",
    "pt_single_nosep",
    "ponet_noclsgsepg",
)
BODY = ("embeddings.", "encoder.", "decoder.")
# The reference spells it so.
_TF_POOLER = "head/model/sequnece_summary/summary/"


def golden_folders(prefix: str) -> list[Path]:
    """The fixtures whose name begins with `prefix`, such as "pt_" or "tf_full"; those not bundled where they are."""
    folders = [path for path in GOLDEN.iterdir() if path.is_dir()]
    root = os.environ.get("FUNNELFORMER_GOLDEN")
    if root is not None:
        folders += [Path(root) / name for name in NOT_BUNDLED]
    return sorted(path for path in folders if path.name.startswith(prefix))


def load_case_model(folder: Path) -> tuple[FunnelformerConfig, dict[str, Tensor]]:
    """Config and state dict of a fixture; `truncate_seq` is to be set for each case from its meta.

    Heads: `classifier.dense` and `classifier.output` from cls_head.pt or the fine-tuned form; of the
    TensorFlow fixtures `classifier.dense` alone (the pooler, dense and tanh).
    """
    if folder.name.startswith("tf_"):
        return _load_tensorflow(folder)
    loaded = load_folder(folder)
    state = {name.removeprefix("funnelformer."): tensor for name, tensor in loaded.state_dict.items()}
    config = loaded.config
    if (folder / "cls_head.pt").exists():
        head = read_state_dict(folder / "cls_head.pt")
        # stored input-first, as all kernels of the original
        state["classifier.dense.weight"] = head["cls_head.0.weight"].T.contiguous()
        state["classifier.dense.bias"] = head["cls_head.0.bias"]
        state["classifier.output.weight"] = head["cls_head.3.weight"].T.contiguous()
        state["classifier.output.bias"] = head["cls_head.3.bias"]
        config = FunnelformerConfig(
            **{**config.to_dict(), "num_labels": 3, "id2label": None, "label2id": None}
        )
    return config, state


def _load_tensorflow(folder: Path) -> tuple[FunnelformerConfig, dict[str, Tensor]]:
    with np.load(folder / "weights.npz") as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    part = import_variables(
        weights, json.loads((folder / "net_config.json").read_text()), folder.name
    ).discriminator
    state = {name.removeprefix("funnelformer."): tensor for name, tensor in part.state_dict.items()}
    with np.load(folder / "cases.npz") as arrays:
        state["classifier.dense.weight"] = torch.from_numpy(arrays[f"{_TF_POOLER}kernel"]).T.contiguous()
        state["classifier.dense.bias"] = torch.from_numpy(arrays[f"{_TF_POOLER}bias"])
    return part.config, state


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part that FunnelformerModel takes."""
    return {name: tensor for name, tensor in state.items() if name.startswith(BODY)}


def with_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The form that the head models take: the body under `funnelformer.`, the head beside it."""
    return {
        f"funnelformer.{name}" if name.startswith(BODY) else name: tensor for name, tensor in state.items()
    }


def iter_cases(folder: Path) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, Any]]]:
    """Yield name, arrays and meta (seq_len, truncate_seq, lengths, ...) of each case."""
    metas = json.loads((folder / "cases.json").read_text())["cases"]
    with np.load(folder / "cases.npz") as arrays:
        for meta in metas:
            prefix = f"{meta['case']}/"
            names = [name for name in arrays.files if name.startswith(prefix)]
            yield meta["case"], {name.removeprefix(prefix): arrays[name] for name in names}, meta


def bundled(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The `model/...` variables of a fixture and its net config."""
    with np.load(folder / "weights.npz") as arrays:
        variables = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return variables, json.loads((folder / "net_config.json").read_text())


def released(folder: Path, to: Path) -> Path:
    """A fixture as a released core: net config, vocabulary, checkpoint written by us."""
    to.mkdir()
    shutil.copy(folder / "net_config.json", to)
    write_bundle(to / "model.ckpt-1000.index", bundled(folder)[0])
    return to
