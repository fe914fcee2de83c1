"""FLOPs of the networks that measure images, beside sums by hand."""

import jax.numpy as jnp
import pytest

from sg_jax.costs import encoders
from sg_jax.encoders import dinov2, inception

FLOAT32 = jnp.dtype("float32")


def resizing(source, target, products):
    """Return the multiply-adds of columns and then rows, of 3 colours."""
    return products * 3 * (source * source * target + target * source * target)


def test_inception_has_5_7_billion_multiply_adds():
    """5.72e9 of its convolutions, as published for 299 pixels; 1008 logits instead of 1000."""
    network = inception.of_shapes("shapes", FLOAT32)
    found = encoders.features(network, 256, 256) / 2 - resizing(256, 299, 1)
    assert found == pytest.approx(5.72e9, rel=0.01)


def test_dinov2_large_by_hand():
    """A block has 12 D^2 for each of 257 tokens, and 2 D for each pair of tokens."""
    sizes = dinov2.Sizes(1024, 24, 16, 4096, False, 14, 37)
    network = dinov2.of_shapes("shapes", sizes, FLOAT32)
    found = encoders.features(network, 256, 256) / 2 - resizing(256, 224, 3)
    blocks = 24 * 257 * (12 * 1024**2 + 2 * 257 * 1024)
    patches = 256 * 3 * 14**2 * 1024
    table = 1024 * (37 * 37 * 16 + 16 * 37 * 16)
    assert found == blocks + patches + table
