"""Patches, keep counts, token ids, gather and scatter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import stratified, tokens


def test_patches_are_cut_in_raster_order():
    image = jnp.arange(16).reshape(1, 4, 4, 1)
    patches = tokens.patchify(image, 2)
    np.testing.assert_array_equal(patches[0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(patches[0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(patches[0, 2], [8, 9, 12, 13])


def test_channels_are_the_fastest_axis_of_a_patch():
    image = jnp.stack([jnp.zeros((2, 2)), jnp.ones((2, 2))], -1)[None]
    np.testing.assert_array_equal(tokens.patchify(image, 2)[0, 0], [0, 1] * 4)


def test_unpatchify_undoes_patchify():
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    np.testing.assert_array_equal(tokens.unpatchify(tokens.patchify(x, 4), 4), x)


@pytest.mark.parametrize(
    "count, gamma, keep",
    [
        (64, 0.0, 64),
        (64, 0.5, 32),
        (64, 0.9, 7),  # 64 - floor(57.6)
        (64, 1.0, 0),
        (256, 0.75, 64),
        (256, 0.999, 1),  # 256 - floor(255.744)
        (100, 0.29, 71),  # in floats 100 * 0.29 = 28.999999999999996
        (1000, 0.57, 430),  # in floats 1000 * 0.57 = 569.9999999999999
        (1, 0.5, 1),
    ],
)
def test_keep_count(count, gamma, keep):
    assert tokens.keep_count(count, gamma) == keep


def test_keep_count_is_that_of_whole_percents():
    for count in range(1, 300):
        for percent in range(101):
            assert tokens.keep_count(count, percent / 100) == count - count * percent // 100


def test_keep_count_is_a_static_int():
    assert type(tokens.keep_count(64, 0.5)) is int


@pytest.mark.parametrize("gamma", [-0.1, 1.01, float("nan")])
def test_keep_count_refuses_other_rates(gamma):
    with pytest.raises(UserError, match=rf"gamma={gamma} must lie in \[0, 1\]"):
        tokens.keep_count(64, gamma)


@pytest.fixture(scope="module")
def draws():
    """5 of 16 tokens for 4096 images."""
    keys = jax.random.split(jax.random.key(0), 4096)
    return keys, np.asarray(tokens.sample_ids(keys, 16, 5))


def test_ids_are_sorted_unique_and_in_range(draws):
    _, ids = draws
    assert ids.shape == (4096, 5) and ids.dtype == np.int32
    assert (np.diff(ids, axis=1) > 0).all()
    assert ids.min() == 0 and ids.max() == 15


def test_every_token_is_kept_equally_often(draws):
    """Chi-square of a draw without replacement: 37.7 is exceeded once in 1000 seeds."""
    _, ids = draws
    counts, expected = np.bincount(ids.ravel(), minlength=16), 4096 * 5 / 16
    assert (np.square(counts - expected) / (expected * (1 - 5 / 16))).sum() * 15 / 16 < 37.7


def test_every_pair_of_tokens_is_kept_equally_often(draws):
    _, ids = draws
    kept = np.zeros((4096, 16))
    np.put_along_axis(kept, ids, 1, axis=1)
    share = (kept.T @ kept / 4096)[np.triu_indices(16, 1)]
    chance = 5 * 4 / (16 * 15)  # 0.083, with a standard error of 0.0043
    assert np.abs(share - chance).max() < 0.02


def test_ids_depend_on_the_own_key_alone(draws):
    keys, ids = draws
    np.testing.assert_array_equal(tokens.sample_ids(keys[7:8], 16, 5), ids[7:8])
    np.testing.assert_array_equal(tokens.sample_ids(keys[:8][::-1], 16, 5), ids[:8][::-1])
    assert len({tuple(row) for row in ids[:8]}) > 1


def test_keeping_all_or_none():
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(tokens.sample_ids(keys, 4, 4), [[0, 1, 2, 3]] * 2)
    assert tokens.sample_ids(keys, 4, 0).shape == (2, 0)


def test_gather_and_scatter_by_hand():
    x = jnp.array([[[0.0], [1.0], [2.0]], [[3.0], [4.0], [5.0]]])  # [2, 3, 1]
    ids = jnp.array([[0, 2], [1, 2]])
    np.testing.assert_array_equal(tokens.gather(x, ids)[..., 0], [[0, 2], [4, 5]])
    written = tokens.scatter(x, jnp.full((2, 2, 1), 9.0), ids)
    np.testing.assert_array_equal(written[..., 0], [[9, 1, 9], [3, 9, 9]])


def test_scatter_after_gather_is_the_identity():
    x = jax.random.normal(jax.random.key(0), (3, 16, 4))
    ids = tokens.sample_ids(jax.random.split(jax.random.key(1), 3), 16, 5)
    np.testing.assert_array_equal(tokens.scatter(x, tokens.gather(x, ids), ids), x)


def test_gather_after_scatter_is_what_was_written():
    x, new = jnp.zeros((3, 16, 4)), jax.random.normal(jax.random.key(0), (3, 5, 4))
    ids = tokens.sample_ids(jax.random.split(jax.random.key(1), 3), 16, 5)
    np.testing.assert_array_equal(tokens.gather(tokens.scatter(x, new, ids), ids), new)


def test_the_z_order_of_a_4x4_grid_by_hand():
    """Quarter by quarter, each of them top left, top right, bottom left, bottom right."""
    quarters = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    np.testing.assert_array_equal(stratified.z_order(16), np.ravel(quarters))


@pytest.mark.parametrize("count", [1, 4, 9, 25, 36, 64, 256])
def test_the_z_order_visits_each_token_once(count):
    np.testing.assert_array_equal(np.sort(stratified.z_order(count)), np.arange(count))


def test_tokens_of_no_square_stay_in_raster_order():
    np.testing.assert_array_equal(stratified.z_order(6), np.arange(6))


@pytest.mark.every(3)
@pytest.mark.parametrize("keep", [1, 2, 4, 5, 8, 13, 16])
def test_stratified_ids_leave_no_gap_of_two_runs(keep):
    """One of each run along the closed curve: the next kept token is less than two runs away."""
    keys = jax.random.split(jax.random.key(0), 512)
    ids = np.asarray(stratified.stratified_ids(keys, 16, keep))
    assert ids.shape == (512, keep) and ids.dtype == np.int32
    assert keep == 1 or (np.diff(ids, axis=1) > 0).all()
    place = np.sort(np.argsort(stratified.z_order(16))[ids], axis=1)  # along the curve
    gaps = np.diff(place, axis=1, append=place[:, :1] + 16)
    assert gaps.min() >= 1 and gaps.max() <= 2 * -(-16 // keep) - (keep > 1)


@pytest.mark.every(3)
@pytest.mark.parametrize("keep", [2, 4, 5, 8, 12, 13, 16])
def test_stratified_ids_keep_every_token_equally_often(keep):
    """4096 draws have a standard error of at most 0.008."""
    keys = jax.random.split(jax.random.key(0), 4096)
    ids = np.asarray(stratified.stratified_ids(keys, 16, keep))
    frequency = np.bincount(ids.ravel(), minlength=16) / 4096
    np.testing.assert_allclose(frequency, keep / 16, atol=0.035)


def test_stratified_ids_depend_on_the_own_key_alone():
    keys = jax.random.split(jax.random.key(0), 8)
    ids = stratified.stratified_ids(keys, 16, 5)
    np.testing.assert_array_equal(stratified.stratified_ids(keys[3:4], 16, 5), ids[3:4])
    assert len({tuple(row) for row in np.asarray(ids)}) > 1
    assert stratified.stratified_ids(keys, 16, 0).shape == (8, 0)


def test_a_subset_is_of_the_same_image_sorted_and_uniform():
    keys = jax.random.split(jax.random.key(0), 4096)
    whole = tokens.sample_ids(keys, 16, 8)
    part = np.asarray(tokens.subset_ids(jax.random.split(jax.random.key(1), 4096), whole, 3))
    assert part.shape == (4096, 3) and (np.diff(part, axis=1) > 0).all()
    assert (part[:, :, None] == np.asarray(whole)[:, None]).any(2).all()
    frequency = np.bincount(part.ravel(), minlength=16) / 4096  # standard error 0.006
    np.testing.assert_allclose(frequency, 3 / 16, atol=0.028)
