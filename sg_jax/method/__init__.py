"""The method, in reading order; `sg_jax/README.md` has the map."""
