"""The Long Range Arena: its tasks, its data, its runs."""
