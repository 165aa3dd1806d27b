"""What every training run has: its folder, its trainer, its optimizer, its processes."""
