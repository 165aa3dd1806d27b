"""Tables of examples: read from files of every form, their columns and values checked; tokenizers."""
