"""FLOPs of autoencoders: convolutions by hand, loops, and those of Stable Diffusion's."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from sg_jax.costs import autoencoders
from sg_jax.encoders.convolutions import Conv, in_parts
from sg_jax.weights import autoencoder_scales, autoencoder_shapes


def conv(**changes):
    given = dict(inputs=3, outputs=5, side=3, dtype=jnp.dtype("float32")) | changes
    return jax.eval_shape(lambda: Conv(**given, rngs=nnx.Rngs(0)))


def test_a_convolution_by_hand():
    """Each of 8 x 8 pixels and 5 channels sums 3 x 3 x 3 products; every second one with stride."""
    assert autoencoders.traced(conv(), (1, 8, 8, 3)) == 8 * 8 * 5 * 27
    assert autoencoders.traced(conv(stride=2), (2, 8, 8, 3)) == 2 * 4 * 4 * 5 * 27


def test_the_widest_convolution_by_hand():
    """8 x 8 pixels of 3 channels in and 5 out; a bfloat16 has 2 bytes."""
    assert autoencoders.widest(conv(), (1, 8, 8, 3)) == 8 * 8 * (3 + 5) * 4
    half = conv(dtype=jnp.dtype("bfloat16"))
    assert autoencoders.widest(half, (2, 8, 8, 3)) == 2 * 8 * 8 * (3 + 5) * 2


def test_a_loop_counts_each_turn():
    net = conv()
    whole = autoencoders.traced(net, (6, 8, 8, 3))
    assert whole == 6 * 8 * 8 * 5 * 27
    assert autoencoders.macs(_in_two_parts(net)) == whole


def _in_two_parts(net):
    x = jax.ShapeDtypeStruct((6, 8, 8, 3), jnp.float32)
    return jax.make_jaxpr(lambda net, x: in_parts(net, x, 3))(net, x).jaxpr


def test_stable_diffusions_autoencoder():
    """273 and 622 GFLOPs an image of 256 pixels, as in the README of the benchmarks."""
    known = autoencoder_scales.by_name(["stabilityai/sd-vae-ft-ema"])
    sd = autoencoder_shapes.published(known, "bfloat16")
    assert (sd.channels, sd.factor, sd.scale) == (4, 8, 0.18215)
    assert autoencoders.encoding(sd, 256, 256) / 1e9 == pytest.approx(272.7, abs=0.1)
    assert autoencoders.decoding(sd, 256, 256) / 1e9 == pytest.approx(622.2, abs=0.1)
    weights = sum(leaf.size for leaf in jax.tree.leaves((sd.encoder, sd.decoder)))
    assert weights == 83_653_863  # of the published file


def test_a_tiny_autoencoder_is_not_counted_as_the_one_that_it_was_distilled_from():
    names = ("stabilityai/sdxl-vae", "madebyollin/taesdxl", "madebyollin/taesd3")
    found = [autoencoder_scales.by_name([name]) for name in names]
    assert [known and known.model for known in found] == ["SDXL", None, None]
