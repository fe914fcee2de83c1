"""The held-out loss: the same images, times, noise and token ids, whoever computes it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.data.images import to_float
from sg_jax.errors import UserError
from sg_jax.method.objective import FlowMatching
from sg_jax.parallel import sharding
from sg_jax.programs import heldout


@dataclasses.dataclass(frozen=True)
class Split:
    """Random examples."""

    latents: bool = False
    posterior: bool = False
    name: str = "x"
    split: str = "test"
    num_classes: int = 5
    image_shape: tuple = (8, 8, 3)

    def __len__(self):
        return 23

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        if not self.latents:
            return {"image": rng.integers(0, 256, self.image_shape, np.uint8), "label": i % 5}
        image = rng.standard_normal(self.image_shape).astype(np.float16)
        return {"image": image, "std": np.abs(image), "label": i % 5}


def loss_of(model, mesh, source=None, count=10, batch=8, objective=None):
    images = heldout.read(source or Split(), count, batch, 7, mesh)
    placed = jax.device_put(model, sharding.infer(model, mesh))
    program = heldout.compile_sum(objective or FlowMatching(gamma=0.5), placed, mesh)
    return heldout.mean(program, placed, images, mesh), program


def test_it_is_the_objectives_of_evenly_spread_images(small, mesh_of):
    found, program = loss_of(small, mesh_of(1, 1))
    images = [Split()[i * 23 // 10] for i in range(10)]
    base = jax.random.fold_in(jax.random.key(7), heldout.STREAM)
    batch = {
        "image": jnp.asarray(np.stack([to_float(each["image"]) for each in images])),
        "condition": jnp.asarray([each["label"] for each in images]),
    }
    keys = jnp.stack([jax.random.fold_in(base, i) for i in range(10)])
    expected = jax.jit(FlowMatching(gamma=0.5))(small, batch, keys)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)
    assert program._cache_size() == 1  # though the last batch has fewer images


@pytest.mark.slow
def test_it_depends_neither_on_the_batch_nor_on_the_devices(small, mesh_of):
    whole, _ = loss_of(small, mesh_of(1, 1), batch=16)
    parts, _ = loss_of(small, mesh_of(2, 2), batch=4)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_all_images_of_a_small_split_count_once(mesh_of):
    images = heldout.read(Split(), 1000, 8, 7, mesh_of(2, 1))
    numbers = np.concatenate([batch["number"] for batch in images.batches])
    counted = np.concatenate([batch["counted"] for batch in images.batches])
    assert images.count == 23 and len(images.batches) == 3
    np.testing.assert_array_equal(numbers[counted == 1], np.arange(23))
    for batch in images.batches:
        for number, image in zip(batch["number"], batch["image"], strict=True):
            np.testing.assert_array_equal(image, Split()[min(number, 22)]["image"])


def test_latents_are_drawn_once_with_the_same_noise(mesh_of):
    source = Split(latents=True, posterior=True)
    first, again = (heldout.read(source, 8, 8, 7, mesh_of(1, 1)) for _ in range(2))
    other = heldout.read(source, 8, 8, 8, mesh_of(1, 1)).batches[0]["image"]
    np.testing.assert_array_equal(first.batches[0]["image"], again.batches[0]["image"])
    mean = np.stack([source[i * 23 // 8]["image"] for i in range(8)]).astype(np.float32)
    noise = (first.batches[0]["image"] - mean) / np.abs(mean)
    assert first.batches[0]["image"].dtype == np.float32
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert not np.allclose(other, first.batches[0]["image"])


def test_a_damaged_example_is_named(mesh_of):
    @dataclasses.dataclass(frozen=True)
    class Wrong(Split):
        num_classes: int = 3

    with pytest.raises(UserError, match=r"example 4 of split 'test' has label 4"):
        heldout.read(Wrong(), 5, 8, 7, mesh_of(1, 1))
