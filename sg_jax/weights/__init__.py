"""Weights in and out: checkpoints of a run, and published layouts."""
