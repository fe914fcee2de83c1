"""The method, in reading order; `sg_jax/README.md` has the map."""

from sg_jax.method import multistep as multistep  # these two add rows to `sampler.SAMPLERS`
from sg_jax.method import stochastic as stochastic
