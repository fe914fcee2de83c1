"""The method, in reading order; `sg_jax/README.md` has the map."""

from sg_jax.method import stochastic as stochastic  # adds its rows to `sampler.SAMPLERS`
