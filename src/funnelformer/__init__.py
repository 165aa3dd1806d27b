"""Text encoders that shorten the sequence as they deepen: Funnel-Transformer, PoNet and hybrids of them.

`funnelformer --help` shows the command line. In Python:

    from pathlib import Path
    from funnelformer import FinetuneConfig, finetune, load_predictor

    finetune(FinetuneConfig(model="B4-4-4H768", train="train.csv", out=Path("model")))
    predictor = load_predictor("model")
    predictor.probabilities(predictor.logits(["a text"]))  # [1, classes], in the order of predictor.labels

To make a model:

- `convert`: shorten a pretrained encoder, or change its format.
- `finetune` with a `FinetuneConfig`: learn a task from a table of yours, or one of the papers' tasks.
- `train_tokenizer`, then `prepare` with a `PrepareConfig`, then `pretrain` with a `PretrainConfig`: begin from nothing.

To use one:

- `load_predictor` gives a `Predictor`, which labels texts and scores pairs.
- `load_embedder` gives an `Embedder`, which makes vectors of texts.
- `answer`: find the answers to questions in passages.
- `predict`, `evaluate`: label or score a whole file; their arguments make a `PredictConfig` or an `EvaluateConfig`.

To look into one:

- `describe`: its parameters, FLOPs and memory.
- `prepack`: make it faster at inference on a CPU.
- `load_tokenizer`: its tokenizer, checked.

All of them raise `UserError` for input that cannot be used.

The models are classes of transformers, and `help` of each has its details:

- `FunnelformerConfig`: blocks, widths, pooling, mixers.
- `FunnelformerModel`: the encoder, and `sequence_vectors`.
- `FunnelformerForSequenceClassification`, `FunnelformerForTokenClassification`, `FunnelformerForMultipleChoice`,
  `FunnelformerForQuestionAnswering`: with the head of a task.
- `FunnelformerForMaskedLM`, `FunnelformerForElectra`, `FunnelformerForTokenDetection`: with the heads of pretraining.

After `import funnelformer`, transformers' AutoModel and AutoConfig load the folders that this package writes.
A name is imported when it is first used, so `import funnelformer` alone loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from .base.auto_classes import register_when_used
from .base.foreign_models import put_in_place
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

# Every public name, and where it is; the imports above say the same to type checkers.
_HOMES = {
    "Embedder": "inference.embedder",
    "EvaluateConfig": "inference.config",
    "FinetuneConfig": "training.finetuning.config",
    "FunnelformerConfig": "config.model_config",
    "FunnelformerForElectra": "modeling",
    "FunnelformerForMaskedLM": "modeling",
    "FunnelformerForMultipleChoice": "modeling",
    "FunnelformerForQuestionAnswering": "modeling",
    "FunnelformerForSequenceClassification": "modeling",
    "FunnelformerForTokenClassification": "modeling",
    "FunnelformerForTokenDetection": "modeling",
    "FunnelformerModel": "modeling",
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
    "prepack": "modeling",
    "prepare": "corpus.prepare",
    "pretrain": "training.pretraining.pretrain",
    "train_tokenizer": "corpus.vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


# Before the Hub's client is imported, which would tell the Hub what asks it. Who wants that sets it to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
register_when_used()
put_in_place(lambda: importlib.import_module(".checkpoints.source_reader", __name__))
