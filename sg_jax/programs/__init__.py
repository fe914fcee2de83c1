"""The compiled programs: a training step, a sampling run."""
