"""Autoencoders: equal to the published ones, chunks, oblong images, and what they refuse."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from published import GOLDEN, error, golden

import sg_jax
from sg_jax.encoders import autoencoder as autoencoders
from sg_jax.encoders import convolutions, kl
from sg_jax.encoders.convolutions import GroupNorm, attend, doubled, in_parts
from sg_jax.errors import UserError


@pytest.fixture(scope="module")
def tiny():
    """A tiny autoencoder of 4 latent channels and factor 8, compiled in a moment."""
    return sg_jax.load_autoencoder(golden("tae_tiny")[1])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (3, 16, 24, 3)).astype(np.float32)


def check_kl(name, tolerance, **options):
    found, weights = golden(name)
    ours = sg_jax.load_autoencoder(weights, scale=found["scale"], shift=found["shift"], **options)
    mean, std = ours.encode(found["images"])
    assert mean.dtype == std.dtype == jnp.float32
    assert error(mean, (found["mean"] - found["shift"]) * found["scale"]) < tolerance
    assert error(std, found["std"] * found["scale"]) < tolerance
    decoded = ours.decode(found["latents"])
    assert decoded.dtype == jnp.float32 and error(decoded, found["decoded"]) < tolerance


def test_sd_is_equal_to_the_published():
    check_kl("vae_sd_tiny", 1e-5)


@pytest.mark.slow
def test_flux_is_equal_to_the_published():
    check_kl("vae_flux_tiny", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae_sd_tiny", "vae_flux_tiny"])
def test_bfloat16_is_within_its_error(name):
    check_kl(name, 0.03, dtype="bfloat16")


@pytest.mark.parametrize(
    ("latents", "quant", "count"), [(4, True, 83_653_863), (16, False, 83_819_683)]
)
def test_full_size_has_as_many_weights_as_the_published(latents, quant, count):
    sizes = (128, 256, 512, 512)
    halves = (
        (kl.Encoder, kl.Half(sizes, (2,) * 4, latents, quant=quant)),
        (kl.Decoder, kl.Half(sizes[::-1], (3,) * 4, latents, quant=quant)),
    )
    networks = [
        jax.eval_shape(lambda n=network, h=half: n(h, jnp.dtype("float32"), rngs=nnx.Rngs(0)))
        for network, half in halves
    ]
    assert sum(leaf.size for leaf in jax.tree.leaves(networks)) == count


@pytest.mark.parametrize(("name", "channels"), [("tae_tiny", 4), ("taef2_tiny", 6)])
def test_tiny_ones_are_equal_to_the_published(name, channels):
    found, weights = golden(name)
    ours = sg_jax.load_autoencoder(weights)
    assert (ours.scale, ours.shift, ours.factor, ours.channels) == (1, 0, 8, channels)
    mean, std = ours.encode(found["images"])
    assert error(mean, found["mean"]) < 1e-5 and not np.any(std)
    assert error(ours.decode(found["latents"]), found["decoded"]) < 1e-5


@pytest.mark.skipif("TAEF2" not in os.environ, reason="TAEF2 names the folder of its weights")
def test_taef2_of_photographs():
    found = np.load(GOLDEN / "taef2.npz")
    ours = sg_jax.load_autoencoder(os.environ["TAEF2"])
    images = found["images"] / np.float32(127.5) - 1
    assert error(ours.encode(images)[0], found["latents"]) < 1e-3
    decoded = np.asarray(ours.decode(found["latents"])) / 2 + 0.5
    assert error(decoded, found["decoded"]) < 1e-3
    squares = np.square(np.clip(decoded, 0, 1) - found["images"] / 255).mean((1, 2, 3))
    np.testing.assert_allclose(-10 * np.log10(squares), found["psnr"], atol=0.01)


def test_latents_are_scaled_both_ways(tiny, images):
    scaled = sg_jax.load_autoencoder(golden("tae_tiny")[1], scale=2.0, shift=0.5)
    mean = tiny.encode(images)[0]
    np.testing.assert_allclose(scaled.encode(images)[0], (mean - 0.5) * 2, atol=1e-5)
    np.testing.assert_allclose(scaled.decode((mean - 0.5) * 2), tiny.decode(mean), atol=1e-5)


def test_oblong_images_in_chunks_are_those_at_once_and_compile_once(tiny, images):
    whole = tiny.encode(images)
    before = autoencoders._encode._cache_size()
    chunked = tiny.encode(images, chunk=2)
    tiny.encode(-images, chunk=np.int64(2))
    assert autoencoders._encode._cache_size() == before + 1
    for ours, once in zip(chunked, whole, strict=True):
        assert ours.shape == (3, 2, 3, 4)
        np.testing.assert_allclose(ours, once, atol=1e-6)
    decoded = tiny.decode(whole[0], chunk=1)
    assert decoded.shape == images.shape
    np.testing.assert_allclose(decoded, tiny.decode(whole[0]), atol=1e-6)


def test_two_with_other_weights_share_their_programs(tiny, images):
    other = sg_jax.load_autoencoder({k: -v for k, v in golden("tae_tiny")[1].items()}, scale=3)
    first = tiny.encode(images)[0]
    before = autoencoders._encode._cache_size()
    assert not np.allclose(other.encode(images)[0], first)
    assert autoencoders._encode._cache_size() == before
    assert other.fingerprint() != tiny.fingerprint() == tiny.fingerprint()


@pytest.mark.slow
def test_it_works_within_a_program_of_the_user(tiny, images):
    within = jax.jit(lambda autoencoder, x: autoencoder.decode(autoencoder.encode(x)[0]))
    np.testing.assert_allclose(within(tiny, images), tiny.decode(tiny.encode(images)[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "value", "words"),
    [
        ("encode", np.zeros((1, 16, 16, 3), np.uint8), "must be floats, not uint8.*127.5"),
        ("encode", np.full((1, 16, 16, 3), 255.0), r"must be in \[-1, 1\].*255.*127.5"),
        ("encode", np.full((1, 16, 16, 3), np.nan), r"must be in \[-1, 1\], but a value is nan"),
        ("encode", np.zeros((1, 12, 16, 3)), "sides 12 and 16.*multiples of 8"),
        ("encode", np.zeros((16, 16, 3)), r"must be \[B, H, W, 3\], not \(16, 16, 3\)"),
        ("encode", np.zeros((1, 0, 16, 3)), r"must be \[B, H, W, 3\]"),
        ("encode", [[1.0], [1.0, 2.0]], "must be one array"),
        ("encode", "x", "must be floats"),
        ("decode", np.zeros((1, 4, 4, 3)), r"must be \[B, H, W, 4\]"),
        ("decode", np.zeros((1, 4, 4, 4), int), "must be floats, not int64"),
    ],
)
def test_what_is_not_encoded(tiny, method, value, words):
    with pytest.raises(UserError, match=words):
        getattr(tiny, method)(value)


def test_no_images_have_no_latents(tiny, images):
    mean, std = tiny.encode(images[:0])
    whole = jax.eval_shape(tiny.encode, images)[0].shape
    assert mean.shape == std.shape == (0, *whole[1:])
    assert tiny.decode(mean).shape == (0, *images.shape[1:])


@pytest.mark.parametrize("chunk", [0, -1, 1.5, "2", True])
def test_a_chunk_is_a_number_of_images(tiny, images, chunk):
    with pytest.raises(UserError, match="chunk="):
        tiny.encode(images, chunk=chunk)


def test_half_an_autoencoder_says_what_is_missing(images):
    weights = {k: v for k, v in golden("tae_tiny")[1].items() if k.startswith("encoder.")}
    half = sg_jax.load_autoencoder(weights)
    assert half.encode(images)[0].shape == (3, 2, 3, 4)
    with pytest.raises(UserError, match="has only the encoder: load the decoder too"):
        half.decode(np.zeros((1, 2, 2, 4)))


def test_group_norm_by_hand():
    x = np.random.default_rng(0).normal(100, 1, (2, 6, 4, 8)).astype(np.float32)
    grouped = x.astype(np.float64).reshape(2, 24, 2, 4)
    mean, std = grouped.mean((1, 3), keepdims=True), grouped.std((1, 3), keepdims=True)
    wanted = ((grouped - mean) / std).reshape(x.shape)
    np.testing.assert_allclose(GroupNorm(8, 2)(jnp.asarray(x)), wanted, atol=1e-3)


def test_attention_in_parts_is_attention_at_once(monkeypatch):
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 10, 4)).astype(np.float32)
    scores = np.einsum("bqd,bkd->bqk", q, k) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    wanted = np.einsum("bqk,bkd->bqd", weights, v)
    np.testing.assert_allclose(attend(q, k, v), wanted, atol=1e-5)
    monkeypatch.setattr(convolutions, "SCORES", 30)  # three queries at a time, the last one alone
    np.testing.assert_allclose(attend(q, k, v), wanted, atol=1e-5)


def test_attention_of_2048_pixels_takes_the_memory_of_512():
    part = jax.ShapeDtypeStruct((1, (2048 // 8) ** 2, 8), jnp.float32)
    memory = jax.jit(attend).lower(part, part, part).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3 * 4 * (512 // 8) ** 4  # at once it is 256 times as much


def test_parts_of_any_axis():
    x = np.arange(30.0).reshape(2, 5, 3)
    for axis, size in ((0, 1), (1, 2)):
        double, triple = in_parts(lambda y: (2 * y, 3 * y), jnp.asarray(x), size, axis)
        np.testing.assert_array_equal(double, 2 * x)
        np.testing.assert_array_equal(triple, 3 * x)


def test_each_pixel_is_doubled():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    assert doubled(x)[0, :, :, 0].tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]
