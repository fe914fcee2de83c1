"""The mesh, and the one rule from shapes to shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from sg_jax.errors import UserError
from sg_jax.models.dit import DiT
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.ssm import SSM
from sg_jax.parallel import sharding

pytestmark = pytest.mark.skipif(jax.device_count() != 8, reason="counts eight devices")


@pytest.mark.parametrize(
    "given, shape",
    [
        (dict(), (1, 8, 1, 1)),
        (dict(data=-1, fsdp=4), (1, 2, 4, 1)),
        (dict(data=1, fsdp=-1), (1, 1, 8, 1)),
        (dict(data=2, fsdp=4), (1, 2, 4, 1)),
        (dict(fsdp=2, tensor=2), (1, 2, 2, 2)),
        (dict(replica=2, data=1, fsdp=-1), (2, 1, 4, 1)),
    ],
)
def test_minus_1_is_the_rest_of_the_devices(given, shape):
    mesh = sharding.make_mesh(**given)
    assert mesh.axis_names == ("replica", "data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == shape
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    "given",
    [
        dict(data=3), dict(data=-1, fsdp=-1), dict(fsdp=3), dict(data=0, fsdp=8),
        dict(data=-1, fsdp=0), dict(data=4, fsdp=4), dict(data=-2, fsdp=-4), dict(tensor=-2),
    ],
)  # fmt: skip
def test_sizes_that_are_not_the_devices_are_named(given):
    with pytest.raises(UserError) as error:
        sharding.make_mesh(**given)
    for part in [f"config.mesh.{axis}={size}" for axis, size in given.items()] + ["8"]:
        assert part in str(error.value)


class Device:
    """A device of a slice, as far as a mesh looks at it."""

    device_kind = ""
    core_on_chip = 0

    def __init__(self, number, per_slice, platform="tpu"):
        self.id, self.platform = number, platform
        self.slice_index, place = divmod(number, per_slice)
        self.coords = [place, 0, 0]
        self.process_index = 0


def test_a_network_has_the_mesh_of_its_arrays(tiny):
    assert sharding.mesh_of(tiny) == sharding.one_device()
    assert sharding.mesh_of({}) == sharding.mesh_of([np.zeros(3)]) == sharding.one_device()
    mesh = sharding.make_mesh(data=2, fsdp=4)
    spread = jax.device_put(tiny, sharding.infer(tiny, mesh))
    assert sharding.mesh_of(spread) == mesh
    last = jax.devices()[-1]
    assert list(sharding.mesh_of(jax.device_put(jnp.zeros(3), last)).devices.flat) == [last]
    other = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    foreign = jax.sharding.NamedSharding(other, P())
    assert sharding.mesh_of(jax.device_put(jnp.zeros(8), foreign)) is None


def test_only_the_replica_axis_crosses_slices():
    devices = [Device(n, per_slice=4) for n in range(8)]
    mesh = sharding.make_mesh(replica=2, data=2, fsdp=2, devices=devices)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    with pytest.raises(UserError, match=r"config.mesh.replica=1 must be the number of slices.* 2"):
        sharding.make_mesh(data=8, devices=devices)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_any_axis_crosses_hosts_which_jax_calls_slices(platform):
    devices = [Device(n, per_slice=4, platform=platform) for n in range(8)]
    for sizes in (dict(), dict(fsdp=8), dict(replica=4)):
        mesh = sharding.make_mesh(**sizes, devices=devices)
        assert [d.id for d in mesh.devices.flat] == list(range(8))


@pytest.mark.parametrize("size", [0, -8, 4, 12])
def test_a_batch_must_divide_over_the_devices(size):
    mesh = sharding.make_mesh()
    sharding.check_batch("config.train.batch_size", 16, mesh)
    with pytest.raises(UserError, match=rf"config.train.batch_size={size} must.*multiple of 8"):
        sharding.check_batch("config.train.batch_size", size, mesh)


def test_a_batch_is_also_split_over_the_steps_of_accumulation_but_not_over_tensor():
    mesh = sharding.make_mesh(tensor=2)
    assert sharding.batch_devices(mesh) == 4
    sharding.check_batch("config.train.batch_size", 12, mesh, accumulate=3)
    with pytest.raises(UserError, match=r"multiple of 12: .* 4 times config.train.accumulate=3"):
        sharding.check_batch("config.train.batch_size", 16, mesh, accumulate=3)


def spec(shape, metadata=None, **sizes):
    """What the rule says of one parameter with this metadata."""
    parameter = nnx.Param(jnp.zeros(shape), **(metadata or {}))
    (found,) = jax.tree.leaves(sharding.infer(parameter, sharding.make_mesh(**sizes)))
    return found.spec


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((8, 16), P("fsdp")),  # the first that 4 divides
        ((6, 8), P(None, "fsdp")),
        ((64, 6), P("fsdp")),
        ((1001, 8), P(None, "fsdp")),  # a label embedding
        ((1024,), P()),  # a vector
        ((6, 10), P()),
        ((), P()),  # the step
    ],
)
def test_fsdp_splits_the_first_axis_it_divides(shape, expected):
    assert spec(shape, data=2, fsdp=4) == expected
    bare = jax.ShapeDtypeStruct(shape, jnp.float32)  # as the step and what Optax counts
    assert sharding.infer(bare, sharding.make_mesh(data=2, fsdp=4)).spec == expected


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((8, 4, 8), P(None, "fsdp")),  # 8 blocks: the leading axis is never split
        ((8, 3, 4), P(None, None, "fsdp")),
        ((8, 3, 3), P()),
        ((8, 1024), P()),  # vectors
    ],
)
def test_the_axis_of_stacked_blocks_stays_whole(shape, expected):
    assert spec(shape, dict(stacked=True), data=2, fsdp=4) == expected


@pytest.mark.parametrize(
    "axis, shape, expected",
    [
        (-1, (8, 16), P("fsdp", "tensor")),  # output channels
        (-2, (16, 8), P("tensor", "fsdp")),  # input channels: what another layer has split
        (-1, (8, 8), P("fsdp", "tensor")),
        (-1, (8, 3), P("fsdp")),
        (-1, (3, 8), P(None, "tensor")),
        (-2, (3, 8), P(None, "fsdp")),
    ],
)
def test_tensor_splits_the_axis_that_a_parameter_names(axis, shape, expected):
    sizes = dict(data=2, fsdp=2, tensor=2)
    assert spec(shape, dict(tensor_axis=axis), **sizes) == expected
    stacked = spec((3, *shape), dict(tensor_axis=axis, stacked=True), **sizes)
    assert stacked == P(None, *expected)
    if axis == -1:
        assert spec(shape, **sizes) == expected  # where it names none


def test_stacking_marks_parameters_and_keeps_what_they_say():
    tree = [nnx.Param(jnp.ones((3, 2, 2)), tensor_axis=-2), {"bias": nnx.Param(jnp.ones((3, 2)))}]
    marked = sharding.stacked(tree)
    assert [sharding.is_stacked(x) for x in (tree[0], marked[0], marked[1]["bias"])] == [
        False,
        True,
        True,
    ]
    assert marked[0].get_metadata()["tensor_axis"] == -2
    np.testing.assert_array_equal(marked[0][...], tree[0][...])


SHAPE = dict(image_size=8, channels=4, num_classes=7, patch=2, width=32, depth=4)
NETWORKS = {
    "dit": (DiT, dict(heads=4, routes=((1, 2),))),
    "maskdit": (MaskDiT, dict(heads=4, decoder_width=16, decoder_depth=2, decoder_heads=4)),
    "ssm": (SSM, dict(state=4, routes=((1, 2),))),
}
CLOSING = {"out", "outward"}  # of time embedding, attention, MLP and state-space block


@pytest.mark.parametrize("kind", NETWORKS)
def test_layers_that_close_a_pair_are_split_along_their_inputs(kind):
    """Others along their outputs, so that what is between them stays on its device."""
    make, options = NETWORKS[kind]
    model = jax.eval_shape(lambda: make(**SHAPE, **options, rngs=nnx.Rngs(0)))
    specs = sharding.infer(model, sharding.make_mesh(fsdp=2, tensor=2))
    closed = set()
    for (path, leaf), found in zip(
        jax.tree_util.tree_leaves_with_path(model), jax.tree.leaves(specs), strict=True
    ):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[:-1]
        names = [name for name in names if not name.isdigit()]
        stacked = "stacks" in names
        whole = [*found.spec, *[None] * (leaf.ndim - len(found.spec))]
        inner = whole[1:] if stacked else whole
        assert not (stacked and whole[0]), names
        if len(inner) < 2:
            assert not any(inner), names
        elif names[-2] in CLOSING:
            closed.add("/".join(names[-3:-1]))
            assert inner == ["tensor", "fsdp"], names
        else:
            assert inner[-1] == "tensor" or leaf.shape[-1] % 2, names
    pairs = {"stacks/outward"} if kind == "ssm" else {"attention/out", "mlp/out"}
    assert closed == {"time_embedding/out", *pairs}


def test_without_fsdp_everything_is_replicated(tiny):
    mesh = sharding.make_mesh()
    assert all(s.is_fully_replicated for s in jax.tree.leaves(sharding.infer(tiny, mesh)))


def test_a_network_is_spread_but_for_its_smallest_arrays(tiny):
    mesh = sharding.make_mesh(data=1, fsdp=8)
    shardings, total, share = sharding.infer(tiny, mesh), 0, 0
    for leaf, s in zip(jax.tree.leaves(tiny), jax.tree.leaves(shardings), strict=True):
        total += leaf.size
        share += np.prod(s.shard_shape(leaf.shape))
    assert share / total < 0.15  # 1/8, and the vectors


def test_no_stack_of_a_network_is_split_along_its_blocks(make_dit):
    model = make_dit(depth=10, routes=((1, 8),))  # 8 routed blocks, which fsdp = 8 divides
    stacks = sharding.infer(model, sharding.make_mesh(data=1, fsdp=8)).blocks.stacks
    specs = [s.spec for s in jax.tree.leaves(stacks)]
    assert all(not spec or spec[0] is None for spec in specs)
    assert any("fsdp" in spec for spec in specs)


def test_placed_shapes_keep_shape_and_type(tiny):
    mesh = sharding.make_mesh(data=2, fsdp=4)
    placed = sharding.place(tiny, mesh)
    for leaf, like in zip(jax.tree.leaves(placed), jax.tree.leaves(tiny), strict=True):
        assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
        assert leaf.sharding.mesh.shape == mesh.shape


def test_a_batch_is_split_over_all_devices():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    batch = sharding.to_global({"image": np.arange(32.0).reshape(16, 2)}, mesh)["image"]
    assert batch.shape == (16, 2)
    shards = sorted(batch.addressable_shards, key=lambda s: s.index[0].start or 0)
    assert len({s.device for s in shards}) == 8
    np.testing.assert_array_equal(np.concatenate([s.data for s in shards]), batch)
    assert {s.data.shape for s in shards} == {(2, 2)}


def test_replicated_is_whole_on_every_device():
    x = jax.device_put(jnp.arange(4), sharding.replicated(sharding.make_mesh()))
    assert [s.data.shape for s in x.addressable_shards] == [(4,)] * 8
