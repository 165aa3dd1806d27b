"""Work for more than one machine: sources in work items, parts that are made once, and Ray as the engine."""
