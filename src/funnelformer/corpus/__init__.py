"""Text for pretraining: read it, tokenise it, cut it into rows, store the rows, mask tokens."""
