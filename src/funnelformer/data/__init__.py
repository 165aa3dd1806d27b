"""Tables of examples: read them from files of any format, check their columns and values; and tokenizers."""
