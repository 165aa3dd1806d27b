"""A trained model at work: load, batch, predict, answer, embed, rank, evaluate."""
