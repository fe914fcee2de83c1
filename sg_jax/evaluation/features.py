"""Turn images into features and class probabilities, with a network stored on disk."""

import dataclasses
import functools
import io
import os
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from sg_jax.encoders.classifier import Classifier, Recipe, fit, to_unit_range
from sg_jax.errors import UserError
from sg_jax.evaluation.fingerprint import Fingerprint, fingerprint_of
from sg_jax.evaluation.reading import Reader, check_images, in_parts
from sg_jax.runs import arrays, files

FOR_DIGITS = Recipe()
BATCH = 256


def _silent(_: str) -> None:
    pass


class Unusable(UserError):
    """There is no usable feature network, so one may be trained."""


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A trained feature network.

    Attributes:
      model: the classifier.
      test_accuracy: share of the test images that it labels correctly, 0..1.
      fingerprint: what it was made from.
    """

    model: Classifier
    test_accuracy: float
    fingerprint: Fingerprint

    @functools.cached_property
    def digest(self) -> str:
        """Eight hex digits of the weights; results with equal digests can be compared."""
        crc = zlib.crc32(self.fingerprint.to_json().encode())
        for _, leaf in _named_leaves(self.model):
            crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
        return f"{crc:08x}"

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute features and class probabilities in one pass.

        Args:
          images: uint8 [N, H, W, C], in the shape that the network was trained on.

        Returns:
          float32 features [N, F] and float32 probabilities [N, num_classes].

        Raises:
          UserError: the images have another type or shape.
        """
        check_images("images", images, self.fingerprint.image_shape)
        outputs = []
        for start in range(0, max(len(images), 1), BATCH):
            part = images[start : start + BATCH]
            # Padded to one shape, so that any number of images uses the same compiled program.
            padded = np.zeros((BATCH, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            outputs.append([out[: len(part)] for out in _score_batch(self.model, padded)])
        features, probabilities = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return features, probabilities

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the hidden layer's activations, float32 [N, F]; see `score`."""
        return self.score(images)[0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the class probabilities, float32 [N, num_classes]; see `score`."""
        return self.score(images)[1]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the most probable class of each image, int [N]; see `score`."""
        return self.probabilities(images).argmax(axis=-1)

    def save(self, path: str | os.PathLike) -> epath.Path:
        """Write weights, accuracy and fingerprint to one .npz file, completely or not at all."""
        parts: dict[str, Any] = {
            "fingerprint": np.array(self.fingerprint.to_json()),
            "test_accuracy": np.float64(self.test_accuracy),
            **{name: np.asarray(leaf) for name, leaf in _named_leaves(self.model)},
        }
        buffer = io.BytesIO()
        np.savez(buffer, **parts)
        return files.write_atomically(path, buffer.getvalue())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        expect: Fingerprint | None = None,
        recipe: Recipe | None = None,
    ) -> "Scorer":
        """Read what `save` wrote.

        Args:
          path: the .npz file.
          expect: the fingerprint that the file must have; None allows any.
          recipe: the recipe that it must have; None allows any.

        Returns:
          A Scorer that scores exactly like the saved one.

        Raises:
          Unusable: the file is missing or damaged, or was made from something else.
          UserError: the file cannot be reached.
        """
        try:
            content = arrays.read_bytes(files.path(path))
        except FileNotFoundError:
            raise Unusable(f"There is no feature network at {path}: train one.") from None
        except OSError as error:  # the file may be intact
            raise UserError(f"The feature network at {path} cannot be reached: {error}.") from None
        try:
            found = arrays.from_npz(content)
            fingerprint = Fingerprint.from_json(str(found["fingerprint"]))
        except Exception as error:  # one flipped byte of a zip file raises many kinds of errors
            raise _unreadable(path, error) from error
        # Checked before the network is built, because another recipe may be of any size.
        wanted = expect
        if wanted is None and recipe is not None:
            wanted = dataclasses.replace(fingerprint, recipe=recipe)
        if wanted is not None and fingerprint != wanted:
            raise Unusable(
                f"The feature network at {path} was made from something else: "
                f"{wanted.differences(fingerprint)}."
            )
        try:
            accuracy = float(found["test_accuracy"])
            empty = jax.eval_shape(functools.partial(_new_model, fingerprint))
            leaves = [_take(found, name, leaf.shape) for name, leaf in _named_leaves(empty)]
        except Exception as error:  # a file of another version, or someone else's
            raise _unreadable(path, error) from error
        model = jax.tree.unflatten(jax.tree.structure(empty), leaves)
        return cls(model, accuracy, fingerprint)


def train_classifier(
    train: Reader,
    test: Reader,
    *,
    num_classes: int,
    name: str = "unnamed",
    recipe: Recipe = FOR_DIGITS,
    log: Callable[[str], None] = _silent,
) -> Scorer:
    """Train the feature network and measure it on images it has not seen.

    Args:
      train: the training images, with labels in 0..num_classes - 1.
      test: the test images.
      num_classes: number of classes.
      name: name of the data set, for the fingerprint.
      recipe: size, training and seed.
      log: called with each line of progress.

    Returns:
      The Scorer.

    Raises:
      UserError: images or labels do not fit; see `fingerprint_of`.
    """
    fingerprint = fingerprint_of(train, test, num_classes=num_classes, name=name, recipe=recipe)
    return _train(train, test, fingerprint, log)


def _train(train: Reader, test: Reader, made_from: Fingerprint, log) -> Scorer:
    if made_from.checked:
        log(f"feature network: its data is known from {made_from.checked:,} evenly spaced images")
    if made_from.num_classes == 1:
        log(
            "feature network: with one class there is nothing to learn, so its features are those "
            "of random weights, and its accuracy is always 100%. Metrics of other networks say "
            "more, such as config.evaluate.metrics=fid or fd_dinov2."
        )
    model = fit(
        train.batches,
        len(train),
        train.image_shape,
        num_classes=made_from.num_classes,
        recipe=made_from.recipe,
        log=log,
    )
    untested = Scorer(model, float("nan"), made_from)
    right = sum(
        int(np.sum(untested.predict(images) == labels))
        for images, labels in test.batches(in_parts(np.arange(len(test))))
    )
    accuracy = right / len(test)
    log(f"feature network: {accuracy:.1%} of {len(test)} test images right")
    return dataclasses.replace(untested, test_accuracy=accuracy)


def cached_scorer(
    path: str | os.PathLike,
    train: Reader,
    test: Reader,
    *,
    num_classes: int,
    name: str = "unnamed",
    recipe: Recipe = FOR_DIGITS,
    log: Callable[[str], None] = _silent,
    replace: bool = True,
) -> Scorer:
    """Load the feature network from `path`, or train it and save it there.

    A file that is damaged, or was made from other data or another recipe, is replaced if `replace`
    allows it, and the reason is logged.

    Args:
      path: the .npz file. Other arguments are those of `train_classifier`.
      replace: whether a file may be replaced.

    Returns:
      The Scorer.

    Raises:
      UserError: as in `train_classifier`; or a file cannot be reached or must not be replaced.
    """
    expect = fingerprint_of(train, test, num_classes=num_classes, name=name, recipe=recipe)
    try:
        scorer = Scorer.load(path, expect=expect)
        log(f"feature network: read from {path}, {scorer.test_accuracy:.1%} of test images right")
        return scorer
    except Unusable as reason:
        if not replace and files.path(path).exists():
            raise UserError(
                f"{reason} It is not replaced: give another path, or delete it."
            ) from None
        log(f"feature network: training it now. {reason}")
    scorer = _train(train, test, expect, log)
    scorer.save(path)
    return scorer


@jax.jit
def _score_batch(model: Classifier, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    # TPUs multiply in bfloat16 by default, but a distance should not depend on the machine.
    with jax.default_matmul_precision("float32"):
        features, logits = model(to_unit_range(images))
    return features, jax.nn.softmax(logits)


def _new_model(fingerprint: Fingerprint) -> Classifier:
    return Classifier(
        fingerprint.image_shape, fingerprint.num_classes, fingerprint.recipe, rngs=nnx.Rngs(0)
    )


def _named_leaves(model: Classifier) -> list[tuple[str, jax.Array]]:
    return [(jax.tree_util.keystr(path), x) for path, x in jax.tree.leaves_with_path(model)]


def _take(found: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> jax.Array:
    array = found[name]
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape} instead of {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return jax.device_put(array.astype(np.float32))


def _unreadable(path: str | os.PathLike, error: Exception) -> Unusable:
    return Unusable(
        f"The feature network at {path} cannot be read ({type(error).__name__}: {error}): train a "
        "new one."
    )
