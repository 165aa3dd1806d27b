"""More text than one machine reads: sources in work items, and a part of parquet for each, made on a Ray cluster."""
