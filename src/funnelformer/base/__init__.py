"""What knows no model: errors, files, processes, the machine."""
