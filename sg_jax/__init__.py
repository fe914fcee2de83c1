"""Token-sparse diffusion transformers with Sparse Guidance, in JAX.

Training computes only a fixed share of the tokens in most blocks (routing: the other tokens bypass
them). Sampling makes two predictions with one network at two sparsity rates, and
guided = omega * strong + (1 - omega) * weak. Krause et al., arXiv 2601.01608.

In a notebook:

    model = sg_jax.load("runs/digits")
    guidance = sg_jax.Guidance(scale=1.5, gamma_strong=0.0, gamma_weak=0.75)
    images = sg_jax.sample(model, [0, 1, 2], guidance=guidance, steps=40, seed=0)  # [3, H, W, C]
    sg_jax.sample(text_model, ["a red circle"], "cfg")  # from a network of texts
    sg_jax.sample(text_model, ["a red circle"], control=[("circle", "size.npz", 1.5)])  # larger
    sg_jax.settings("runs/digits")  # the run's guidance settings by name, such as "sg"

Names are imported when they are first used; README.md here has the map of the code.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sg_jax.config.record import settings
    from sg_jax.errors import UserError
    from sg_jax.method.guidance import Guidance
    from sg_jax.method.presets import PRESETS
    from sg_jax.method.sampler import Sampler
    from sg_jax.programs.directions import find_direction
    from sg_jax.programs.sampling import sample, sample_batches
    from sg_jax.weights import convert
    from sg_jax.weights.autoencoders import load_autoencoder
    from sg_jax.weights.encoders import load_encoder
    from sg_jax.weights.networks import load
    from sg_jax.weights.text_encoders import load_text_encoder

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "Guidance",
    "Sampler",
    "UserError",
    "convert",
    "find_direction",
    "load",
    "load_autoencoder",
    "load_encoder",
    "load_text_encoder",
    "sample",
    "sample_batches",
    "settings",
]

_HOME = {
    "PRESETS": "method.presets",
    "Guidance": "method.guidance",
    "Sampler": "method.sampler",
    "UserError": "errors",
    "convert": "weights.convert",
    "find_direction": "programs.directions",
    "load": "weights.networks",
    "load_autoencoder": "weights.autoencoders",
    "load_encoder": "weights.encoders",
    "load_text_encoder": "weights.text_encoders",
    "sample": "programs.sampling",
    "sample_batches": "programs.sampling",
    "settings": "config.record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    found = module if name == "convert" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
