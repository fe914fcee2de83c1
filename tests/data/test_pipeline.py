import itertools
import json

import numpy as np
import pytest
from grain.experimental import get_next_index as position

from sg_jax.data import pipeline
from sg_jax.data.pipeline import seek, train_iterator
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError


class Numbers:
    """Ten examples: number i has label i and the pixels [[i, 100 + i]], so a flip shows."""

    name, split, num_classes = "numbers", "train", 10
    image_shape = (1, 2, 1)
    latents = posterior = False

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {"image": np.array([[[i], [100 + i]]], np.uint8), "label": i}


@pytest.fixture(params=["few", "many"])
def order(request, monkeypatch):
    """Read ten examples in the order of a few, and in that of many."""
    monkeypatch.setattr(pipeline, "FEW", 10 if request.param == "few" else 9)


def _batches(count, **arguments):
    arguments = {"batch_size": 4, "seed": 0, "flip": True} | arguments
    return list(itertools.islice(train_iterator(Numbers(), **arguments), count))


def _assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"], strict=True)
        np.testing.assert_array_equal(a["condition"], b["condition"], strict=True)


def test_a_batch_holds_floats_in_pm1_and_their_labels():
    (batch,) = _batches(1, flip=False)
    assert (batch["image"].shape, batch["image"].dtype) == ((4, 1, 2, 1), np.float32)
    assert (batch["condition"].shape, batch["condition"].dtype) == ((4,), np.int32)
    pixels = np.stack([batch["condition"], 100 + batch["condition"]], axis=1)  # [4, 2]
    expected = pixels.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(batch["image"][:, 0, :, 0], expected, rtol=0, atol=1e-6)


def test_an_epoch_has_every_example_once_in_a_new_order(order):
    labels = np.concatenate([b["condition"] for b in _batches(10)])  # 40 examples: four epochs
    epochs = labels.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_seed_decides(order):
    _assert_equal(_batches(5, seed=1), _batches(5, seed=1))
    first, second = (np.concatenate([b["condition"] for b in _batches(5, seed=s)]) for s in (0, 1))
    assert (first != second).any()


def test_half_of_the_images_are_flipped_anew_each_epoch(order):
    batches = _batches(100)  # 400 examples: 40 epochs
    images = np.concatenate([b["image"] for b in batches])  # [400, 1, 2, 1]
    labels = np.concatenate([b["condition"] for b in batches])
    flipped = images[:, 0, 0, 0] > images[:, 0, 1, 0]
    assert 160 < flipped.sum() < 240  # four standard deviations of 10 about 200
    assert all(0 < flipped[labels == i].sum() < 40 for i in range(10))
    unflipped = np.concatenate([b["image"] for b in _batches(100, flip=False)])
    mirrored = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(mirrored, unflipped)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_batch_of_one(order, process_count):
    shares = [
        _batches(6, process_index=p, process_count=process_count) for p in range(process_count)
    ]
    assert all(len(b["condition"]) == 4 // process_count for share in shares for b in share)
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    _assert_equal(joined, _batches(6))


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_together_see_every_example_once_in_an_epoch(process_count):
    shares = [
        _batches(10, process_index=p, process_count=process_count) for p in range(process_count)
    ]
    labels = [[b["condition"] for b in share] for share in shares]  # [process, step, b]
    epochs = np.swapaxes(labels, 0, 1).reshape(4, 10)  # 40 examples, step by step
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (4, 1)))


def test_threads_do_not_matter():
    _assert_equal(_batches(6, threads=0), _batches(6, threads=3))


def test_a_batch_may_be_larger_than_the_data(order):
    (batch,) = _batches(1, batch_size=25)
    assert np.bincount(batch["condition"]).sum() == 25
    assert np.bincount(batch["condition"][:20]).tolist() == [2] * 10


def test_the_position_is_the_step(order):
    whole = _batches(8)
    iterator = train_iterator(Numbers(), batch_size=4, seed=0, flip=True)
    assert position(iterator) == 0
    _assert_equal([next(iterator) for _ in range(3)], whole[:3])
    assert position(iterator) == 3
    seek(iterator, 6)
    assert position(iterator) == 6
    _assert_equal([next(iterator), next(iterator)], whole[6:])
    seek(iterator, 1)
    _assert_equal([next(iterator)], whole[1:2])
    seek(iterator, 2)  # where it is
    _assert_equal([next(iterator)], whole[2:3])
    with pytest.raises(ValueError, match="position=-1"):
        seek(iterator, -1)


def test_a_run_goes_on_with_other_processes():
    whole = _batches(6)
    for p in range(2):
        iterator = train_iterator(
            Numbers(), batch_size=4, seed=0, flip=True, process_index=p, process_count=2
        )
        seek(iterator, 4)
        half = slice(2 * p, 2 * p + 2)
        _assert_equal([next(iterator)], [{k: v[half] for k, v in whole[4].items()}])


def test_the_state_is_the_position():
    iterator = train_iterator(Numbers(), batch_size=4, seed=0, flip=True)
    next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    other = train_iterator(Numbers(), batch_size=4, seed=0, flip=True, threads=0)
    other.set_state(state)
    assert position(other) == 1
    _assert_equal([next(other)], [next(iterator)])


@pytest.mark.slow
def test_workers_read_the_same_from_any_step(digits_dir):
    source = open_source("digits", "train[:50]", str(digits_dir))
    arguments = dict(batch_size=8, seed=3, flip=True)
    whole = list(itertools.islice(train_iterator(source, **arguments), 12))
    iterator = train_iterator(source, workers=2, threads=1, **arguments)
    seek(iterator, 5)
    _assert_equal([next(iterator) for _ in range(5)], whole[5:10])
    assert position(iterator) == 10
    assert type(next(iterator)["image"]) is np.ndarray  # not shared memory, which a close frees
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_unreadable_example_stops_the_iterator(digits_dir, tmp_path, workers):
    source = open_source("digits", "train", str(digits_dir))
    broken = source.__class__(**(vars(source) | {"image_shape": (9, 9, 1)}))
    with pytest.raises(UserError, match=r"image of shape \(8, 8, 1\), not \(9, 9, 1\)"):
        next(train_iterator(broken, batch_size=4, seed=0, workers=workers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=6, process_count=4), r"config\.train\.batch_size=6 .* 4 processes"),
        (dict(batch_size=0), r"config\.train\.batch_size=0"),
        (dict(seed=-1), r"config\.seed=-1"),
        (dict(workers=-1), r"config\.data\.workers=-1"),
        (dict(workers=257), r"config\.data\.workers=257 must be 0 to 256"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        _batches(1, **arguments)
