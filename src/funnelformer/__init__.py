"""Text encoders that shorten the sequence as they deepen: Funnel-Transformer, PoNet and hybrids of them.

`funnelformer --help` shows the command line. In Python:

    from pathlib import Path
    from funnelformer import FinetuneConfig, finetune, load_predictor

    finetune(FinetuneConfig(model="B4-4-4H768", train="train.csv", out=Path("model")))
    predictor = load_predictor("model")
    predictor.probabilities(predictor.logits(["a text"]))  # [1, classes], in the order of predictor.labels

To make a model: `convert` (shorten an encoder, or change its format), `finetune`, and from nothing `train_tokenizer`,
`prepare` and `pretrain`. To use one: `load_predictor` and `Predictor` for labels, `load_embedder` and `Embedder` for
vectors, `answer` for answers in a passage, `predict` and `evaluate` for whole files. To look into one: `describe` says
what it costs, `prepack` makes it faster on a CPU, `load_tokenizer` reads its tokenizer. Commands take a configuration,
such as `FinetuneConfig`, and raise `UserError` for input that cannot be used. `FunnelformerModel` and the classes
`FunnelformerFor...`, with `FunnelformerConfig`, are models of transformers.

After `import funnelformer`, transformers' AutoModel and AutoConfig load the folders that this package writes.
A name is imported when it is first used, so `import funnelformer` alone loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from .base import foreign_models
from .base.auto_classes import register_when_used
from .base.version import __version__

if TYPE_CHECKING:
    from .base.errors import UserError
    from .checkpoints.convert import convert
    from .config.model_config import FunnelformerConfig
    from .corpus.prepare import prepare
    from .corpus.prepare_config import PrepareConfig
    from .corpus.vocabulary import train_tokenizer
    from .cost.info import describe
    from .data.tokenizer import load_tokenizer
    from .inference.answer import answer
    from .inference.config import EvaluateConfig, PredictConfig
    from .inference.embedder import Embedder, load_embedder
    from .inference.evaluate import evaluate
    from .inference.predict import predict
    from .inference.predictor import Predictor, load_predictor
    from .modeling import (
        FunnelformerForElectra,
        FunnelformerForMaskedLM,
        FunnelformerForMultipleChoice,
        FunnelformerForQuestionAnswering,
        FunnelformerForSequenceClassification,
        FunnelformerForTokenClassification,
        FunnelformerForTokenDetection,
        FunnelformerModel,
        prepack,
    )
    from .training.finetuning.config import FinetuneConfig
    from .training.finetuning.finetune import finetune
    from .training.pretraining.config import PretrainConfig
    from .training.pretraining.pretrain import pretrain

__all__ = [
    "Embedder",
    "EvaluateConfig",
    "FinetuneConfig",
    "FunnelformerConfig",
    "FunnelformerForElectra",
    "FunnelformerForMaskedLM",
    "FunnelformerForMultipleChoice",
    "FunnelformerForQuestionAnswering",
    "FunnelformerForSequenceClassification",
    "FunnelformerForTokenClassification",
    "FunnelformerForTokenDetection",
    "FunnelformerModel",
    "PredictConfig",
    "Predictor",
    "PrepareConfig",
    "PretrainConfig",
    "UserError",
    "__version__",
    "answer",
    "convert",
    "describe",
    "evaluate",
    "finetune",
    "load_embedder",
    "load_predictor",
    "load_tokenizer",
    "predict",
    "prepack",
    "prepare",
    "pretrain",
    "train_tokenizer",
]

# Where a name is, for those that are not heads of models; the imports above say the same to type checkers.
_HOMES = {
    "Embedder": "inference.embedder",
    "EvaluateConfig": "inference.config",
    "FinetuneConfig": "training.finetuning.config",
    "FunnelformerConfig": "config.model_config",
    "PredictConfig": "inference.config",
    "Predictor": "inference.predictor",
    "PrepareConfig": "corpus.prepare_config",
    "PretrainConfig": "training.pretraining.config",
    "UserError": "base.errors",
    "answer": "inference.answer",
    "convert": "checkpoints.convert",
    "describe": "cost.info",
    "evaluate": "inference.evaluate",
    "finetune": "training.finetuning.finetune",
    "load_embedder": "inference.embedder",
    "load_predictor": "inference.predictor",
    "load_tokenizer": "data.tokenizer",
    "predict": "inference.predict",
    "prepare": "corpus.prepare",
    "pretrain": "training.pretraining.pretrain",
    "train_tokenizer": "corpus.vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES.get(name, 'modeling')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Before the Hub's client is imported, which would tell the Hub what asks it. Who wants that sets it to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
register_when_used()
foreign_models.put_in_place(lambda: importlib.import_module(".checkpoints.source_reader", __name__))
