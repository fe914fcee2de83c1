"""The mesh, and the one rule from shapes to shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sg_jax import sharding
from sg_jax.errors import UserError

pytestmark = pytest.mark.skipif(jax.device_count() != 8, reason="counts eight devices")


@pytest.mark.parametrize(
    "given, shape",
    [
        (dict(), (8, 1)),
        (dict(data=-1, fsdp=4), (2, 4)),
        (dict(data=1, fsdp=-1), (1, 8)),
        (dict(data=2, fsdp=4), (2, 4)),
        (dict(data=8, fsdp=1), (8, 1)),
    ],
)
def test_minus_1_is_the_rest_of_the_devices(given, shape):
    mesh = sharding.make_mesh(**given)
    assert mesh.axis_names == ("data", "fsdp")
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == shape


@pytest.mark.parametrize("given", [(3, 1), (-1, -1), (-1, 3), (0, 8), (-1, 0), (4, 4), (-2, -4)])
def test_sizes_that_are_not_the_devices_are_named(given):
    with pytest.raises(UserError) as error:
        sharding.make_mesh(*given)
    for part in (f"config.mesh.data={given[0]}", f"config.mesh.fsdp={given[1]}", "8"):
        assert part in str(error.value)


@pytest.mark.parametrize("size", [0, -8, 4, 12])
def test_a_batch_must_divide_over_the_devices(size):
    mesh = sharding.make_mesh()
    sharding.check_batch("config.train.batch_size", 16, mesh)
    with pytest.raises(UserError, match=rf"config.train.batch_size={size} must.*multiple.*8"):
        sharding.check_batch("config.train.batch_size", size, mesh)


@pytest.mark.parametrize(
    "shape, expected",  # for fsdp = 4
    [
        ((8, 16), P(None, "fsdp")),  # the largest
        ((16, 8), P("fsdp")),
        ((8, 8), P(None, "fsdp")),  # the last among equals
        ((6, 8), P(None, "fsdp")),  # the only one that 4 divides
        ((64, 6), P("fsdp")),
        ((1001, 8), P(None, "fsdp")),  # a label embedding
        ((1001,), P()),
        ((6, 10), P()),
        ((), P()),  # the step
        ((2,), P()),
    ],
)
def test_the_rule_by_hand(shape, expected):
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    assert sharding.infer(tree, mesh)["kernel"].spec == expected


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((8, 4), P(None, "fsdp")),  # 8 blocks: the leading axis is never split
        ((8, 16, 4), P(None, "fsdp")),
        ((8, 3), P()),
        ((8,), P()),
    ],
)
def test_the_axis_of_stacked_blocks_stays_whole(shape, expected):
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {"stacks": [jax.ShapeDtypeStruct(shape, jnp.float32)]}
    assert sharding.infer(tree, mesh)["stacks"][0].spec == expected


def test_without_fsdp_everything_is_replicated(tiny):
    mesh = sharding.make_mesh()
    assert all(s.is_fully_replicated for s in jax.tree.leaves(sharding.infer(tiny, mesh)))


def test_a_network_is_spread_but_for_its_smallest_arrays(tiny):
    mesh = sharding.make_mesh(data=1, fsdp=8)
    shardings, total, share = sharding.infer(tiny, mesh), 0, 0
    for leaf, s in zip(jax.tree.leaves(tiny), jax.tree.leaves(shardings), strict=True):
        total += leaf.size
        share += np.prod(s.shard_shape(leaf.shape))
    assert share / total < 0.14  # 1/8 and a little


def test_no_stack_of_a_network_is_split_along_its_blocks(make_dit):
    model = make_dit(depth=10, routes=((1, 8),))  # 8 routed blocks, which fsdp = 8 divides
    stacks = sharding.infer(model, sharding.make_mesh(1, 8)).blocks.stacks
    specs = [s.spec for s in jax.tree.leaves(stacks)]
    assert all(not spec or spec[0] is None for spec in specs)
    assert any("fsdp" in spec for spec in specs)


def test_placed_shapes_keep_shape_and_type(tiny):
    mesh = sharding.make_mesh(2, 4)
    placed = sharding.place(tiny, mesh)
    for leaf, like in zip(jax.tree.leaves(placed), jax.tree.leaves(tiny), strict=True):
        assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
        assert leaf.sharding.mesh.shape == mesh.shape


def test_a_batch_is_split_over_all_devices():
    mesh = sharding.make_mesh(2, 4)
    batch = sharding.to_global({"image": np.arange(32.0).reshape(16, 2)}, mesh)["image"]
    assert batch.shape == (16, 2)
    shards = sorted(batch.addressable_shards, key=lambda s: s.index[0].start or 0)
    assert len({s.device for s in shards}) == 8
    np.testing.assert_array_equal(np.concatenate([s.data for s in shards]), batch)
    assert {s.data.shape for s in shards} == {(2, 2)}


def test_replicated_is_whole_on_every_device():
    x = jax.device_put(jnp.arange(4), sharding.replicated(sharding.make_mesh()))
    assert [s.data.shape for s in x.addressable_shards] == [(4,)] * 8
