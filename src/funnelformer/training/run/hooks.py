"""The private methods of transformers' Trainer that training relies on: a version without one must not train."""

from __future__ import annotations

import transformers
from transformers import Trainer

from ...base.errors import UserError

__all__ = ["PRIVATE_HOOKS", "check_hooks"]

# Overridden where no public callback does: a renamed one would never be called, and what it does be missing in silence.
PRIVATE_HOOKS = (
    "_get_eval_sampler",
    "_get_num_items_in_batch",
    "_get_train_sampler",
    "_init_training_state",
    "_inner_training_loop",
    "_load_best_model",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_load_rng_state",
    "_maybe_log_save_evaluate",
    "_save_checkpoint",
    "_save_optimizer_and_scheduler",
    "_set_signature_columns_if_needed",
)
# Called.
_PRIVATE_METHODS = ("_get_output_dir",)


def check_hooks() -> None:
    """Raise UserError when the installed transformers lacks one of them."""
    missing = [name for name in (*PRIVATE_HOOKS, *_PRIVATE_METHODS) if not hasattr(Trainer, name)]
    if missing:
        raise UserError(
            f"transformers {transformers.__version__} has no Trainer.{missing[0]}, which training relies on; "
            "install a version that funnelformer was tested with: transformers>=5.17,<5.24"
        )
