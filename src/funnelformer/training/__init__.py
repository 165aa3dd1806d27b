"""Training: what every run has, pretraining, fine-tuning."""
