"""The paper's optimizer against recorded trajectories of the original, and the schedules in numbers."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from funnelformer import FunnelformerConfig, FunnelformerForElectra, FunnelformerForMaskedLM, UserError
from funnelformer.training.finetuning.trainer import FinetuneTrainer
from funnelformer.training.pretraining.trainer import PretrainTrainer
from funnelformer.training.run.optimizer import BIAS_AND_NORM, PaperAdamW, build_optimizer, layer_rates
from funnelformer.training.run.trainer import RunTrainer
from golden_cases import GOLDEN
from models import small_config
from schedules import build_schedule, learning_rate_factor

TRAJECTORIES = ("corrected_excl", "uncorrected_noexcl", "layer_decay", "repeated_rows")
# measured: 2.4e-7
TOLERANCE = 1e-6
# Of the recorded variables, what ours is called in a model of two encoder layers and one of the decoder.
OURS = {
    "model/input/word_embedding/lookup_table": "funnelformer.embeddings.word_embeddings.weight",
    "model/encoder/layer_0/rel_attn/q/kernel": "funnelformer.encoder.blocks.0.0.mixer.query.weight",
    "model/encoder/layer_0/rel_attn/r_w_bias": "funnelformer.encoder.blocks.0.0.mixer.content_bias",
    "model/encoder/layer_0/rel_attn/layer_norm/gamma": "funnelformer.encoder.blocks.0.0.mixer_norm.weight",
    "model/encoder/layer_1/ff/layer_1/bias": "funnelformer.encoder.blocks.1.0.feed_forward.expand.bias",
    "model/encoder/layer_1/ff/layer_1/kernel": "funnelformer.encoder.blocks.1.0.feed_forward.expand.weight",
    "model/decoder/layer_2/ff/layer_2/kernel": "funnelformer.decoder.layers.0.feed_forward.contract.weight",
    "task/logit/kernel": "classifier.output.weight",
}


class Recorded(nn.Module):
    """The recorded variables under our names, with the values of one step."""

    def __init__(self, values):
        super().__init__()
        for name, value in values.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_parameter(last, nn.Parameter(value.clone()))


def recorded(name):
    """Meta, and for each array of [steps, elements] a function that gives one step's values by our names."""
    with np.load(GOLDEN / "adam" / "trajectories.npz") as arrays:
        own = {
            key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if key.startswith(f"{name}/")
        }
    meta = json.loads(str(own.pop("meta")))
    shapes = meta.pop("shapes")

    def split(row):
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        parts = torch.from_numpy(row).split(sizes)
        return {OURS[key]: part.view(shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}

    return meta, own, split


@pytest.mark.parametrize("gradients", ["raw", "applied"])
@pytest.mark.parametrize("name", TRAJECTORIES)
def test_equal_to_the_original_trajectory(name, gradients):
    """From recorded gradients, before and after clipping and layer-wise decay, to every weight and moment."""
    meta, arrays, split = recorded(name)
    model = Recorded(split(arrays["params"][0]))
    rate, is_raw = meta["lr_layer_decay_rate"], gradients == "raw"
    config = FunnelformerConfig(blocks=[1, 1], decoder_layers=1)
    # The original multiplied gradients, not rates, and left those of the embedding projection as they were.
    scales = layer_rates(OURS.values(), config, rate, "funnelformer.")
    scales = {key: scale for key, scale in scales.items() if "embeddings.projection" not in key}
    optimizer = build_optimizer(
        model,
        "paper",
        meta["learning_rate"],
        weight_decay=meta["weight_decay"],
        betas=(meta["adam_beta1"], meta["adam_beta2"]),
        eps=meta["adam_epsilon"],
        no_decay=BIAS_AND_NORM if meta["use_wd_exclusion"] else None,
    )
    for group in optimizer.param_groups:
        group["correct_bias"] = meta["adam_correction"]
    schedule = build_schedule(optimizer, meta["train_steps"], meta["warmup_steps"])
    parameters = dict(model.named_parameters())
    worst = 0.0
    for step in range(5):
        for key, gradient in split(arrays[f"{gradients}_grads"][step]).items():
            parameters[key].grad = gradient.clone()
        if is_raw and meta["clip"]:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters.values()])
            # of repeated rows of an embedding the original took the norm before they were summed
            recorded_norm = torch.tensor(arrays["grad_global_norm"][step])
            if name != "repeated_rows":
                torch.testing.assert_close(norm, recorded_norm, rtol=1e-6, atol=0)
            torch.nn.utils.clip_grads_with_norm_(parameters.values(), meta["clip"], recorded_norm)
        if is_raw:
            for key, scale in scales.items():
                parameters[key].grad.mul_(scale)
        rates = {group["lr"] for group in optimizer.param_groups}
        np.testing.assert_allclose(list(rates), arrays["learning_rate"][step], rtol=1e-6)
        optimizer.step()
        schedule.step()
        for key, value in split(arrays["params"][step + 1]).items():
            worst = max(worst, (parameters[key] - value).abs().max().item())
    for ours, theirs in (("exp_avg", "adam_m"), ("exp_avg_sq", "adam_v")):
        for key, value in split(arrays[theirs]).items():
            worst = max(worst, (optimizer.state[parameters[key]][ours] - value).abs().max().item())
    assert worst <= TOLERANCE, worst


def test_one_update_by_hand():
    weight, idle = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0]))
    optimizer = PaperAdamW([weight, idle], lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.5)
    weight.grad = torch.tensor([4.0])
    assert optimizer.step(lambda: 7.0) == 7.0
    # m = 0.4, v = 0.16, lr_1 = 0.1 * sqrt(0.01) / 0.1 = 0.1; 2 - 0.1 * (0.4 / 0.4 + 0.5 * 2)
    assert weight.item() == pytest.approx(1.8, abs=1e-6)
    assert idle.item() == 3.0
    assert idle not in optimizer.state


def test_a_parameter_that_begins_later_has_its_own_correction():
    """Grouped by steps taken, the update equals that of each parameter on its own."""

    def train(apart):
        first, second = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
        groups = [[first], [second]] if apart else [[first, second]]
        optimizers = [PaperAdamW(group, lr=0.1) for group in groups]
        for step in range(4):
            first.grad = torch.tensor([1.0 + step])
            second.grad = torch.tensor([2.0]) if step > 1 else None
            for optimizer in optimizers:
                optimizer.step()
        return first.item(), second.item()

    assert train(apart=True) == train(apart=False)


def test_state_survives_saving():
    def step(optimizer, weight, value):
        weight.grad = torch.full((3,), value)
        optimizer.step()

    weight = nn.Parameter(torch.ones(3))
    optimizer = PaperAdamW([weight], lr=0.1)
    step(optimizer, weight, 0.5)
    other = nn.Parameter(weight.detach().clone())
    resumed = PaperAdamW([other], lr=0.7)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, weight, 0.25)
    step(resumed, other, 0.25)
    assert torch.equal(weight, other)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((10, 4), [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 0.5, 2 / 6, 1 / 6, 0, 0]),
        ((4, 0, "cosine"), [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0, 0]),
        ((4, 2, "linear", 0.2), [0.2, 0.6, 1, 0.6, 0.2]),
        ((2, 2), [0, 0.5, 1, 0]),
    ],
)
def test_schedule(arguments, wanted):
    found = [learning_rate_factor(step, *arguments) for step in range(len(wanted))]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_what_is_decayed():
    """By default everything with "paper", as in the original; with "modern" no bias and no LayerNorm."""
    model = FunnelformerForMaskedLM(small_config("B1-1H16"))
    names = {parameter: name for name, parameter in model.named_parameters()}

    def not_decayed(**settings):
        optimizer = build_optimizer(model, weight_decay=0.1, **settings)
        assert {group["weight_decay"] for group in optimizer.param_groups} <= {0.0, 0.1}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
        free = [group for group in optimizer.param_groups if not group["weight_decay"]]
        return {names[parameter] for group in free for parameter in group["params"]}

    plain = {name for name in names.values() if name.endswith(".bias") or "norm.weight" in name}
    assert not_decayed(preset="paper") == set()
    assert not_decayed(preset="modern") == plain
    assert not_decayed(preset="paper", no_decay=BIAS_AND_NORM) == plain
    assert not_decayed(preset="modern", no_decay="") == set()
    assert not_decayed(preset="modern", no_decay=r".*embeddings\..*") == {
        name for name in names.values() if "embeddings." in name
    }
    assert not any(name.endswith(("content_bias", "position_bias", "segment_bias")) for name in plain)


def test_modern_is_torchs_adamw():
    model = FunnelformerForMaskedLM(small_config("L1H16"))
    optimizer = build_optimizer(model, "modern", 3e-4)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["betas"] == (0.9, 0.98)
    assert optimizer.defaults["eps"] == 1e-6
    assert optimizer.defaults["lr"] == 3e-4


def test_layer_rates():
    config = small_config("B2-1x2H16", decoder_layers=1, embedding_size=8)
    model = FunnelformerForElectra(config)
    names = [name for name, _ in model.named_parameters()]
    scales = layer_rates(names, config, 0.5, "discriminator.funnelformer.")
    found = {name.removeprefix("discriminator.funnelformer."): scale for name, scale in scales.items()}
    # layers: embedding 0, the first block 1 and 2, the second 3, the decoder 4
    assert found["embeddings.word_embeddings.weight"] == 0.5**4
    assert found["embeddings.layer_norm.bias"] == 0.5**4
    assert found["encoder.blocks.0.1.mixer.query.weight"] == 0.5**2
    assert found["encoder.blocks.1.0.mixer.content_bias"] == 0.5
    assert found["decoder.layers.0.feed_forward_norm.weight"] == 1
    assert found["embeddings.projection.weight"] == 0.5**4
    assert not any("detector" in name or "generator" in name for name in scales)


def test_bad_settings():
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match="optimizer is 'papr'; allowed: paper, modern"):
        build_optimizer(model, "papr")
    with pytest.raises(ValueError, match="betas"):
        PaperAdamW(model.parameters(), betas=(0.9, 1.0))


def decayed_by(trainer):
    optimizer = trainer.create_optimizer()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return {
        names[parameter]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"]
    }


def test_one_rule_of_decay_for_every_training(tmp_path):
    """As the paper's code excludes: dense biases and LayerNorms do not decay; r_w, r_r, r_s and all else do."""
    arguments = TrainingArguments(str(tmp_path), weight_decay=0.1, report_to="none", use_cpu=True)
    found = {
        trainer_class: decayed_by(trainer_class(FunnelformerForMaskedLM(small_config("L1H16")), arguments))
        for trainer_class in (PretrainTrainer, FinetuneTrainer, RunTrainer)  # the last is the Arena's
    }
    assert found[PretrainTrainer] == found[FinetuneTrainer] == found[RunTrainer]
    mixer = "funnelformer.encoder.blocks.0.0.mixer"
    layer = mixer.removesuffix(".mixer")
    decayed = found[RunTrainer]
    assert {f"{mixer}.{name}" for name in ("content_bias", "position_bias", "segment_bias")} <= decayed
    assert {f"{mixer}.segment_embedding", f"{mixer}.query.weight"} <= decayed
    assert not {f"{mixer}.key.bias", f"{layer}.mixer_norm.weight", f"{layer}.mixer_norm.bias"} & decayed
