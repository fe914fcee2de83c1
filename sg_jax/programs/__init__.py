"""What is compiled: a training step, a sampling run."""
