"""What is exported for a task: the model's class, what its graph reads, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import UserError, did_you_mean
from ..config.model_config import FunnelformerConfig
from ..modeling import HEADS, FunnelformerForQuestionAnswering, FunnelformerModel
from ..modeling.model import sequence_vector

__all__ = ["INPUTS", "TARGETS", "Target", "Traced", "find_target", "of_head", "target_of"]

# Of all graphs, in this order; a folder's tokenizer says which of them there are.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_ENCODER_ALONE = {"decoder_layers": 0, "decoder_skip_state": None}


@dataclass(frozen=True)
class Target:
    """One task.

    outputs: names of the graph's outputs, which are those of the model's. settings: config keys to change.
    has_choices: whether inputs are [B, C, T]. inputs: that it has beside `INPUTS`.
    """

    model_class: Any
    outputs: tuple[str, ...] = ("logits",)
    settings: dict[str, Any] = field(default_factory=dict)
    has_choices: bool = False
    inputs: tuple[str, ...] = ()


# Named as transformers' and optimum's tasks, where they have one.
TARGETS: dict[str, Target] = {
    head.export_task: Target(head.model_class, head.outputs, has_choices=head.has_choices)
    for head in HEADS.values()
} | {
    "embeddings": Target(
        FunnelformerModel,
        ("sentence_embedding", "last_hidden_state", "encoder_attention_mask", "encoder_token_counts"),
        _ENCODER_ALONE,
    ),
}


# The ends depend on the best starts, and these on where an answer may be.
_CONDITIONAL = Target(
    FunnelformerForQuestionAnswering,
    ("start_logits", "end_logits", "start_index", "null_logits"),
    inputs=("answer_mask",),
)


def of_head(target: Target, config: FunnelformerConfig) -> Target:
    """The target for a model whose head the config tells."""
    is_conditional = target is TARGETS["question-answering"] and config.qa_head == "conditional"
    return _CONDITIONAL if is_conditional else target


def find_target(task: str) -> Target:
    """The target with this name. Raises UserError, naming the nearest one, if there is none."""
    if task not in TARGETS:
        raise UserError(
            f"--task {task!r} is unknown; allowed: {', '.join(TARGETS)}{did_you_mean(task, TARGETS)}"
        )
    return TARGETS[task]


def target_of(architecture: str) -> str:
    """The task of a model's class. architecture: the class's name. Raises UserError for a class without a task."""
    for task, target in TARGETS.items():
        if target.model_class.__name__ == architecture:
            return task
    raise UserError(f"a model of the class {architecture} cannot be exported")


class Traced(nn.Module):
    """A model with a target's outputs as a tuple: what is traced, and what the graph is compared with."""

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self.model: Any = model
        self.outputs = target.outputs

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        answer_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        given = {} if answer_mask is None else {"answer_mask": answer_mask}
        output = self.model(input_ids, attention_mask, token_type_ids, return_dict=True, **given)
        return tuple(
            self._vector(output) if name == "sentence_embedding" else output[name] for name in self.outputs
        )

    def _vector(self, output: Any) -> Tensor:
        config = cast(FunnelformerConfig, self.model.config)
        vector = sequence_vector(output, config)
        is_unit = config.vectors is not None and config.vectors.normalize
        return F.normalize(vector, dim=-1) if is_unit else vector
