"""One page on many runs."""
