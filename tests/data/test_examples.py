"""What is found as examples are read: numbers that are not finite, shapes, labels out of range."""

import dataclasses

import numpy as np
import pytest

from sg_jax.data.checks import Checked, fault, unreadable
from sg_jax.data.pipeline import train_iterator
from sg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Examples:
    """Latents from outside TFDS; example 7 is what a test makes of it."""

    changes: dict
    name: str = "memory"
    split: str = "train"
    num_classes: int = 3
    image_shape: tuple = (2, 2, 1)
    latents: bool = True
    posterior: bool = True

    def __len__(self):
        return 10

    def __getitem__(self, i):
        ones = np.ones(self.image_shape, np.float16)
        example = {"image": ones, "std": ones, "label": i % 3}
        return {**example, **self.changes} if i == 7 else example


def _one(value):
    array = np.ones((2, 2, 1), np.float16)
    array[1, 0, 0] = value
    return array


WRONG = [
    (dict(image=_one(np.nan)), r"latents that are not finite \(nan at \(1, 0, 0\)\)"),
    (dict(image=_one(-np.inf)), r"latents that are not finite \(-inf at"),
    (dict(std=_one(np.nan)), r"standard deviations that are not finite"),
    (dict(std=_one(-0.5)), r"a standard deviation of -0\.5, which must not be negative"),
    (dict(image=np.ones((3, 2, 1), np.float16)), r"latents of shape \(3, 2, 1\), not \(2, 2, 1\)"),
    (dict(image=np.ones((2, 2, 1))), r"latents of type float64.* float16 or float32"),
    (dict(image=None), r"latents of type NoneType"),
    (dict(std=[1.0]), r"standard deviations of type list"),
    (dict(label=3), r"label 3; labels must be 0 to 2"),
    (dict(label=-1), r"label -1"),
    (dict(label=None), r"label None"),
    (dict(label=1.0), r"label 1\.0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_wrong_example_stops_the_iterator_and_is_named(changes, message):
    source = Examples(changes)
    assert not fault(source[6], source)
    with pytest.raises(
        UserError, match=rf"name='memory': example 7 of split 'train' has {message}"
    ):
        batches = train_iterator(source, batch_size=5, seed=0, threads=0)
        [next(batches) for _ in range(2)]


def test_pixels_are_uint8():
    floats = np.zeros((2, 2, 1), np.float32)
    pixels = Examples({}, latents=False, posterior=False)
    assert fault({"image": floats, "label": 0}, pixels) == (
        "has an image of type float32, which must be uint8"
    )
    assert not fault({"image": floats.astype(np.uint8), "label": np.int64(2)}, pixels)


def test_reading_everything_finds_each_wrong_example():
    seen = []
    found = list(unreadable(Checked(Examples(dict(label=3))), seen.append))
    assert [i for i, _ in found] == [7] and "label 3" in str(found[0][1])
    assert seen == [10]
    assert not list(unreadable(Checked(Examples({})), seen.append))
