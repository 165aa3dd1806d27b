"""Training relies on private methods of transformers' Trainer: each is listed, and none may be missing."""

import pytest
import transformers
from transformers import Trainer, TrainingArguments

from funnelformer import FunnelformerForMaskedLM
from funnelformer.base.errors import UserError
from funnelformer.training.distillation.trainer import DistillTrainer
from funnelformer.training.finetuning.trainer import FinetuneTrainer
from funnelformer.training.pretraining.electra_trainer import ElectraTrainer
from funnelformer.training.run.hooks import PRIVATE_HOOKS, check_hooks
from models import small_config


def test_every_overridden_hook_is_listed():
    ours = {
        name
        for trainer_class in (ElectraTrainer, FinetuneTrainer, DistillTrainer)
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
    monkeypatch.setattr(Trainer, "_write_checkpoint", Trainer._save_checkpoint, raising=False)
    monkeypatch.delattr(Trainer, "_save_checkpoint")
    message = (
        rf"^transformers {transformers.__version__} has no Trainer._save_checkpoint, which training relies on; "
        "install a version that funnelformer was tested with: transformers>=5.17,<5.24$"
    )
    with pytest.raises(UserError, match=message):
        FinetuneTrainer(FunnelformerForMaskedLM(small_config("L1H16")), arguments(tmp_path))
