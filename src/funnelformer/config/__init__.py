"""What a model is made of: its options and their checks, the table of heads, `FunnelformerConfig`."""
