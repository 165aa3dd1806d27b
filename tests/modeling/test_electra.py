"""Replaced-token pretraining: recorded runs of the original, counts, sharing, folders, the Trainer."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from funnelformer import (
    FunnelformerForElectra,
    FunnelformerForMaskedLM,
    FunnelformerForSequenceClassification,
    FunnelformerForTokenDetection,
    UserError,
)
from funnelformer.checkpoints.original_tf import import_variables
from funnelformer.checkpoints.tensor_bundle import read_bundle
from funnelformer.modeling.electra import GENERATOR_FOLDER, generator_config, sample_tokens
from funnelformer.training.pretraining.electra_trainer import ElectraTrainer, load_into
from funnelformer.training.run.optimizer import BIAS_AND_NORM, build_optimizer
from golden_cases import GOLDEN
from models import batch, build, enable_checkpointing, small_config
from schedules import build_schedule

E32, E16 = "tf_full_e32_b1_1x2_d1", "tf_full_e16_b1_1x2_d1"
# measured: logits 7e-6; the original's own two attentions differ by 1.3e-5 after three steps
LOGITS = 5e-5
# relative; measured: 1e-6, norms of gradients 4e-6
LOSSES = 1e-5
# after three steps; measured: weights 4.5e-5 (the original's own two attentions: 2.2e-5), moments 3e-7
WEIGHTS = 1e-4


def golden_root() -> Path:
    root = os.environ.get("FUNNELFORMER_GOLDEN")
    if root is None:
        pytest.skip(
            "the full checkpoints are not bundled: FUNNELFORMER_GOLDEN names the folder that holds them"
        )
    return Path(root)


def bundled():
    """Weights after three steps, and what the original computed with them."""
    with np.load(GOLDEN / E32 / "electra.npz") as arrays, np.load(GOLDEN / E32 / "weights.npz") as model:
        variables = {name: arrays[name] for name in arrays.files if name.startswith("generator/")}
        cases = {name: arrays[name] for name in arrays.files if name not in variables}
        return variables | {name: model[name] for name in model.files}, cases


def from_root(name, part):
    folder = golden_root() / name
    with np.load(folder / "electra_cases.npz") as arrays:
        cases = {key: arrays[key] for key in arrays.files}
    return read_bundle(folder / part / "model.ckpt.index"), cases


def electra_of(variables, name=E32):
    net = json.loads((GOLDEN / name / "net_config.json").read_text())
    found = import_variables(variables, net, name)
    parts = {"discriminator": found.discriminator, "generator": found.generator}
    state = {
        f"{part}.{key}": value for part, model in parts.items() for key, value in model.state_dict.items()
    }
    model = FunnelformerForElectra.from_pretrained(
        None, found.generator.config, config=found.discriminator.config, state_dict=state
    )
    return model, found


def inputs_of(cases):
    is_target = torch.from_numpy(cases["is_target"])
    num_targets = int(is_target.sum())
    return {
        "input_ids": torch.from_numpy(cases["masked_input"]).long(),
        "attention_mask": 1 - torch.from_numpy(cases["pad_mask"]).long(),
        "token_type_ids": torch.from_numpy(cases["seg_id"]).long(),
        "labels": torch.from_numpy(cases["origin_input"]).long().masked_fill(~is_target, -100),
        "uniform_noise": torch.from_numpy(cases["uniform_noise"]).view(num_targets, -1),
    }


def check_outputs(output, cases, prefix, inputs):
    def recorded(name):
        return torch.from_numpy(np.asarray(cases[f"{prefix}/{name}"]))

    gen_logits = recorded("gen_logits")
    is_real, is_target = inputs["attention_mask"].bool(), inputs["labels"] != -100
    originals = torch.where(is_target, inputs["labels"], inputs["input_ids"])
    is_original = output.corrupted_ids == originals
    assert torch.equal(output.corrupted_ids, recorded("sample_input").long())
    assert is_original.float().mean() == recorded("real_ratio")
    torch.testing.assert_close(output.generator_logits, gen_logits.flatten(0, 1), rtol=0, atol=LOGITS)
    torch.testing.assert_close(output.logits, recorded("disc_logits"), rtol=0, atol=LOGITS)
    per_target = torch.nn.functional.cross_entropy(
        output.generator_logits, inputs["labels"][is_target], reduction="none"
    )
    torch.testing.assert_close(per_target, recorded("gen_per_token_loss").flatten(), rtol=0, atol=LOGITS)
    per_token = torch.nn.functional.binary_cross_entropy_with_logits(
        output.logits, is_original.float(), reduction="none"
    )
    torch.testing.assert_close(per_token, recorded("disc_per_token_loss"), rtol=0, atol=LOGITS)
    for ours, theirs in (
        ("generator_loss", "gen_loss"),
        ("discriminator_loss", "disc_loss"),
        ("loss", "total_loss"),
    ):
        torch.testing.assert_close(output[ours], recorded(theirs), rtol=LOSSES, atol=0)
    # recomputed from what was recorded
    num_real = is_real.sum()
    assert output.replaced_fraction == (~is_original & is_real).sum() / num_real
    right = ((recorded("disc_logits") > 0) == is_original) & is_real
    assert output.discriminator_accuracy == right.sum() / num_real
    hits = gen_logits.flatten(0, 1).argmax(-1) == inputs["labels"][is_target]
    assert output.generator_accuracy == hits.float().mean()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equal_to_the_original(implementation):
    variables, cases = bundled()
    model, _ = electra_of(variables)
    model.discriminator.config._attn_implementation = implementation
    model.generator.config._attn_implementation = implementation
    inputs = inputs_of(cases)
    with torch.no_grad():
        check_outputs(model(**inputs), cases, "final", inputs)


@pytest.mark.parametrize(("name", "part"), [(E32, "init"), (E32, "full"), (E16, "full")])
def test_equal_to_the_original_in_full(name, part):
    variables, cases = from_root(name, part)
    model, _ = electra_of(variables, name)
    inputs = inputs_of(cases)
    with torch.no_grad():
        check_outputs(model(**inputs), cases, "init" if part == "init" else "final", inputs)


def test_gradients_equal_the_original():
    variables, cases = from_root(E32, "init")
    model, _ = electra_of(variables)
    model(**inputs_of(cases)).loss.backward()
    parameters = dict(model.named_parameters())
    total = torch.nn.utils.get_total_norm([p.grad for p in parameters.values()])
    torch.testing.assert_close(total, torch.tensor(cases["init/grad_global_norm"]), rtol=1e-5, atol=0)
    names = our_names()
    recorded = {
        key.removeprefix("init/grad_norm/"): value for key, value in cases.items() if "grad_norm/" in key
    }
    assert {names[key] for key in recorded} == parameters.keys()
    for key, norm in recorded.items():
        # Key biases move no softmax: their gradient is rounding alone (1e-5 beside others of 100).
        found = parameters[names[key]].grad.norm().item()
        assert found == pytest.approx(norm, rel=1e-4, abs=1e-5), key
    for key in [key for key in cases if key.startswith("init/grad/")]:
        gradient = parameters[names[key.removeprefix("init/grad/")]].grad
        theirs = torch.from_numpy(cases[key])
        if key.endswith("kernel"):
            theirs = theirs.reshape(theirs.shape[0], -1).T
        torch.testing.assert_close(gradient, theirs.reshape(gradient.shape), rtol=1e-4, atol=5e-5)


def our_names():
    """The original's variable -> our parameter, found by sending each variable's own number through the reader."""
    variables, _ = from_root(E32, "init")
    numbered = {
        name: torch.full_like(value, float(i)) for i, (name, value) in enumerate(sorted(variables.items()))
    }
    model, _ = electra_of(numbered)
    order = sorted(variables)
    return {order[int(p.flatten()[0])]: name for name, p in model.named_parameters()}


def test_replay_of_the_original_training():
    """Three optimizer steps from `init/`: losses, rates, norms, and every weight and moment of `full/`."""
    variables, cases = from_root(E32, "init")
    meta = json.loads((golden_root() / E32 / "electra_meta.json").read_text())
    model, _ = electra_of(variables)
    assert meta["use_wd_exclusion"]
    assert meta["lr_layer_decay_rate"] == 1
    optimizer = build_optimizer(
        model,
        "paper",
        meta["learning_rate"],
        weight_decay=meta["weight_decay"],
        betas=(meta["adam_beta1"], meta["adam_beta2"]),
        eps=meta["adam_epsilon"],
        no_decay=BIAS_AND_NORM,
    )
    schedule = build_schedule(optimizer, meta["train_steps"], meta["warmup_steps"])
    inputs = inputs_of(cases)
    for step in range(3):
        output = model(**inputs)
        assert torch.equal(output.corrupted_ids, torch.from_numpy(cases[f"step{step}/sample_input"]).long())
        optimizer.zero_grad()
        output.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), meta["clip"])
        found = [
            output.loss,
            output.generator_loss,
            output.discriminator_loss,
            schedule.get_last_lr()[0],
            norm,
        ]
        found = np.array([torch.as_tensor(value).item() for value in found])
        np.testing.assert_allclose(found, cases["trajectory"][step], rtol=2e-5, atol=1e-9)
        optimizer.step()
        schedule.step()
    full, _ = from_root(E32, "full")
    wanted_model, wanted = electra_of(full)
    assert wanted.step == 3
    parameters, compared = dict(model.named_parameters()), set()
    worst = {"weight": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0}
    for name, value in wanted_model.named_parameters():
        worst["weight"] = max(worst["weight"], (parameters[name] - value).abs().max().item())
    for name, moments in wanted.moments.items():
        state = optimizer.state[parameters[name]]
        assert state["step"] == 3
        compared.add(name)
        for kind, value in moments.items():
            worst[kind] = max(worst[kind], (state[kind] - value).abs().max().item())
    assert compared == parameters.keys()
    assert max(worst.values()) <= WEIGHTS, worst


def tiny(**settings):
    return small_config("B1-1H32", num_attention_heads=2, **settings)


def masked_batch(lengths=(16, 11, 5, 14), length=16, seed=2):
    input_ids, mask, segments = batch(length, list(lengths), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(input_ids.shape, generator=generator) < 0.3) & mask.bool()
    chosen[:, 0] = False
    chosen[:, 1] = True
    labels = input_ids.masked_fill(~chosen, -100)
    return {
        "input_ids": input_ids.masked_fill(chosen, 4),
        "attention_mask": mask,
        "token_type_ids": segments,
        "labels": labels,
    }


@pytest.mark.parametrize("size", [1, 2])
def test_parts_of_a_batch_sum_to_the_whole(size):
    """With the counts of the whole, losses and gradients of its parts add up to its own; means of parts do not."""
    model = build(FunnelformerForElectra, tiny(padding="exact"), dtype=torch.float64)
    whole = masked_batch()
    num_targets = (whole["labels"] != -100).sum()
    noise = torch.rand(int(num_targets), 60)
    output = model(**whole, uniform_noise=noise)
    output.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total, done = 0.0, 0
    for start in range(0, 4, size):
        part = {name: value[start : start + size] for name, value in whole.items()}
        count = int((part["labels"] != -100).sum())
        loss = model(
            **part,
            uniform_noise=noise[done : done + count],
            num_targets=num_targets,
            num_tokens=whole["attention_mask"].sum(),
        ).loss
        loss.backward()
        total, done = total + loss.item(), done + count
    assert total == pytest.approx(output.loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        # losses are computed in float32, as in training
        scale = wanted[name].abs().max().item()
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=0, atol=1e-6 * scale + 1e-9)


def test_one_count_needs_the_other():
    model = build(FunnelformerForElectra, tiny())
    with pytest.raises(ValueError, match="num_targets and num_tokens"):
        model(**masked_batch(), num_targets=3)


def test_logits_at_the_targets_alone():
    model = build(FunnelformerForElectra, tiny())
    shapes = []
    model.generator.lm_head.decoder.register_forward_hook(
        lambda module, inputs, out: shapes.append(out.shape)
    )
    inputs = masked_batch()
    model(**inputs)
    assert shapes == [(int((inputs["labels"] != -100).sum()), 60)]


def test_a_batch_without_targets_trains_the_discriminator_alone():
    model = build(FunnelformerForElectra, tiny())
    inputs = masked_batch()
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    output = model(**inputs)
    assert output.generator_loss == 0
    assert output.loss == output.discriminator_loss
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_padding_counts_in_no_loss():
    """Longer padding changes neither loss nor accuracies; without labels the logits are the discriminator's."""
    model = build(FunnelformerForElectra, tiny())
    inputs = masked_batch()
    noise = torch.rand(int((inputs["labels"] != -100).sum()), 60)
    fill = {"labels": -100}
    longer = {
        name: torch.nn.functional.pad(value, (0, 7), value=fill.get(name, 0))
        for name, value in inputs.items()
    }
    with torch.no_grad():
        short, long = model(**inputs, uniform_noise=noise), model(**longer, uniform_noise=noise)
        del inputs["labels"]
        plain = model(**{**inputs, "input_ids": short.corrupted_ids}).logits
    for name in ("loss", "replaced_fraction", "generator_accuracy", "discriminator_accuracy"):
        torch.testing.assert_close(short[name], long[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(plain, short.logits, rtol=0, atol=1e-6)


def test_samples_follow_the_softmax():
    """Frequencies of 40,000 draws within five standard deviations of the probabilities."""
    logits = torch.tensor([0.0, 1.0, 2.5, -1.0])
    num_draws = 40_000
    drawn = sample_tokens(logits.expand(num_draws, -1))
    share = torch.bincount(drawn, minlength=4) / num_draws
    wanted = logits.softmax(-1)
    assert ((share - wanted).abs() < 5 * (wanted * (1 - wanted) / num_draws).sqrt()).all()


def test_token_detection_loss_and_its_sign():
    """A positive logit says original: the loss is -log sigmoid(logit) where the label is 1."""
    model = build(FunnelformerForTokenDetection, tiny())
    input_ids, mask, segments = batch(8, [8, 5])
    labels = torch.tensor([[1, 0, 1, 1, -100, 0, 1, 1], [0, 1, 1, 1, 0, -100, -100, -100]])
    output = model(input_ids, mask, segments, labels=labels)
    signs = torch.where(labels == 1, 1.0, -1.0)
    wanted = -torch.nn.functional.logsigmoid(signs * output.logits)[labels != -100]
    torch.testing.assert_close(output.loss, wanted.mean())
    scaled = model(input_ids, mask, segments, labels=labels, num_items_in_batch=24)
    torch.testing.assert_close(scaled.loss, wanted.sum() / 24)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, (192, 768, 3)),
        ({"generator_size": 0.5}, (384, 1536, 6)),
        ({"hidden_size": 36, "num_attention_heads": 2, "intermediate_size": 144}, (8, 36, 1)),
    ],
)
def test_size_of_the_generator(settings, wanted):
    config = small_config("B4-4-4H768", **settings)
    generator = generator_config(config)
    assert (generator.hidden_size, generator.intermediate_size, generator.num_attention_heads) == wanted
    assert generator.head_size == config.head_size
    assert generator.embedding_size == config.embedding_size
    assert generator.blocks == config.blocks


@pytest.mark.parametrize("settings", [{"position": "relative"}, {"position": "absolute"}])
def test_what_is_shared(settings):
    config = small_config("L1H16", generator_size=0.5, **settings)
    model = FunnelformerForElectra(config)
    ours = dict(model.discriminator.funnelformer.embeddings.named_parameters())
    theirs = dict(model.generator.funnelformer.embeddings.named_parameters())
    for name, parameter in ours.items():
        assert theirs[name] is parameter
    assert theirs.keys() - ours.keys() == {"projection.weight", "projection.bias"}
    assert model.generator.lm_head.decoder.weight is ours["word_embeddings.weight"]


def test_generators_that_cannot_share():
    config = tiny()
    with pytest.raises(ValueError, match="its embedding_size is 8"):
        FunnelformerForElectra(config, small_config("B1-1H32", embedding_size=8))
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        FunnelformerForElectra(tiny(tie_word_embeddings=False))


def test_bad_config():
    with pytest.raises(UserError, match="generator_size is 0"):
        tiny(generator_size=0.0)
    with pytest.raises(UserError, match="discriminator_weight is -1"):
        tiny(discriminator_weight=-1.0)
    with pytest.raises(UserError, match="needs mask_token_id"):
        tiny(hide_mask_tokens=True)


def equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_folders(tmp_path):
    """Two ordinary models on disk, and one again, equal and shared."""
    model = build(FunnelformerForElectra, tiny(discriminator_weight=7.0))
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        GENERATOR_FOLDER,
    }
    assert {path.name for path in (tmp_path / GENERATOR_FOLDER).iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    architectures = json.loads((tmp_path / "config.json").read_text())["architectures"]
    assert architectures == ["FunnelformerForTokenDetection"]

    again, report = FunnelformerForElectra.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert equal(model, again)
    assert not again.training
    assert again.config.discriminator_weight == 7
    assert len(list(again.parameters())) == len(list(model.parameters()))
    ours = again.discriminator.get_input_embeddings().weight
    assert again.generator.get_input_embeddings().weight is ours
    assert again.generator.lm_head.decoder.weight is ours
    inputs = masked_batch()
    noise = torch.rand(int((inputs["labels"] != -100).sum()), 60)
    assert model(**inputs, uniform_noise=noise).loss == again(**inputs, uniform_noise=noise).loss

    alone = FunnelformerForMaskedLM.from_pretrained(tmp_path / GENERATOR_FOLDER)
    assert equal(alone, model.generator)
    detection = FunnelformerForTokenDetection.from_pretrained(tmp_path)
    assert equal(detection, model.discriminator)
    classifier, report = FunnelformerForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True, num_labels=3
    )
    assert all(name.startswith("classifier.") for name in report["missing_keys"])
    state = classifier.funnelformer.state_dict()
    wanted = model.discriminator.funnelformer.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in state.items())

    other = build(FunnelformerForElectra, tiny(), seed=5)
    load_into(other, tmp_path)
    assert equal(model, other)


def test_a_discriminator_without_its_generator(tmp_path):
    model = build(FunnelformerForElectra, tiny())
    model.discriminator.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no folder 'generator'"):
        FunnelformerForElectra.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ElectraTrainer"):
        model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)


def test_gradient_checkpointing_gives_the_same_gradients():
    inputs = masked_batch()
    noise = torch.rand(int((inputs["labels"] != -100).sum()), 60)
    gradients = []
    for checkpointing in (False, True):
        model = build(FunnelformerForElectra, tiny()).train()
        if checkpointing:
            enable_checkpointing(model)
        model(**inputs, uniform_noise=noise).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


class Rows(torch.utils.data.Dataset):
    """32 rows of four lengths."""

    def __init__(self):
        parts = [masked_batch(seed=seed) for seed in range(8)]
        self.rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.rows.items()}


def train(folder, num_steps, resume=None, accumulate=2, trainer_class=ElectraTrainer, dropout=0.1):
    torch.manual_seed(0)
    model = FunnelformerForElectra(tiny(hidden_dropout=dropout, initializer_std=0.3))
    optimizer = build_optimizer(model, "paper", 1e-2)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4 // accumulate,
        gradient_accumulation_steps=accumulate,
        max_steps=num_steps,
        save_steps=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=Rows(),
        optimizers=(optimizer, build_schedule(optimizer, 4, 1)),
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return model, [entry for entry in trainer.state.log_history if "loss" in entry]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, log = train(tmp_path / "whole", 4)
    train(tmp_path / "part", 2)
    resumed, resumed_log = train(tmp_path / "part", 4, tmp_path / "part" / "checkpoint-2")
    assert equal(whole, resumed)
    assert len(log) == 4
    assert [entry["loss"] for entry in resumed_log] == [entry["loss"] for entry in log]
    assert resumed_log[-1]["discriminator_accuracy"] == log[-1]["discriminator_accuracy"]
    with pytest.raises(ValueError, match="ElectraTrainer"):
        train(tmp_path / "part", 4, tmp_path / "part" / "checkpoint-2", trainer_class=Trainer)


def test_accumulation_equals_one_large_batch(tmp_path, monkeypatch):
    """Rows of unequal length in micro-batches give the loss and parts of the batch; a mean of means does not."""
    import funnelformer.modeling.electra as electra

    monkeypatch.setattr(electra, "sample_tokens", lambda logits, noise=None: logits.argmin(-1))
    logs = [train(tmp_path / str(n), 4, accumulate=n, dropout=0.0)[1] for n in (1, 2, 4)]
    names = ("loss", "generator_loss", "discriminator_loss")
    for log in logs[1:]:
        for entry, wanted in zip(log, logs[0], strict=True):
            assert [entry[name] for name in names] == pytest.approx(
                [wanted[name] for name in names], rel=1e-3
            )
            assert entry["loss"] == pytest.approx(
                entry["generator_loss"] + entry["discriminator_loss"], rel=1e-5
            )
            assert 0 < entry["replaced_fraction"] < 1
            assert 0 <= entry["generator_accuracy"] <= 1


def test_mask_tokens_hidden_from_attention():
    """`hide_mask_tokens` equals an attention mask that leaves `<mask>` out; by default they are seen."""
    hidden = build(FunnelformerForMaskedLM, tiny(hide_mask_tokens=True, mask_token_id=4))
    seen = build(FunnelformerForMaskedLM, tiny(mask_token_id=4))
    inputs = masked_batch()
    input_ids, mask = inputs["input_ids"], inputs["attention_mask"]
    is_mask = input_ids == 4
    with torch.no_grad():
        logits = hidden(**inputs).logits
        wanted = seen(**{**inputs, "attention_mask": mask * ~is_mask}).logits
        default = seen(**inputs).logits
    assert torch.equal(logits, wanted)
    assert (logits - default).abs().max() > 0.1
    with torch.no_grad():
        without = hidden(input_ids[:1]).logits
        torch.testing.assert_close(without, seen(input_ids[:1], (~is_mask[:1]).long()).logits)
    with pytest.raises(ValueError, match="hide_mask_tokens needs input_ids"):
        hidden(inputs_embeds=torch.zeros(1, 3, 32))
