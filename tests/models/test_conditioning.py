"""Class labels as conditions: embedded, nulled, swapped for another, in turn, and checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.models.conditioning import Classes

FIVE = Classes(5, 4, nnx.Rngs(0))


def classes(count):
    return Classes(count, 1, nnx.Rngs(0))


def test_a_label_is_its_row_and_null_is_one_more():
    rows = FIVE(jnp.array([3, 0, 5]), jnp.float32)
    assert FIVE.table.shape == (6, 4)
    np.testing.assert_array_equal(rows, FIVE.table[...][np.array([3, 0, 5])])
    assert rows[2].any() and FIVE(jnp.array([1]), jnp.bfloat16).dtype == jnp.bfloat16


def test_without_a_row_null_is_zeros():
    net = Classes(5, 4, nnx.Rngs(0), null_row=False)
    rows = net(jnp.array([3, 5]), jnp.float32)
    assert net.table.shape == (5, 4)
    np.testing.assert_array_equal(rows, [net.table[3], np.zeros(4)])


def test_null_is_no_class_and_keeps_shape_and_type():
    null = FIVE.null(jnp.array([0, 4], jnp.int32))
    assert null.dtype == jnp.int32
    np.testing.assert_array_equal(null, [5, 5])


def test_kinds_are_equal_where_the_classes_are():
    assert FIVE.kind == classes(5).kind != classes(4).kind
    assert (FIVE.count, classes(1000).count) == (5, 1000)


@pytest.mark.parametrize("count", [2, 5, 1000])
def test_another_is_any_but_the_own(count):
    keys = jax.random.split(jax.random.key(0), 4096)
    another = jax.jit(classes(count).another)
    for own in (0, count - 1):
        labels = np.asarray(another(jnp.full(4096, own), keys))
        assert labels.min() >= 0 and labels.max() < count and (labels != own).all()
        if count <= 5:  # each of the others equally often: standard error below 0.008
            share = np.delete(np.bincount(labels, minlength=count) / 4096, own)
            np.testing.assert_allclose(share, 1 / (count - 1), atol=0.035)


def test_no_label_becomes_any():
    keys = jax.random.split(jax.random.key(0), 4096)
    labels = np.asarray(classes(5).another(jnp.full(4096, 5), keys))
    np.testing.assert_allclose(np.bincount(labels, minlength=5) / 4096, 1 / 5, atol=0.035)


def test_another_depends_on_the_own_key_and_the_own_label_alone():
    net, y = classes(1000), jnp.array([0, 4, 2])
    keys = jax.random.split(jax.random.key(3), 3)
    whole = net.another(y, keys)
    np.testing.assert_array_equal(net.another(y[1:2], keys[1:2]), whole[1:2])
    steps = [jax.vmap(jax.random.fold_in, (0, None))(keys, n) for n in range(9)]
    assert len({tuple(np.asarray(net.another(y, k))) for k in steps}) == 9


def test_every_class_comes_in_turn():
    turn = FIVE.in_turn(7)
    assert turn.dtype == np.int32
    np.testing.assert_array_equal(turn, [0, 1, 2, 3, 4, 0, 1])
    assert FIVE.in_turn(0).shape == (0,)


@pytest.mark.parametrize(
    "given, labels",
    [([0, 4], [0, 4]), (3, [3]), (np.array([1], np.int64), [1]), ([], []), (jnp.array([2]), [2])],
)
def test_labels_become_int32(given, labels):
    found = FIVE.check(given)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(
    "given, named",
    [
        ([0, 5], ["classes[1]=5", "[0, 4]", "5 classes"]),  # null is not asked for by its number
        ([-1], ["classes[0]=-1"]),
        ([0.5], ["classes=[0.5] must be ints"]),
        ([[1], [2]], ["classes=[[1], [2]] must be ints"]),
        ([[1], [2, 3]], ["classes=[[1], [2, 3]] must be ints"]),
        (["cat"], ["classes=['cat'] must be ints"]),
        ([True], ["classes=[True] must be ints"]),
        (None, ["classes=None must be ints"]),
        ([2**70], ["classes=[1180591620717411303424] must be ints"]),
    ],
)
def test_a_wrong_label_is_named(given, named):
    with pytest.raises(UserError) as error:
        FIVE.check(given, "classes")
    for part in named:
        assert part in str(error.value)
