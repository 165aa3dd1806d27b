"""Speed and memory against other models, side by side."""
