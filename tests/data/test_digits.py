import numpy as np
from sklearn.datasets import load_digits

from sg_jax.data.sources import open_source


def test_every_sixth_image_of_a_class_is_for_testing(digits_dir):
    train, test = (open_source("digits", split, str(digits_dir)) for split in ("train", "test"))
    labels = load_digits().target
    sixths = sum((labels == c).sum() // 6 for c in range(10))
    assert (len(train), len(test)) == (1797 - sixths, sixths) == (1501, 296)
    # The first six zeros are images 0, 10, 20, 30, 36 and 48.
    assert np.flatnonzero(labels == 0)[5] == 48
    zero = next(example for example in test if example["label"] == 0)
    np.testing.assert_array_equal(zero["image"][..., 0], _pixels(48))


def test_grey_values_16_become_255(digits_dir):
    first = open_source("digits", "train", str(digits_dir))[0]
    assert first["label"] == 0
    assert first["image"].dtype == np.uint8
    np.testing.assert_array_equal(first["image"][..., 0], _pixels(0))
    assert _pixels(0).max() == 239 == round(15 * 255 / 16)


def test_splits_together_are_all_images(digits_dir):
    both = open_source("digits", "train+test", str(digits_dir))
    stored = sorted(example["image"].tobytes() for example in both)
    assert stored == sorted(_pixels(i).tobytes() for i in range(1797))


_IMAGES = load_digits().images


def _pixels(i: int) -> np.ndarray:
    return np.round(_IMAGES[i] * 255 / 16).astype(np.uint8)  # [8, 8]
