"""What a model costs: FLOPs, memory, and the peak of a device."""
