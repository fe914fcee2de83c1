"""Weights in and out: checkpoints of a run, published layouts."""
