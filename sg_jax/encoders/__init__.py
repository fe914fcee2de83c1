"""Networks that are only applied, never trained by the objective."""
