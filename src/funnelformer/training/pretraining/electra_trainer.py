"""What replaced-token pretraining needs of the Trainer beyond masked language modelling."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints.weights import check_numbers, find_weights, read_state_dict
from ...modeling.electra import GENERATOR_FOLDER, FunnelformerForElectra
from .trainer import PretrainTrainer, Unit

__all__ = ["LOGGED", "ElectraTrainer", "load_into"]

LOSSES = ("generator_loss", "discriminator_loss")
SHARES = ("replaced_fraction", "generator_accuracy", "discriminator_accuracy")
LOGGED: dict[str, Unit] = {
    name: "targets" if name.startswith("generator") else "tokens" for name in (*LOSSES, *SHARES)
}


class ElectraTrainer(PretrainTrainer):
    """A Trainer of `FunnelformerForElectra`.

    The two losses are divided by the targets and the real tokens over all processes and accumulation steps. A
    checkpoint's two folders are loaded together on resuming.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"logged": LOGGED, "target_logits": "generator_logits", **kwargs})
        # The counts of `_get_num_items_in_batch` are wanted, and the loss is whole once they have divided it.
        self.model_accepts_loss_kwargs = True

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Any:
        """Targets and real tokens of all micro-batches of a step, on all processes, as one tensor [2]."""
        if not batch_samples:
            return None
        counts = torch.zeros(2, dtype=torch.long, device=device)
        for batch in batch_samples:
            mask = batch.get("attention_mask")
            num_tokens = batch["labels"].numel() if mask is None else mask.bool().sum()
            counts += torch.stack([batch["labels"].ne(-100).sum(), torch.as_tensor(num_tokens)]).to(device)
        return self.accelerator.reduce(counts, "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if num_items_in_batch is None or not model.training:
            counts, num_parts, num_processes = {}, 1, 1
        else:
            num_targets, num_tokens = num_items_in_batch.clamp(min=1)
            counts = {"num_targets": num_targets, "num_tokens": num_tokens}
            # Gradients are averaged over processes, and each has a part of the sum.
            num_processes = self.accelerator.num_processes
            num_parts = num_processes * self.current_gradient_accumulation_steps
        output = model(**inputs, **counts)
        # Of the parts of a sum the mean over micro-batches is wanted times their number.
        values = {name: output[name] * num_parts for name in LOSSES}
        self._note(values | {name: output[name] for name in SHARES}, output, inputs, model.training)
        loss = output.loss * num_processes
        return (loss, output) if return_outputs else loss

    def _load_whole(self, checkpoint: str, model: Any) -> None:
        whole: Any = self.accelerator.unwrap_model(self.model if model is None else model)
        load_into(whole, checkpoint)


def load_into(model: FunnelformerForElectra, folder: str | os.PathLike[str]) -> None:
    """Load the weights that `save_pretrained` wrote into a model. Raises UserError, or RuntimeError (misfit)."""
    for part, path in (
        (model.discriminator, Path(folder)),
        (model.generator, Path(folder) / GENERATOR_FOLDER),
    ):
        weights = find_weights(path)
        state = read_state_dict(weights)
        check_numbers(state, weights)
        for target, source in part.all_tied_weights_keys.items():
            state.setdefault(target, state[source])
        part.load_state_dict(state)
