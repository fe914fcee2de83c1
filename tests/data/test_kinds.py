"""A kind of data set from outside: one row in KINDS, and training reads it like any other."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest

from sg_jax.config import experiment, geometry, parsing
from sg_jax.data import sources
from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import Kind, open_source
from sg_jax.errors import UserError
from sg_jax.parallel import sharding
from sg_jax.programs.training import init_state


@dataclasses.dataclass(frozen=True)
class Memory:
    """Example i is a grey image of value i, and its label is odd or even."""

    name: str
    split: str
    count: int
    image_shape: tuple[int, int, int]
    num_classes: int = 2
    class_names: tuple[str, ...] = ("even", "odd")
    latents: bool = False
    posterior: bool = False

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return {"image": np.full(self.image_shape, i, np.uint8), "label": i % 2}


def open_memory(name, split, data_dir, image_size):
    if split != "train":
        raise UserError(f"config.data.split={split!r} of {name!r} must be 'train'.")
    size = image_size or 8
    return Memory(name, split, int(name.removeprefix("memory:")), (size, size, 1))


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    kind = Kind(
        "memory:COUNT: that many grey images", lambda name: name.startswith("memory:"), open_memory
    )
    monkeypatch.setattr(sources, "KINDS", [kind, *sources.KINDS])


def test_a_name_is_opened_by_the_kind_that_claims_it(digits_dir):
    source = open_source("memory:12", "train", image_size=4)
    assert (len(source), source.image_shape, source[3]["label"]) == (12, (4, 4, 1), 1)
    assert type(open_source("digits", "train", str(digits_dir))) is not Memory
    with pytest.raises(UserError, match="'test' of 'memory:12' must be"):
        open_source("memory:12", "test")


def test_a_name_that_nobody_knows_hears_of_all_kinds(digits_dir):
    with pytest.raises(UserError, match=r"'memry:12' is neither .* Or: memory:COUNT: that many"):
        open_source("memry:12", "train", str(digits_dir))


def test_an_epoch_has_each_of_its_examples(digits_dir):
    source = pickle.loads(pickle.dumps(open_source("memory:12", "train")))
    batches = train_iterator(source, batch_size=6, seed=0)
    images = np.concatenate([next(batches)["image"], next(batches)["image"]])
    values = np.rint((images[:, 0, 0, 0] + 1) * 127.5)
    np.testing.assert_array_equal(np.sort(values), np.arange(12))


@pytest.mark.slow
def test_training_takes_a_step_on_it():
    source = open_source("memory:12", "train")
    given = parsing.merge(
        dict(
            data=dict(name="memory:12"),
            model=dict(depth=2, width=8, heads=2, patch=4),
            objective=dict(gamma=0.0),
            train=dict(batch_size=8),
            mesh=dict(data=1),
        )
    )
    completed = geometry.complete(given, source.image_shape, source.num_classes)
    built = experiment.build(completed, jax.devices()[:1])
    state = init_state(built.make_model, built.tx, built.mesh, jax.random.key(0))
    batch = sharding.to_global(next(built.batches(source)), built.mesh)
    step = built.compile_train_step(0.0, state)
    state, metrics = step(state, batch, jax.random.key(1))
    assert int(state.step) == 1 and np.isfinite(metrics["loss"])
