"""The method, in reading order; `sg_jax/README.md` has the map."""

from sg_jax.method import stochastic as stochastic  # which gives `sampler.SAMPLERS` its rows
