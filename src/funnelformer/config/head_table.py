"""All heads in one table: names, parameters, inputs, outputs and what each is used for. No PyTorch here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

__all__ = ["DECODER_PREFIX", "HEADS", "HEAD_PREFIXES", "Head", "head_of"]

# Heads for whole sequences leave out the parameters with this prefix.
DECODER_PREFIX = "decoder."
_STRUCTURE_PREFIX = "structure_head."  # of sentence-structure pretraining, beside a masked-LM head


@dataclass(frozen=True)
class Head:
    """One head.

    class_name: the class of the model with this head. parameters: prefixes of the names of the head's own parameters;
        empty for the model without a head.
    reads_vector: True if the head reads one vector per sequence, so that the model has no decoder; otherwise it reads
        the state of every token.
    task_kind: the kind of task it learns (`tasks.kinds`); "text" stands for classification, multi-label and regression.
    label_parameters: prefixes of the parameters whose shape depends on the task's labels.
    export_task: the task of an ONNX export, as transformers and optimum name it. outputs: names of the graph's outputs.
    has_choices: inputs are [B, C, T], with C choices, not [B, T]. ability: what the service offers with this head.
    cost_head: the head's name in `cost.flops`; None if its FLOPs are not counted.
    auto_class: the class of transformers that loads the model; None if there is none.
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
        """The model class; reading this imports PyTorch."""
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

# Prefixes of the parameters of all heads: a model with another head may leave these out of a checkpoint.
HEAD_PREFIXES: tuple[str, ...] = (
    *dict.fromkeys(prefix for head in HEADS.values() for prefix in head.parameters),
    _STRUCTURE_PREFIX,
)


def head_of(class_name: str) -> Head | None:
    """The head of the model class `class_name`, or None; classes of transformers and PoNet have the same endings."""
    for head in HEADS.values():
        own = head.class_name
        if class_name == own or (head.parameters and class_name.endswith(own[own.index("For") :])):
            return head
    return None
