"""Small networks of SiT's shape, and two of them compared."""

import numpy as np
import random_weights

from sg_jax.models.dit import DiT
from sg_jax.weights.checkpoints import named

SIZES = dict(image_size=8, channels=4, num_classes=5, patch=2, width=32, depth=3, heads=4)


def make(**sizes):
    return random_weights.network(lambda rngs: DiT(**{**SIZES, **sizes}, rngs=rngs))


def same(a, b):
    a, b = named(a), named(b)
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype
        np.testing.assert_array_equal(array, b[name], err_msg=name)
