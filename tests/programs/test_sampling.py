"""Labels to images: what an image depends on, and what is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_sampler

from sg_jax.data.images import to_uint8
from sg_jax.errors import UserError
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler
from sg_jax.parallel import sharding
from sg_jax.programs import sampling
from sg_jax.programs.integration import image_keys, integrate
from sg_jax.programs.sampling import COMPILE, sample, sample_batches
from sg_jax.runs.progress import Spent

SG = Guidance(scale=1.5, gamma_strong=0.25, gamma_weak=0.75)
CFG = Guidance(scale=1.5, weak_label="null")
LABELS = [0, 1, 2, 3, 4, 0, 1, 2]
STEPS = 3


def draw(model, labels=LABELS, guidance=SG, **kwargs):
    return sample(model, labels, guidance, **{"steps": STEPS, "batch_size": 8, **kwargs})


@pytest.fixture(scope="module")
def eight(small):
    """Eight images in one batch on one device."""
    return draw(small)


def levels(a, b):
    """The largest difference in grey levels."""
    return np.abs(a.astype(int) - b.astype(int)).max()


def test_images_are_uint8_of_the_models_shape(eight):
    assert eight.shape == (8, 8, 8, 3) and eight.dtype == np.uint8
    assert eight.std() > 20


def test_an_image_is_the_same_in_any_batch(small, eight):
    assert levels(draw(small, batch_size=3), eight) <= 1  # 3 + 3 + 2 and one of padding
    assert levels(draw(small, LABELS[:5], batch_size=3), eight[:5]) <= 1


def test_an_image_is_the_same_on_any_number_of_devices(small, eight, mesh_of):
    assert levels(draw(small, mesh=mesh_of(8, 1)), eight) <= 1
    mesh = mesh_of(2, 4)
    spread = jax.device_put(small, sharding.infer(small, mesh))
    assert levels(draw(spread, mesh=mesh), eight) <= 1


@pytest.mark.slow
def test_an_image_is_the_same_however_many_tokens_run_at_once(small, eight, mesh_of):
    assert levels(draw(small, chunk=32), eight) <= 1  # two images of 16 tokens
    spread = jax.device_put(small, sharding.infer(small, mesh_of(1, 2)))
    assert levels(draw(spread, mesh=mesh_of(1, 2), chunk=16), eight) <= 1


@pytest.mark.parametrize("loaded", [False, True])
def test_without_a_mesh_programs_are_those_of_the_networks_devices(
    small, mesh_of, loaded, monkeypatch
):
    """Chunks and attention kernels depend on the devices that a program is traced for."""
    mesh = mesh_of(2, 2) if loaded else sharding.one_device()
    model = jax.device_put(small, sharding.infer(small, mesh)) if loaded else small
    traced, plain = [], sharding.on
    monkeypatch.setattr(sharding, "on", lambda mesh: traced.append(mesh) or plain(mesh))
    draw(model, steps=23 + loaded)  # not drawn before, so it is traced here
    assert traced and set(traced) == {mesh}


SAMPLERS = {
    "dpm_2m": Sampler("dpm_2m"),
    "heun": Sampler("heun", shift=2.0),
    "ab2": Sampler("ab2", shift=2.0),
    "euler_maruyama": Sampler("euler_maruyama", diffusion_scale=0.5),
    "edm_heun": Sampler("edm_heun", churn=1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_draws_the_same_on_any_number_of_devices(small, mesh_of, name):
    """With all that is drawn on the way: token ids, noise, other labels."""
    guidance = Guidance(1.5, 0.25, 0.75, "random", ids="nested")
    one = draw(small, guidance=guidance, sampler=SAMPLERS[name])
    assert one.std() > 20
    spread = draw(small, guidance=guidance, sampler=SAMPLERS[name], mesh=mesh_of(2, 4))
    assert levels(spread, one) <= 1


@pytest.mark.slow
def test_two_networks_are_spread_over_devices_alike(small, make_small, mesh_of):
    settings = dict(guidance=Guidance(1.5, 0.25, 0.75, weak_step=1), weak_model=make_small(seed=1))
    one = draw(small, **settings)
    assert levels(draw(small, mesh=mesh_of(2, 4), **settings), one) <= 1
    assert levels(one, draw(small)) > 1  # another network, another prediction


def test_omega_schedules_do_not_compile_again(small, eight):
    before = integrate._cache_size()
    draw(small, guidance=Guidance(("linear", 1.0, 3.0), 0.25, 0.75))
    assert integrate._cache_size() == before


def test_a_batch_that_devices_do_not_divide_is_filled_up(small, eight, mesh_of):
    images = draw(small, LABELS[:5], mesh=mesh_of(8, 1))
    assert len(images) == 5 and levels(images, eight[:5]) <= 1


def test_the_same_seed_gives_the_same_images(small, eight):
    np.testing.assert_array_equal(draw(small, seed=0), eight)


def test_numbers_of_numpy_and_jax_are_numbers(small, eight):
    numbers = dict(steps=np.int32(STEPS), batch_size=np.array(8), seed=jnp.uint32(0))
    found = draw(small, jnp.array(LABELS), guidance=SG, chunk=np.int64(-1), **numbers)
    np.testing.assert_array_equal(found, eight)
    np.testing.assert_array_equal(draw(small, tuple(LABELS), pixels=np.bool_(True)), eight)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(seed=2**32), r"sample.seed=4294967296 must lie in \[0, 2\*\*32\)\."),
        (dict(seed=-1), r"sample.seed=-1 must lie in \[0, 2\*\*32\)\."),
        (dict(seed=None), "sample.seed=None must be an int"),
        (dict(seed=1.0), "sample.seed=1.0 must be an int"),
        (dict(seed=True), "sample.seed=True must be an int"),
        (dict(steps=4.0), "sample.steps=4.0 must be an int"),
        (dict(steps="4"), "sample.steps='4' must be an int"),
        (dict(steps=0), r"sample.steps=0 must lie in \[1, 100000\]"),
        (dict(steps=2**31), "sample.steps=2147483648 must lie in .*float32"),
        (dict(steps=np.float32("nan")), "sample.steps=nan must be an int"),
        (dict(batch_size=0), "sample.batch_size=0 must be an int of at least 1, or None"),
        (dict(batch_size=2.0), "sample.batch_size=2.0 must be an int"),
        (dict(batch_size="3"), "sample.batch_size='3' must be an int"),
        (dict(chunk=-2), "sample.chunk=-2 must be at least -1"),
        (dict(chunk=None), "sample.chunk=None must be an int"),
        (
            dict(guidance={"scale": 2.0}),
            r"guidance={'scale': 2.0} must be a Guidance.*\*\*guidance",
        ),
        (dict(guidance=None), "guidance=None must be a Guidance"),
        (dict(guidance=["cfg"]), "must be a Guidance"),
        (dict(guidance="cfgg"), "guidance='cfgg' .* mean 'cfg'"),
        (dict(sampler=None), "sampler=None must be a Sampler"),
        (dict(sampler={"name": "heun"}), "must be a Sampler or the name of one"),
        (dict(sampler="hoin"), "sampler.name='hoin' must be one of .* mean 'heun'"),
        (dict(labels=None), "labels=None must be ints"),
        (dict(labels="12"), "labels='12' must be ints"),
        (dict(labels=[[0, 1], [2]]), "must be ints, one per image"),
        (dict(labels=[1.0]), r"labels=\[1.0\] must be ints"),
        (dict(labels=[5]), r"labels\[0\]=5 must lie in \[0, 4\]"),
        (dict(labels=[-1]), r"labels\[0\]=-1 must lie in \[0, 4\]"),
        (dict(labels=[10**30]), "must be ints"),
        (dict(pixels="no"), "pixels='no' must be True or False"),
        (dict(mesh=3), "mesh=3 must be a mesh with the axes"),
        (dict(progress=3), "progress=3 must be a function"),
        (dict(weak_model="runs/x"), "weak_model='runs/x' must be a network"),
        (dict(model="runs/x"), r"model='runs/x' must be a network, such as sg_jax.load"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_compiles(zero, monkeypatch, given, words):
    monkeypatch.setattr(sampling, "integrate", None)
    with pytest.raises(UserError, match=words):
        sample(**{"model": zero, "labels": [0], **given})


def test_another_seed_gives_other_images(small, eight):
    other = draw(small, seed=1)
    assert all(levels(a, b) > 50 for a, b in zip(other, eight, strict=True))


def test_images_of_one_label_differ(eight):
    assert levels(eight[0], eight[5]) > 50


def test_the_label_matters(small, eight):
    other = draw(small, [1, *LABELS[1:]])
    assert levels(other[0], eight[0]) > 1 and levels(other[1:], eight[1:]) <= 1


def test_guidance_matters(small, eight):
    for other in ("unguided", CFG, Guidance(3.0, 0.25, 0.75), Guidance(1.5, 0.25, 0.5)):
        assert levels(draw(small, guidance=other), eight) > 1


def noise(zero, guidance=SG):
    """The float samples of a network whose velocity is zero."""
    keys = image_keys(0, 0, 8)
    plan, scales = guidance_lib.plan(guidance, Sampler(), STEPS)
    arguments = dict(plan=plan, sampler=Sampler(), steps=STEPS)
    return integrate(zero, None, jnp.array(LABELS), keys, scales, **arguments)


@pytest.mark.slow
def test_the_noise_is_the_same_under_each_guidance(zero):
    for other in (CFG, Guidance()):
        np.testing.assert_array_equal(noise(zero, other), noise(zero))


def test_the_noise_is_standard_normal(zero):
    z = np.asarray(noise(zero))  # 1536 values
    assert abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.1


def test_minus_1_is_black_and_1_is_white(zero):
    images, z = draw(zero), np.asarray(noise(zero))
    expected = np.clip((z + 1) / 2, 0, 1) * 255
    assert np.abs(images - expected).max() < 0.51


TERMS = ("ig", "slg", "s2", "tsg")  # test_terms_runs.py has runs of these kinds
RUNS = {
    **{name: setting for name, setting in PRESETS.items() if name not in TERMS},
    "interval": Guidance(1.5, 0.25, 0.75, interval=(0.2, 0.7)),
    "scheduled": Guidance(("linear", 1.0, 3.0), ("cosine", 0.0, 0.6), ("cosine", 0.6, 0.0)),
    "few segments": Guidance(2.0, gamma_weak=("linear", 0.9, 0.0), segments=2),
    "another label, sparse": Guidance(1.5, 0.25, 0.75, "random"),
}


@pytest.mark.every(6)
@pytest.mark.parametrize("name", RUNS)
def test_a_compiled_run_is_the_plain_sampler(small, make_small, forward, name):
    """Of three steps the second has equal rates where both are scheduled: one prediction."""
    guidance, labels = RUNS[name], [0, 4, 2]
    other = make_small(seed=1) if guidance.two_networks else None
    ours = sample(small, labels, guidance, steps=3, pixels=False, weak_model=other)
    expected = reference_sampler.sample(
        functools.partial(forward, small),
        functools.partial(forward, other or small),
        labels,
        guidance,
        steps=3,
        shape=(8, 8, 3),
        tokens=16,
        routes=1,
        classes=5,
    )
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_image_keys_do_not_depend_on_the_batch():
    data = jax.random.key_data
    whole = data(image_keys(0, 0, 6))
    np.testing.assert_array_equal(data(image_keys(0, 4, 2)), whole[4:])
    assert len(np.unique(whole, axis=0)) == 6


def test_scale_labels_and_seed_do_not_compile_again(small, eight):
    before = integrate._cache_size()
    draw(small, LABELS[::-1], Guidance(7.0, 0.25, 0.75), seed=5)
    draw(small, LABELS[:2] * 8)  # two batches
    assert integrate._cache_size() == before


def test_other_weights_do_not_compile_again(make_small, eight):
    before = integrate._cache_size()
    draw(make_small(seed=1))
    assert integrate._cache_size() == before


def test_another_gamma_compiles_once(small, eight):
    before = integrate._cache_size()
    for scale in (1.5, 2.0):
        draw(small, guidance=Guidance(scale, 0.25, 0.8))
    assert integrate._cache_size() == before + 1


def test_progress_counts_images(zero):
    done = []
    draw(zero, LABELS[:5], batch_size=2, progress=done.append)
    assert done == [2, 4, 5]


def test_samples_that_are_not_finite_are_no_images(small):
    broken = jax.tree.map(lambda x: x * jnp.nan, small)
    with pytest.raises(UserError, match="2 of 2 samples contain NaN or infinity"):
        sample(broken, [0, 1], steps=1)


def test_latents_are_returned_as_they_are(make_small):
    model = make_small(channels=4)
    with pytest.raises(UserError, match=r"4 channels, so they are latents.*pixels=False"):
        sample(model, [0], steps=1)
    latents = sample(model, [0, 1, 2], steps=2, batch_size=2, pixels=False)
    assert (latents.shape, latents.dtype) == ((3, 8, 8, 4), np.float32)
    assert latents.max() > 1.5  # not clipped


def test_floats_are_what_pixels_were(small, eight):
    floats = draw(small, pixels=False)
    np.testing.assert_array_equal(to_uint8(floats), eight)


def test_no_labels_are_no_images(zero):
    assert sample(zero, []).shape == (0, 8, 8, 3)


@pytest.mark.slow
def test_batches_are_the_images_of_one_call(small):
    how = dict(guidance=Guidance(1.5, 0.0, 0.5), steps=2)
    batches = sample_batches(small, [0, 4, 2, 1, 3], batch_size=2, spent=(spent := Spent()), **how)
    parts = [next(batches)]
    compiling = spent.seconds[COMPILE]
    parts += batches
    assert [len(part) for part in parts] == [2, 2, 1]
    assert spent.seconds == {COMPILE: compiling} and compiling > 0  # only before the first batch
    np.testing.assert_array_equal(np.concatenate(parts), sample(small, [0, 4, 2, 1, 3], **how))
    with pytest.raises(UserError, match="steps"):
        sample_batches(small, [0], steps=0)  # at once, not with the first batch
    with pytest.raises(UserError, match=r"spent=0 must be a \S+Spent, or None"):
        sample_batches(small, [0], spent=0)
