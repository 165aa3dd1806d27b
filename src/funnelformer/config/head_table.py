"""Every head in one table: what it is called, what it needs, what it is good for. No PyTorch here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

__all__ = ["DECODER_PREFIX", "HEADS", "HEAD_PREFIXES", "Head", "head_of"]

# Of the parameters that heads for whole sequences leave out.
DECODER_PREFIX = "decoder."
_STRUCTURE_PREFIX = "structure_head."  # of sentence-structure pretraining, beside a masked-LM head


@dataclass(frozen=True)
class Head:
    """One head.

    class_name: of the model with it. parameters: prefixes of its own parameters' names; none for the bare body.
    reads_vector: it reads one vector a sequence, so the model has no decoder; the others read a state of every token.
    task_kind: the kind of task it learns, see `data.tasks`; texts have three kinds of their own.
    label_parameters: prefixes of those whose shape depends on the task's labels.
    export_task: the name of an export, as transformers and optimum name it. outputs: what the graph gives.
    has_choices: inputs are [B, C, T]. ability: what the service offers with it.
    cost_head: its name in `flops`; None where nothing counts it. auto_class: transformers' class that loads it by name.
    """

    class_name: str
    reads_vector: bool
    export_task: str
    parameters: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("logits",)
    task_kind: Literal["text", "tokens", "choice", "span"] | None = None
    label_parameters: tuple[str, ...] = ()
    has_choices: bool = False
    ability: Literal["classify", "fill", "answer"] | None = None
    auto_class: str | None = None
    cost_head: Literal["none", "masked_lm", "token_detection", "classification"] | None = None

    @cached_property
    def model_class(self) -> Any:
        """The class itself, which needs PyTorch."""
        return getattr(importlib.import_module("..modeling", __package__), self.class_name)


HEADS: dict[str, Head] = {
    "model": Head(
        "FunnelformerModel",
        reads_vector=False,
        export_task="feature-extraction",
        auto_class="AutoModel",
        outputs=("last_hidden_state",),
        cost_head="none",
    ),
    "masked_lm": Head(
        "FunnelformerForMaskedLM",
        parameters=("lm_head.",),
        reads_vector=False,
        export_task="fill-mask",
        auto_class="AutoModelForMaskedLM",
        ability="fill",
        cost_head="masked_lm",
    ),
    "sequence_classification": Head(
        "FunnelformerForSequenceClassification",
        parameters=("classifier.",),
        reads_vector=True,
        export_task="text-classification",
        auto_class="AutoModelForSequenceClassification",
        task_kind="text",
        label_parameters=("classifier.output.",),
        ability="classify",
        cost_head="classification",
    ),
    "token_classification": Head(
        "FunnelformerForTokenClassification",
        parameters=("classifier.",),
        reads_vector=False,
        export_task="token-classification",
        auto_class="AutoModelForTokenClassification",
        task_kind="tokens",
        label_parameters=("classifier.",),
        ability="classify",
    ),
    "question_answering": Head(
        "FunnelformerForQuestionAnswering",
        parameters=("qa_outputs.",),
        reads_vector=False,
        export_task="question-answering",
        auto_class="AutoModelForQuestionAnswering",
        outputs=("start_logits", "end_logits"),
        task_kind="span",
        label_parameters=("qa_outputs.",),
        ability="answer",
    ),
    "multiple_choice": Head(
        "FunnelformerForMultipleChoice",
        parameters=("classifier.",),
        reads_vector=True,
        export_task="multiple-choice",
        auto_class="AutoModelForMultipleChoice",
        task_kind="choice",
        label_parameters=("classifier.output.",),
        has_choices=True,
    ),
    "token_detection": Head(
        "FunnelformerForTokenDetection",
        parameters=("detector.",),
        reads_vector=False,
        export_task="token-detection",
        cost_head="token_detection",
    ),
}

# Of all parameters that belong to some head, so that a model with another one may leave them out.
HEAD_PREFIXES: tuple[str, ...] = (
    *dict.fromkeys(prefix for head in HEADS.values() for prefix in head.parameters),
    _STRUCTURE_PREFIX,
)


def head_of(class_name: str) -> Head | None:
    """The head of a model's class, by the class's name; transformers' and PoNet's names end alike. None without one."""
    for head in HEADS.values():
        own = head.class_name
        if class_name == own or (head.parameters and class_name.endswith(own[own.index("For") :])):
            return head
    return None
