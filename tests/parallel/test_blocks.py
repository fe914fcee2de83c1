"""Blocks on each device's own part of the batch."""

import pytest

from sg_jax.parallel import blocks


@pytest.mark.parametrize(
    "images, tokens, chunk, parts",
    [
        (32, 256, 4096, 2),  # 16 images of 256 tokens
        (32, 128, 4096, 1),
        (64, 128, 4096, 2),
        (12, 256, 2048, 2),  # 8 would fit, but do not divide 12: 6
        (3, 256, 100, 3),  # an image is not cut
        (32, 256, 0, 1),
    ],
)
def test_a_batch_is_cut_into_as_few_equal_parts_as_fit(images, tokens, chunk, parts):
    assert blocks._parts(images, tokens, chunk) == parts
