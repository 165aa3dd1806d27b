"""Distillation: a student learns a teacher's vectors, states or scores from texts alone."""
