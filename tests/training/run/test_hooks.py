"""Training relies on private methods of transformers' Trainer: each is listed, and none may be missing."""

import pytest
import transformers
from transformers import Trainer, TrainingArguments

from funnelformer import FunnelformerForMaskedLM
from funnelformer.base.errors import UserError
from funnelformer.training.finetuning.trainer import FinetuneTrainer
from funnelformer.training.pretraining.electra_trainer import ElectraTrainer
from funnelformer.training.pretraining.trainer import PretrainTrainer
from funnelformer.training.run.hooks import PRIVATE_HOOKS, check_hooks
from models import batch, small_config


def test_every_overridden_hook_is_listed():
    ours = {
        name
        for trainer_class in (ElectraTrainer, FinetuneTrainer)
        for base in trainer_class.__mro__
        if base.__module__.startswith("funnelformer.")
        for name in vars(base)
    }
    private = {name for name in ours if name.startswith("_") and not name.startswith("__")}
    assert private & set(dir(Trainer)) == set(PRIVATE_HOOKS)


def arguments(tmp_path):
    return TrainingArguments(str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no")


def test_a_renamed_hook_ends_the_run_before_it_starts(monkeypatch, tmp_path):
    check_hooks()
    monkeypatch.setattr(Trainer, "_clip_and_measure", Trainer._get_grad_norm, raising=False)
    monkeypatch.delattr(Trainer, "_get_grad_norm")
    message = (
        rf"^transformers {transformers.__version__} has no Trainer._get_grad_norm, which training relies on; "
        "install a version that funnelformer was tested with: transformers>=5.17,<5.24$"
    )
    with pytest.raises(UserError, match=message):
        FinetuneTrainer(FunnelformerForMaskedLM(small_config("L1H16")), arguments(tmp_path))


def test_an_update_that_the_guard_has_not_seen_is_not_made(monkeypatch, tmp_path):
    """As with a transformers that has the hook and does not call it."""
    model = FunnelformerForMaskedLM(small_config("L1H16"))
    ids = batch(8, [8, 8])[0]
    data = [{"input_ids": row, "labels": row} for row in ids]
    trainer = PretrainTrainer(model, arguments(tmp_path), train_dataset=data, out=tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(PretrainTrainer, "_get_grad_norm", Trainer._get_grad_norm)
    with pytest.raises(UserError, match="did not ask for the norm of the gradient before the update"):
        trainer.train()
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
