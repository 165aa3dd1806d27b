"""The Trainer of fine-tuning: layers near the input learn more slowly, where that is asked for."""

from __future__ import annotations

from typing import Any

from .optimizer import layer_rates
from .trainer import RunTrainer

__all__ = ["FinetuneTrainer"]


class FinetuneTrainer(RunTrainer):
    """layer_decay: the learning rate of layer l is that of the run times layer_decay^(top - l), see `layer_rates`."""

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
