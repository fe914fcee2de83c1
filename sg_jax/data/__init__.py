"""Data: sources by name, batches of a step, pixels to floats and back."""
