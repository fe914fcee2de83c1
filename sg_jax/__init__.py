"""Token-sparse diffusion transformers with Sparse Guidance, in JAX.

Training computes only a fixed share of the tokens in most blocks (routing: the other tokens bypass
them). Sampling makes two predictions with one network at two sparsity rates, and
guided = omega * strong + (1 - omega) * weak. Krause et al., arXiv 2601.01608.

Reading order: sg_jax/README.md.

In a notebook:

    model = sg_jax.load("runs/digits")
    guidance = sg_jax.Guidance(scale=1.5, gamma_strong=0.0, gamma_weak=0.75)
    images = sg_jax.sample(model, [0, 1, 2], guidance=guidance, steps=40, seed=0)  # [3, H, W, C]
"""

from sg_jax.errors import UserError
from sg_jax.method.guidance import PRESETS, Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.programs.sampling import sample
from sg_jax.weights import convert
from sg_jax.weights.checkpoints import load

__version__ = "0.1.0"
__all__ = ["PRESETS", "Guidance", "Sampler", "UserError", "convert", "load", "sample"]
