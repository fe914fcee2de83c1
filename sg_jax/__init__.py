"""Token-sparse diffusion transformers with Sparse Guidance, in JAX.

Training computes only a fixed share of the tokens in most blocks (routing: the other tokens bypass
them). Sampling makes two predictions with one network at two sparsity rates, and
guided = omega * strong + (1 - omega) * weak. Krause et al., arXiv 2601.01608.

Reading order: flow, tokens, models/dit, objective, guidance, sampler, train.

In a notebook:

    model = sg_jax.load("runs/digits")
    guidance = sg_jax.Guidance(scale=1.5, gamma_strong=0.0, gamma_weak=0.75)
    images = sg_jax.sample(model, [0, 1, 2], guidance=guidance, steps=40, seed=0)  # [3, H, W, C]
"""

from sg_jax import convert
from sg_jax.checkpoint import load
from sg_jax.errors import UserError
from sg_jax.guidance import PRESETS, Guidance
from sg_jax.sample import sample  # the function takes the name that its module has
from sg_jax.sampler import Sampler

__version__ = "0.1.0"
__all__ = ["PRESETS", "Guidance", "Sampler", "UserError", "convert", "load", "sample"]
