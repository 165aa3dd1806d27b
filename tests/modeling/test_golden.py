"""Every recorded case of the original implementations: hidden states, logits, losses.

The measured differences are written to the file named by FUNNELFORMER_PARITY_TABLE, if set.
"""

import os
from pathlib import Path

import pytest
import torch

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification, FunnelformerModel
from golden_cases import NOT_BUNDLED, body, golden_folders, iter_cases, load_case_model, with_head

# The originals in float32; 7e-6 measured, and their own two attentions differ by 1e-5.
TOLERANCE = 5e-5
CASES = [
    (folder, name, arrays, meta)
    for prefix in ("pt_", "tf_")
    for folder in golden_folders(prefix)
    for name, arrays, meta in iter_cases(folder)
]


def inputs_of(arrays):
    """Our arguments from the originals' (their mask is 1 at padding)."""
    return {
        "input_ids": torch.from_numpy(arrays["inputs"]).long(),
        "attention_mask": 1 - torch.from_numpy(arrays["input_mask"]).long(),
        "token_type_ids": torch.from_numpy(arrays["seg_id"]).long() if "seg_id" in arrays else None,
    }


def load(model_class, folder, meta, implementation, **changes):
    config, state = load_case_model(folder)
    values = {**config.to_dict(), "truncate_seq": meta["truncate_seq"], **changes}
    config = FunnelformerConfig(**values)
    weights = body(state) if model_class is FunnelformerModel else with_head(state)
    return model_class.from_pretrained(
        None, config=config, state_dict=weights, attn_implementation=implementation
    ).eval()


class Differences:
    """Largest difference of each array of a case."""

    def __init__(self, title):
        self.title, self.found = title, {}

    def add(self, name, ours, theirs):
        theirs = torch.from_numpy(theirs)
        assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
        self.found[name] = (ours - theirs).abs().max().item()

    def check(self):
        worst = max(self.found, key=self.found.get)
        if path := os.environ.get("FUNNELFORMER_PARITY_TABLE"):
            with open(path, "a") as file:
                file.write(f"| {self.title} | {len(self.found)} | {self.found[worst]:.1e} |\n")
        assert self.found[worst] <= TOLERANCE, (worst, self.found)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("folder", "name", "arrays", "meta"), CASES, ids=[f"{folder.name}-{name}" for folder, name, *_ in CASES]
)
def test_equal_to_the_original(folder, name, arrays, meta, implementation):
    differences = Differences(f"{folder.name} {name} {implementation}")
    with torch.no_grad():
        if folder.name.startswith("tf_"):
            compare_tensorflow(folder, arrays, meta, implementation, differences)
        else:
            compare_pytorch(folder, arrays, meta, implementation, differences)
    differences.check()


@pytest.mark.parametrize("name", NOT_BUNDLED)
def test_fixtures_that_are_not_bundled(name):
    """Says what did not run; with FUNNELFORMER_GOLDEN they are among the cases above and in test_mixers.py."""
    root = os.environ.get("FUNNELFORMER_GOLDEN")
    if root is None:
        pytest.skip(f"{name} is not bundled; FUNNELFORMER_GOLDEN names the folder that holds it")
    assert (Path(root) / name / "cases.npz").is_file()


def compare_pytorch(folder, arrays, meta, implementation, differences):
    inputs = inputs_of(arrays)
    model = load(FunnelformerModel, folder, meta, implementation)
    hidden = model(**inputs, output_hidden_states=True).hidden_states
    recorded = sorted(key for key in arrays if key.startswith("hidden_"))
    if recorded:
        assert len(hidden) == len(recorded)
    for key, states in zip(recorded, hidden, strict=bool(recorded)):
        differences.add(key, states, arrays[key])
    if "factorized_last_hidden" in arrays:
        differences.add("factorized_last_hidden", hidden[-1], arrays["factorized_last_hidden"])
    if "cls_logits" in arrays:
        head = load(FunnelformerForSequenceClassification, folder, meta, implementation, num_labels=3)
        output = head(**inputs, labels=torch.from_numpy(arrays["cls_target"]).long())
        for key in ("cls_logits", "factorized_cls_logits"):
            if key in arrays:
                differences.add(key, output.logits, arrays[key])
        differences.add("cls_loss", output.loss, arrays["cls_loss"].reshape(()))
    assert differences.found


def compare_tensorflow(folder, arrays, meta, implementation, differences):
    changes = {} if meta.get("decoder", True) and "decoder_output" in arrays else {"decoder_layers": 0}
    model = load(FunnelformerModel, folder, meta, implementation, **changes)
    embedded = {}
    model.embeddings.layer_norm.register_forward_hook(lambda *call: embedded.update(output=call[-1]))
    output = model(**inputs_of(arrays), output_hidden_states=True)
    differences.add("word_embed", embedded["output"], arrays["word_embed"])
    recorded = sorted(key for key in arrays if key.startswith("encoder_hidden_"))
    assert recorded
    for key, states in zip(recorded, output.hidden_states[1:]):  # noqa: B905 (the decoder's follow)
        differences.add(key, states, arrays[key])
    if "decoder_output" in arrays:
        differences.add("decoder_output", output.last_hidden_state, arrays["decoder_output"])
    state = load_case_model(folder)[1]
    first = output.encoder_last_hidden_state[:, 0]
    pooler = torch.tanh(first @ state["classifier.dense.weight"].T + state["classifier.dense.bias"])
    for key in ("pooled_output", "factorized_pooled_output"):
        if key in arrays:
            differences.add(key, pooler, arrays[key])
