"""What is ours around the Hugging Face Trainer: its arguments, how a run starts and ends."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from ..data.files import atomic_writer
from .run import RunConfig, one_line_errors, save_final

__all__ = ["run_trainer", "training_arguments"]


def training_arguments(config: RunConfig, num_steps: int, **overrides: Any) -> TrainingArguments:
    """Arguments of a run of `num_steps` optimizer steps; `overrides` are TrainingArguments' own names."""
    settings: dict[str, Any] = {
        "output_dir": str(config.out / "checkpoints"),
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.clip,
        "max_steps": num_steps,
        "lr_scheduler_type": config.schedule if config.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": math.ceil(config.warmup * num_steps),
        "bf16": config.precision == "bf16",
        "logging_steps": config.log_every,
        "save_total_limit": config.keep_checkpoints,
        "seed": config.seed,
        "use_cpu": config.device == "cpu",
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**settings, **overrides})


def run_trainer(trainer: Trainer, tokenizer: Any, out: Path, checkpoint: Path | None) -> None:
    """Train (or go on from `checkpoint`), then save the model and the log into `out`."""
    with one_line_errors(out):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        save_final(trainer, tokenizer, out)
        if trainer.is_world_process_zero():
            with atomic_writer(out / "log.jsonl") as file:
                for entry in trainer.state.log_history:
                    file.write(json.dumps(entry) + "\n")
