"""The Trainer of fine-tuning: layers near the input may learn more slowly, and rows may have weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .optimizer import layer_rates
from .trainer import RunTrainer
from .windows import WEIGHT, row_losses

__all__ = ["FinetuneTrainer"]


class FinetuneTrainer(RunTrainer):
    """layer_decay: the learning rate of layer l is that of the run times layer_decay^(top - l), see `layer_rates`.

    A column `WEIGHT` of the data is each row's weight in the loss, of windows of texts.
    """

    def __init__(self, *args: Any, layer_decay: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layer_decay = layer_decay

    def create_optimizer(self, model: Any = None) -> Any:
        is_new = self.optimizer is None
        optimizer: Any = super().create_optimizer(model)
        if not is_new or self._layer_decay == 1:
            return optimizer
        own: Any = self.model if model is None else model
        names = {parameter: name for name, parameter in own.named_parameters()}
        rates = layer_rates(names.values(), self.accelerator.unwrap_model(own).config, self._layer_decay)
        groups: dict[tuple[int, float], dict[str, Any]] = {}
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                rate = rates.get(names[parameter], 1.0)
                entry = {**group, "params": [], "lr": group["lr"] * rate}
                groups.setdefault((number, rate), entry)["params"].append(parameter)
        optimizer.param_groups[:] = groups.values()
        return optimizer

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if WEIGHT not in columns:
            columns.append(WEIGHT)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's; of rows with weights the mean of their weighted losses."""
        weights = inputs.pop(WEIGHT, None)
        if weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        problem_type = self.accelerator.unwrap_model(model).config.problem_type
        loss = (weights * row_losses(outputs.logits, labels, problem_type)).mean()
        return (loss, outputs) if return_outputs else loss
