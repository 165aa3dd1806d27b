"""Tasks a model is fine-tuned on: their kinds, their releases, their scores."""
