"""The golden fixtures as our configs, state dicts and cases; what they are is in tests/golden/README.md.

A state dict has the body without prefix (`embeddings...`, `encoder...`, `decoder...`) and, where the fixture
has a head, `classifier...`; `body` and `with_head` give the forms that FunnelformerModel and the head models
take.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funnelformer.checkpoints import load_folder, read_state_dict
from funnelformer.checkpoints.key_map import LAYER, Row, encoder_layers, expand, layer_row, to_ours
from funnelformer.checkpoints.net_config import config_values
from funnelformer.config import FunnelformerConfig

GOLDEN = Path(__file__).parent / "golden"
# To keep the repository small; FUNNELFORMER_GOLDEN names the folder that holds them.
NOT_BUNDLED = ("pt_b222_sep_qkv_max", "pt_rep_sep_qonly_mean", "ponet_noclsgsepg")
BODY = ("embeddings.", "encoder.", "decoder.")
_TF_LAYER_NORM_EPS = 1e-8
# The reference spells it so.
_TF_POOLER = "head/model/sequnece_summary/summary/"

_TF_EMBEDDINGS = [
    Row("embeddings.word_embeddings.weight", "V De", "model/input/word_embedding/lookup_table"),
    Row("embeddings.layer_norm.weight", "De", "model/input/layer_norm/gamma"),
    Row("embeddings.layer_norm.bias", "De", "model/input/layer_norm/beta"),
]
_TF_PROJECTION = [
    Row("embeddings.projection.weight", "D De", "model/encoder/input_projection/kernel", "De D", True),
    Row("embeddings.projection.bias", "D", "model/encoder/input_projection/bias"),
]
# ours: theirs, their shape where it differs (their kernels are all input-first)
_TF_LAYER_NAMES = {
    "mixer.query.weight": ("rel_attn/q/kernel", "D H E"),
    "mixer.key.weight": ("rel_attn/k/kernel", "D H E"),
    "mixer.key.bias": ("rel_attn/k/bias", "H E"),
    "mixer.value.weight": ("rel_attn/v/kernel", "D H E"),
    "mixer.value.bias": ("rel_attn/v/bias", "H E"),
    "mixer.output.weight": ("rel_attn/o/kernel", "H E D"),
    "mixer.output.bias": ("rel_attn/o/bias", ""),
    "mixer.relative.weight": ("rel_attn/r/kernel", "D H E"),
    "mixer.content_bias": ("rel_attn/r_w_bias", ""),
    "mixer.position_bias": ("rel_attn/r_r_bias", ""),
    "mixer.segment_bias": ("rel_attn/r_s_bias", ""),
    "mixer.segment_embedding": ("rel_attn/seg_embed", ""),
    "mixer_norm.weight": ("rel_attn/layer_norm/gamma", ""),
    "mixer_norm.bias": ("rel_attn/layer_norm/beta", ""),
    "feed_forward.expand.weight": ("ff/layer_1/kernel", "D F"),
    "feed_forward.expand.bias": ("ff/layer_1/bias", ""),
    "feed_forward.contract.weight": ("ff/layer_2/kernel", "F D"),
    "feed_forward.contract.bias": ("ff/layer_2/bias", ""),
    "feed_forward_norm.weight": ("ff/layer_norm/gamma", ""),
    "feed_forward_norm.bias": ("ff/layer_norm/beta", ""),
}
_TF_LAYER = [
    layer_row(ours, theirs, shape, input_first=theirs.endswith("kernel"))
    for ours, (theirs, shape) in _TF_LAYER_NAMES.items()
]
_TF_IGNORED = {r"model/binary_(proj|loss)/.*": "replaced-token head"}
assert LAYER.keys() == _TF_LAYER_NAMES.keys()


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
    net = folder / "net_config.json"
    values = config_values(json.loads(net.read_text()), str(net))
    config = FunnelformerConfig(**values, padding="original", layer_norm_eps=_TF_LAYER_NORM_EPS)
    with np.load(folder / "weights.npz") as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    rows = expand(_TF_EMBEDDINGS, config)
    if config.embedding_size != config.hidden_size:
        rows += expand(_TF_PROJECTION, config)
    for k, block, layer in encoder_layers(config):
        rows += expand(_TF_LAYER, config, f"encoder.blocks.{block}.{layer}.", f"model/encoder/layer_{k}/")
    for layer in range(config.decoder_layers or 0):
        # decoder layers continue the numbering of the encoder's parameter layers
        k = config.num_hidden_layers + layer
        rows += expand(_TF_LAYER, config, f"decoder.layers.{layer}.", f"model/decoder/layer_{k}/")
    state, _ = to_ours(weights, rows, _TF_IGNORED, folder.name)
    with np.load(folder / "cases.npz") as arrays:
        state["classifier.dense.weight"] = torch.from_numpy(arrays[f"{_TF_POOLER}kernel"]).T.contiguous()
        state["classifier.dense.bias"] = torch.from_numpy(arrays[f"{_TF_POOLER}bias"])
    return config, state


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
