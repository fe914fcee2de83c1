"""Compiled runs of every term of guidance against the plain sampler, and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_sampler
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Branch
from sg_jax.method.prediction import velocity_and_inner
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.ssm import SSM
from sg_jax.parallel import sharding
from sg_jax.programs.integration import image_keys, integrate
from sg_jax.programs.sampling import sample

LABELS = [0, 4, 2]
APG = dict(parallel=0.2, norm=0.5, momentum=-0.5)  # differences are longer than this


@pytest.fixture(scope="module")
def net(make_small):
    """Four blocks, of which 1 and 2 are routed, and an inner head between these."""
    return make_small(depth=4, width=16, heads=2, routes=((1, 2),), inner=2)


@jax.jit
def weak_run(m, x, t, y, ids, noise, lender):
    if lender is None:
        return m.branches(x, t, [Branch(y, ids, noise)])[0]
    return m.branches(x, t, [Branch(y, lender[0]), Branch(y, ids, None, True)])[1]


@pytest.fixture(scope="module")
def plain(net):
    """(guidance, steps) -> images of the plain sampler."""
    strong = jax.jit(lambda m, x, t, y, ids: m(x, t, y, ids))
    less = jax.jit(lambda m, x, t, y, ids, active: m.skipping(active)(x, t, y, ids))
    head = jax.jit(lambda m, x, t, y, ids: velocity_and_inner(m, x, t, y, ids)[1])

    def weak(x, t, y, ids, noise=None, **more):
        lender = [more["lender"]] if "lender" in more else None
        return weak_run(net, x, t, y, ids, noise, lender)

    def run(guidance, steps):
        return reference_sampler.sample(
            lambda *a: strong(net, *a), weak, LABELS, guidance, steps,
            shape=(8, 8, 3), tokens=16, routes=1, classes=5, depth=4,
            skipped=lambda *a, active: less(net, *a, active),
            inner=lambda *a: head(net, *a),
        )  # fmt: skip

    return run


RUNS = {
    "ig": Guidance(inner_scale=1.6, gamma_strong=0.25, interval=(0.0, 0.6)),
    "slg": Guidance(skip=(1, 3), skip_scale=1.5),
    "s2 on cfg": Guidance(1.5, weak_label="null", skip=1, skip_scale=1.25),
    "tsg": Guidance(1.5, time_noise=2.0, time_power=0.5),
    "borrowed": Guidance(2.0, 0.25, 0.75, ids="borrowed"),
    "borrowed from all": Guidance(2.0, 0.0, 0.75, ids="borrowed"),
    "refreshed": Guidance(2.0, 0.0, 0.75, refresh=2, interval=(0.2, 0.9)),
    "apg": Guidance(2.0, 0.25, 0.75, **APG),
    "cfg-zero*": Guidance(2.0, weak_label="null", rescale=True, zero_steps=1),
    "all": Guidance(
        ("linear", 1.2, 2.0), ("linear", 0.0, 0.5), 0.75, segments=2, ids="borrowed", skip=1,
        skip_scale=1.25, inner_scale=1.3, refresh=2, rescale=True, zero_steps=1, channels=0, **APG,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n == "slg" else pytest.param(n, marks=pytest.mark.slow) for n in RUNS]
)
def test_a_compiled_run_is_the_plain_sampler(net, plain, name):
    guidance = RUNS[name]
    ours, expected = sample(net, LABELS, guidance, steps=5, pixels=False), plain(guidance, 5)
    alone = sample(net, LABELS, Guidance(gamma_strong=guidance.gamma_strong), 5, pixels=False)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=5e-5)
    assert np.abs(ours - alone).max() > 1e-3


ALL = RUNS["all"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["euler", "heun", "ab2", "dpm_2m", "euler_maruyama", "edm_heun"])
def test_an_image_depends_on_seed_number_and_label_alone(net, mesh_of, name):
    """One by one, in batches, and spread over devices."""
    whole = sample(net, [0, 4, 2, 1], ALL, 4, pixels=False, sampler=name)
    parts = sample(net, [0, 4, 2, 1], ALL, 4, pixels=False, sampler=name, batch_size=2)
    spread = sample(net, [0, 4, 2, 1], ALL, 4, pixels=False, sampler=name, mesh=mesh_of(2, 1))
    third = sample(net, [2], ALL, 4, pixels=False, sampler=name, first=2)
    assert np.isfinite(whole).all()
    for other in (parts, spread):
        np.testing.assert_allclose(other, whole, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(third[0], whole[2], rtol=2e-4, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2), (2, 4)])
def test_weights_may_be_split_too(net, mesh_of, shape):
    """Blocks that are left out gather their weights like the others."""
    mesh = mesh_of(*shape)
    spread = jax.device_put(net, sharding.infer(net, mesh))
    whole = sample(net, [0, 4, 2, 1], ALL, 4, pixels=False)
    other = sample(spread, [0, 4, 2, 1], ALL, 4, pixels=False, mesh=mesh)
    np.testing.assert_allclose(other, whole, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_a_state_space_network_has_them_all(mesh_of):
    shape = dict(image_size=8, channels=3, num_classes=5, patch=2, width=16, depth=4, state=4)
    shapes = jax.eval_shape(lambda: SSM(**shape, routes=((1, 2),), inner=2, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda s: jnp.float32(0.15 * rng.standard_normal(s.shape)), shapes)
    whole = sample(model, LABELS, ALL, 4, pixels=False)
    parts = sample(model, LABELS, ALL, 4, pixels=False, batch_size=1)
    np.testing.assert_allclose(parts, whole, rtol=2e-4, atol=2e-4)
    assert np.abs(whole - sample(model, LABELS, "unguided", 4, pixels=False)).max() > 1e-3


@pytest.mark.slow
def test_a_masking_network_skips_blocks_of_its_encoder():
    shape = dict(image_size=8, channels=3, num_classes=5, patch=2, width=16, depth=2, heads=2)
    decoder = dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
    shapes = jax.eval_shape(lambda: MaskDiT(**shape, **decoder, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda s: jnp.float32(0.15 * rng.standard_normal(s.shape)), shapes)
    some = Guidance(2.0, 0.25, 0.5, skip=1, skip_scale=1.5, time_noise=1.0, refresh=2, **APG)
    whole = sample(model, LABELS, some, 4, pixels=False)
    assert np.isfinite(whole).all()
    strong = sample(model, LABELS, Guidance(gamma_strong=0.25), 4, pixels=False)
    assert np.abs(whole - strong).max() > 1e-3
    with pytest.raises(UserError, match="masking has no tokens to borrow"):
        sample(model, LABELS, Guidance(2.0, 0.25, 0.5, ids="borrowed"), 4)


@pytest.mark.slow
def test_numbers_compile_nothing_again(net):
    apg = Guidance(1.5, weak_label="null", skip=1, skip_scale=1.2, refresh=2, **APG)
    sample(net, LABELS, apg, 4, pixels=False)
    before = integrate._cache_size()
    for other in (
        Guidance(3.0, weak_label="null", skip=1, skip_scale=2.0, refresh=3, norm=1.0, momentum=0.5),
        Guidance(("linear", 1.0, 2.0), weak_label="null", skip=1, skip_scale=1.1, refresh=2,
                 parallel=0.0, momentum=-0.1),
    ):  # fmt: skip
        sample(net, LABELS, other, 4, pixels=False)
    assert integrate._cache_size() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_refreshing_each_step_and_momentum_of_0_are_plain_guidance(net, name):
    """The program with memory against the one without it."""
    plain = Guidance(2.0, 0.0, 0.75)
    ours = sample(net, LABELS, plain, 4, pixels=False, sampler=name)
    for more in (dict(norm=1e9), dict(momentum=1e-30)):
        other = sample(net, LABELS, Guidance(2.0, 0.0, 0.75, **more), 4, pixels=False, sampler=name)
        np.testing.assert_allclose(other, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_velocity_of_0_leaves_the_noise(net):
    """Three of four steps do not move; the last is one step of a quarter."""
    still = Guidance(2.0, weak_label="null", zero_steps=3)
    moved = sample(net, LABELS, still, 4, pixels=False)
    keys = jax.vmap(jax.random.fold_in, (0, None))(image_keys(0, 0, 3), 0)
    noise = jax.vmap(lambda k: jax.random.normal(k, (8, 8, 3)))(keys)
    run = jax.jit(lambda m, x, y: m(x, jnp.full(3, 0.75), y))
    v = 2 * run(net, noise, jnp.array(LABELS)) - run(net, noise, jnp.full(3, 5))
    np.testing.assert_allclose(moved, noise + v / 4, rtol=1e-4, atol=1e-5)
