"""Memory that is not there is missed before it is taken; what fits is not refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import golden

import sg_jax
from sg_jax.config import experiment, geometry, parsing
from sg_jax.errors import UserError
from sg_jax.parallel import sharding
from sg_jax.programs import decoding, memory
from sg_jax.programs.sampling import sample
from sg_jax.programs.training import abstract_state

MODEL = dict(depth=2, width=8, heads=2, patch=2, routes=((1, 1),))


def build(devices=1, model=None, **changes):
    given = parsing.merge(dict(model={**MODEL, **(model or {})}, **changes))
    return experiment.build(geometry.complete(given, (8, 8, 1), 10), jax.devices()[:devices])


def step_of(built, gamma=0.5):
    """A training step, its arguments as shapes, and the state among them."""
    state = abstract_state(built.make_model, built.tx, built.mesh)
    size, spread = built.config.train.batch_size, sharding.batch_sharding(built.mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((size, 8, 8, 1), jnp.float32, sharding=spread),
        "condition": jax.ShapeDtypeStruct((size,), jnp.int32, sharding=spread),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    return built.compile_train_step(gamma, state), (state, batch, key)


def test_a_batch_beyond_any_memory_is_refused_with_what_it_takes():
    huge = build(train=dict(batch_size=10**9))
    with pytest.raises(UserError) as error:
        huge.check_training()
    # 10^9 images of 8x8 float32 and a label; 8 channels of 16 tokens, half of them in block 1.
    for part in ("batch_size=1000000000", "the batch: 260 GB", "each block: 768 GB", "this host"):
        assert part in str(error.value)


def test_drawing_after_training_is_asked_for_before_it():
    config = dict(count=10**7, batch_size=10**7), dict(then=("sample",), batch_size=8)
    built = build(sample=config[0], train=config[1], model=dict(width=4096))
    with pytest.raises(UserError, match=r"Drawing 10000000 images at once .*their tokens: 2.62 TB"):
        built.check_training()
    build(sample=config[0], train=dict(batch_size=8)).check_training()  # it draws nothing


def test_weights_beyond_any_memory_are_refused():
    large = build(train=dict(batch_size=8), model=dict(width=2**17, depth=10_000))
    with pytest.raises(UserError, match=r"optimizer: 49,\d+ PB|optimizer: [\d.]+ [PT]B"):
        large.check_training()


def test_sampling_says_what_it_takes(small, monkeypatch):
    monkeypatch.setattr(memory, "host", lambda: 10**6)
    with pytest.raises(UserError, match=r"Drawing 5000 images, 5000 at once, needs at least .* MB"):
        sample(small, np.zeros(5000, int))
    with pytest.raises(UserError, match=r"Drawing 9\d+ images.*smaller batch_size"):
        sample(small, range(10**30))


def test_the_host_holds_all_images_once_however_many_devices_it_has(small, mesh_of):
    needs = memory.sampling([small], 8, 4 * 10**9, mesh_of(4, 1))
    assert needs["all images"] == 10**9


@pytest.fixture(scope="module")
def tae():
    """A tiny autoencoder: 16 channels, factor 8."""
    return sg_jax.load_autoencoder(golden("tae_tiny")[1])


def test_decoding_says_what_it_takes(make_small, tae, monkeypatch):
    """Each of 500 images of 64x64x3, decoded, has as many bytes; floats of them four times that."""
    model = make_small(channels=tae.channels)
    needs = memory.decoding([model], tae, 500, 8, 500 * 64 * 64 * 3, sharding.one_device())
    latents, pixels = 8 * 8 * tae.channels, 64 * 64 * 3
    assert needs["the images of a batch"] == 500 * (latents + pixels) * 4
    assert needs["the autoencoder"] == sum(leaf.nbytes for leaf in jax.tree.leaves(tae))
    assert needs["all images"] == 500 * pixels
    drawing = memory.sampling([model], 500, 500 * pixels, sharding.one_device())
    monkeypatch.setattr(memory, "host", lambda: sum(drawing.values()) + 1000)
    assert sum(needs.values()) > sum(drawing.values()) + 1000
    with pytest.raises(UserError, match=r"Decoding 500 images, 8 at once .*decode_chunk"):
        sample(model, np.zeros(500, int), autoencoder=tae)
    monkeypatch.setattr(memory, "host", lambda: sum(drawing.values()) - 1000)
    with pytest.raises(UserError, match=r"Drawing 500 images.*all images: 6.14 MB"):
        sample(model, np.zeros(500, int), autoencoder=tae)


@pytest.mark.parametrize("chunk", [2, 8])
def test_decoding_takes_no_less_than_is_asked_for(make_small, tae, chunk):
    model, mesh = make_small(channels=tae.channels), sharding.one_device()
    needs = memory.decoding([model], tae, 8, chunk, 0, mesh)
    latents = jax.ShapeDtypeStruct((8, 8, 8, tae.channels), jnp.float32)
    found = decoding.decode.lower(tae, latents, chunk=chunk).compile().memory_analysis()
    assert needs["the largest of their features"] <= found.temp_size_in_bytes
    most = found.argument_size_in_bytes + found.output_size_in_bytes
    assert needs["the images of a batch"] <= most


def test_what_the_compiler_finds_is_asked_for_before_a_program_runs(monkeypatch):
    ran, mesh = [], sharding.one_device()
    program = jax.jit(lambda x: (jax.debug.callback(ran.append, 1), jnp.sort(x, 0) @ x)[1])
    checked = memory.Checked(program, "A product", mesh, "make it smaller")
    x = np.ones((300, 300), np.float32)
    monkeypatch.setattr(memory, "host", lambda: 10**5)
    with pytest.raises(UserError, match=r"A product needs .*arguments: 360 KB.*: make it smaller"):
        checked(x)
    jax.effects_barrier()
    assert not ran
    monkeypatch.setattr(memory, "host", lambda: 10**8)
    np.testing.assert_array_equal(checked(x), 300 * x)
    assert isinstance(step_of(build(train=dict(batch_size=8)))[0], memory.Checked)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("remat", ["none", "selective", "full"])
@pytest.mark.parametrize(
    "model",
    [
        dict(),
        dict(dtype="bfloat16"),
        dict(kind="ssm", heads=0),
        dict(kind="maskdit", routes=(), decoder_width=8, decoder_heads=2, decoder_depth=1),
    ],
    ids=["dit", "bfloat16", "ssm", "maskdit"],
)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_estimate_is_no_more_than_what_the_compiler_finds(model, remat, gamma, accumulate):
    train = dict(batch_size=64, accumulate=accumulate)
    built = build(devices=2, model={**model, "remat": remat}, train=train)
    step, arguments = step_of(built, gamma)
    needs = memory.training(arguments[0], built.model, gamma, 64, accumulate, built.mesh)
    found = step.lower(*arguments).compile().memory_analysis()
    assert needs["the tokens of each block"] < found.temp_size_in_bytes
    rest = sum(needs.values()) - needs["the tokens of each block"]
    assert rest <= found.argument_size_in_bytes


def test_the_memory_of_a_host(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "max")
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\nMemFree: 1 kB\nSwapTotal: 1000 kB\n")
    assert memory.host() == 9000 * 1024
    (tmp_path / "max").write_text("4096000\n")  # of a container
    assert memory.host() == 4096000 + 1000 * 1024
    (tmp_path / "max").write_text("max\n")
    assert memory.host() == 9000 * 1024
    (tmp_path / "meminfo").write_text("nothing known\n")
    assert memory.host() > 10**8


@pytest.mark.parametrize(
    "size, words", [(12, "12 bytes"), (3.2e9, "3.2 GB"), (9.99e14, "999 TB"), (5e19, "50,000 PB")]
)
def test_sizes_in_words(size, words):
    assert memory.text(size) == words


@pytest.mark.parametrize(("kernels", "devices"), [("pallas", "TPUs"), ("cudnn", "NVIDIA GPUs")])
def test_kernels_need_their_devices(kernels, devices):
    built = build(train=dict(batch_size=8), model=dict(attention=kernels))  # also for --mode aot
    with pytest.raises(UserError, match=f"attention='{kernels}' is for {devices}.*are cpu.*'auto'"):
        built.check_training()
