"""The feature network: what it learns, what it returns, and how its file is trusted."""

import dataclasses
import zlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import UserError
from sg_jax.evaluation import features, fingerprint, reading
from sg_jax.evaluation.features import Scorer, cached_scorer, train_classifier
from sg_jax.evaluation.reading import Reader

SMALL = Recipe(width=8, features=16, epochs=2, batch=32)


@pytest.fixture(scope="module")
def digits():
    """Training images and labels, then every sixth digit and its label."""
    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    test = np.arange(len(images)) % 6 == 5
    return images[~test], data.target[~test], images[test], data.target[test]


@pytest.fixture(scope="module")
def few(digits):
    """Enough to train `SMALL` in no time."""
    return tuple(array[:64] for array in digits)


def readers(images, labels, test_images, test_labels):
    """Return what gives these training and test images by index."""
    pairs = ((images, labels), (test_images, test_labels))
    return [
        Reader([dict(image=x, label=y) for x, y in zip(*pair, strict=True)], name)
        for pair, name in zip(pairs, ("images", "test_images"), strict=True)
    ]


def test_one_class_teaches_nothing_and_the_log_says_so(few, monkeypatch):
    lines = []
    monkeypatch.setattr(features, "fit", lambda *args, **kwargs: 1 / 0)
    zeros = [few[0], 0 * few[1], few[2], 0 * few[3]]
    for labels, count, told in ((few, 10, 0), (zeros, 1, 1)):
        with pytest.raises(ZeroDivisionError):
            train_classifier(*readers(*labels), num_classes=count, recipe=SMALL, log=lines.append)
        assert sum("with one class there is nothing to learn" in line for line in lines) == told


@pytest.fixture(scope="module")
def scorer(few):
    return train_classifier(*readers(*few), num_classes=10, name="digits", recipe=SMALL)


@pytest.mark.slow
def test_learns_the_digits(digits):
    lines = []
    # A fifth of the default's epochs, which reach 98% and more.
    scorer = train_classifier(
        *readers(*digits), num_classes=10, recipe=Recipe(epochs=6), log=lines.append
    )
    assert scorer.test_accuracy > 0.93
    assert scorer.test_accuracy == np.mean(scorer.predict(digits[2]) == digits[3])
    assert f"{scorer.test_accuracy:.1%} of 299 test images" in lines[-1]


def test_scores_have_their_shapes_and_sum_to_one(scorer, few):
    found, probabilities = scorer.score(few[0])
    assert found.shape == (64, 16) and found.dtype == np.float32
    assert probabilities.shape == (64, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(scorer.features(few[0]), found)
    np.testing.assert_array_equal(scorer.predict(few[0]), probabilities.argmax(axis=1))


def test_any_number_of_images_compiles_once_and_scores_the_same(scorer, digits):
    images = digits[0][: features.BATCH + 3]
    found = scorer.features(images)
    compiled = features._score_batch._cache_size()
    for count in (0, 1, 7, features.BATCH):
        np.testing.assert_array_equal(scorer.features(images[:count]), found[:count])
    assert features._score_batch._cache_size() == compiled


@pytest.mark.slow
def test_training_is_repeatable_and_the_seed_matters(scorer, few):
    again, other = (
        train_classifier(
            *readers(*few),
            num_classes=10,
            name="digits",
            recipe=dataclasses.replace(SMALL, seed=seed),
        )
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(again.features(few[0]), scorer.features(few[0]))
    assert np.abs(other.features(few[0]) - scorer.features(few[0])).max() > 1e-3


@pytest.mark.slow
def test_a_mirroring_network_is_trained_on_other_images(few, scorer):
    recipe = dataclasses.replace(SMALL, mirror=True)
    other = train_classifier(*readers(*few), num_classes=10, name="digits", recipe=recipe)
    assert np.abs(other.features(few[0]) - scorer.features(few[0])).max() > 1e-3
    assert other.digest != scorer.digest


def test_saved_and_loaded_scores_are_equal(scorer, few, tmp_path):
    path = scorer.save(tmp_path / "new" / "network.npz")
    loaded = Scorer.load(path, expect=scorer.fingerprint)
    np.testing.assert_array_equal(loaded.features(few[2]), scorer.features(few[2]))
    assert loaded.test_accuracy == scorer.test_accuracy
    assert loaded.fingerprint == scorer.fingerprint
    assert [file.name for file in path.parent.iterdir()] == ["network.npz"]


def test_load_names_what_differs(scorer, tmp_path):
    path = scorer.save(tmp_path / "network.npz")
    recipe = dataclasses.replace(SMALL, epochs=9)
    other = dataclasses.replace(scorer.fingerprint, name="letters", recipe=recipe)
    with pytest.raises(UserError, match="name digits instead of letters, epochs 2 instead of 9"):
        Scorer.load(path, expect=other)
    with pytest.raises(UserError, match="no feature network at"):
        Scorer.load(tmp_path / "absent.npz")


def _cached(path, few, **changes):
    lines = []
    options = {"num_classes": 10, "name": "digits", "recipe": SMALL, **changes}
    return cached_scorer(path, *readers(*few), **options, log=lines.append), "\n".join(lines)


def test_cache_trains_once(few, scorer, tmp_path):
    path = tmp_path / "network.npz"
    first, said = _cached(path, few)
    assert "training it now. There is no" in said
    second, said = _cached(path, few)
    assert "read from" in said and "training" not in said
    for each in (first, second):
        np.testing.assert_array_equal(each.features(few[0]), scorer.features(few[0]))


def _flip(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "flipped weight": lambda content: _flip(content, len(content) // 2),
    # Bit 0 eight bytes into an entry of a zip's directory says that the file is encrypted.
    "flipped flag": lambda content: _flip(content, content.rindex(b"PK\x01\x02") + 8),
    "empty": lambda _: b"",
    "foreign": lambda _: b"not a network",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_cache_is_replaced(damage, few, scorer, tmp_path):
    path = scorer.save(tmp_path / "network.npz")
    path.write_bytes(damage(path.read_bytes()))
    found, said = _cached(path, few)
    assert "training it now" in said and "cannot be read" in said
    np.testing.assert_array_equal(found.features(few[0]), scorer.features(few[0]))
    assert "read from" in _cached(path, few)[1]


def test_a_recipe_of_any_size_is_not_built(scorer, tmp_path):
    """Whoever wrote the file could otherwise make a reader build a hundred layers."""
    path = scorer.save(tmp_path / "network.npz")
    with np.load(path) as file:
        parts = {name: file[name] for name in file.files}
    recipe = dataclasses.replace(SMALL, blocks=100)
    deep = dataclasses.replace(scorer.fingerprint, recipe=recipe)
    np.savez(path, **{**parts, "fingerprint": np.array(deep.to_json())})
    with pytest.raises(UserError, match="blocks 100 instead of 1"):
        Scorer.load(path, recipe=SMALL)
    with pytest.raises(UserError, match="blocks 100 instead of 1"):
        Scorer.load(path, expect=scorer.fingerprint)
    name = next(name for name in parts if name.startswith("."))
    np.savez(path, **{**parts, name: np.full_like(parts[name], np.nan)})
    with pytest.raises(UserError, match=r"cannot be read .*NaN"):
        Scorer.load(path, recipe=SMALL)
    np.savez_compressed(path, **parts)
    with pytest.raises(UserError, match=r"cannot be read .*compressed"):
        Scorer.load(path)


def test_what_may_not_be_replaced_is_left_as_it_is(few, scorer, tmp_path):
    arrays, path = readers(*few), tmp_path / "samples.npz"
    options = dict(num_classes=10, name="digits", recipe=SMALL, replace=False)
    np.savez(path, images=np.zeros(3))
    content = path.read_bytes()
    with pytest.raises(UserError, match=r"cannot be read.* It is not replaced"):
        cached_scorer(path, *arrays, **options)
    assert path.read_bytes() == content
    scorer.save(path)
    other = dataclasses.replace(SMALL, seed=1)
    with pytest.raises(UserError, match=r"seed 0 instead of 1.* It is not replaced"):
        cached_scorer(path, *arrays, **{**options, "recipe": other})
    with pytest.raises(UserError, match="cannot be reached"):
        cached_scorer(tmp_path, *arrays, **options)


@pytest.mark.slow
def test_cache_of_other_data_is_replaced(few, scorer, tmp_path):
    path = scorer.save(tmp_path / "network.npz")
    images = few[0].copy()
    images[0, 0, 0, 0] ^= 1
    assert "data_crc" in _cached(path, (images, *few[1:]))[1]
    other = dataclasses.replace(SMALL, seed=1)
    assert "seed 0 instead of 1" in _cached(path, (images, *few[1:]), recipe=other)[1]
    few32 = (few[0], few[1].astype(np.int32), few[2], few[3].astype(np.int32))
    scorer.save(path)
    assert "read from" in _cached(path, few32)[1]


def test_training_by_batches_is_bit_for_bit_that_on_kept_images(few, scorer, monkeypatch):
    monkeypatch.setattr(reading, "KEEP_BYTES", 0)
    train, test = readers(*few)
    assert not train.keeps
    other = train_classifier(train, test, num_classes=10, name="digits", recipe=SMALL)
    assert other.digest == scorer.digest and other.test_accuracy == scorer.test_accuracy


def test_the_fingerprint_is_of_all_pixels_then_all_labels(few, scorer):
    images, labels, test_images, test_labels = few
    crc = 0
    for array in (images, test_images, labels.astype(np.int64), test_labels.astype(np.int64)):
        crc = zlib.crc32(np.ascontiguousarray(array), crc)
    assert scorer.fingerprint.data_crc == crc and scorer.fingerprint.checked == 0
    assert "checked" not in scorer.fingerprint.to_json()  # digests are of this text


def test_the_fingerprint_of_many_images_is_of_some(few, monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST", 50)
    monkeypatch.setattr(fingerprint, "SOME", 8)
    lines = []
    found = train_classifier(*readers(*few), num_classes=10, recipe=SMALL, log=lines.append)
    some = [array[np.arange(8) * 8] for array in few]
    crc = 0
    for array in (some[0], some[2], some[1].astype(np.int64), some[3].astype(np.int64)):
        crc = zlib.crc32(np.ascontiguousarray(array), crc)
    made_from = found.fingerprint
    assert (made_from.data_crc, made_from.checked, made_from.train_images) == (crc, 8, 64)
    assert fingerprint.Fingerprint.from_json(made_from.to_json()) == made_from
    assert "known from 8 evenly spaced images" in lines[0]


def test_bad_arguments_are_refused(few, scorer):
    images, labels, test_images, test_labels = few

    def train(*arrays):
        return train_classifier(*readers(*arrays), num_classes=10, recipe=SMALL)

    with pytest.raises(UserError, match=r"images is float32 \[1, 8, 8, 1\]; it must be uint8"):
        train(images.astype(np.float32), labels, test_images, test_labels)
    with pytest.raises(UserError, match=r"test_images has images \[4, 8, 1\] .*\[8, 8, 1\]"):
        train(images, labels, test_images[:, :4], test_labels)
    with pytest.raises(UserError, match=r"labels of images run from 1 to 10; .*0\.\.9"):
        train(images, labels + 1, test_images, test_labels)
    with pytest.raises(UserError, match="test_images is empty"):
        train(images, labels, test_images[:0], test_labels[:0])
    odd = [*({"image": x, "label": 0} for x in images[:3]), {"image": images[3, :4], "label": 0}]
    with pytest.raises(UserError, match=r"\[1, 4, 8, 1\]; it must be uint8 \[N, 8, 8, 1\]"):
        Reader(odd).read([0, 3])
    with pytest.raises(UserError, match=r"\[N, 8, 8, 1\]"):
        scorer.score(images[..., 0])
    with pytest.raises(UserError, match=r"features\.width=12 must be a positive multiple of 8"):
        Recipe(width=12)
    with pytest.raises(UserError, match=r"features\.epochs=0"):
        Recipe(epochs=0)
