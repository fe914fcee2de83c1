"""The classifier that measures images: its shapes, and what its training does to images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.encoders import classifier
from sg_jax.encoders.classifier import Classifier, Recipe, fit, random_mirror, random_shift
from sg_jax.errors import UserError


@pytest.mark.parametrize(
    ("image_shape", "recipe", "blocks"),
    [
        ((8, 8, 1), Recipe(), 2),  # 8 -> 4
        ((28, 28, 1), Recipe(), 4),  # 28 -> 14 -> 7 -> 4
        ((32, 32, 3), Recipe(blocks=2, features=128), 8),  # 32 -> 16 -> 8 -> 4, two at each
        ((64, 48, 3), Recipe(), 5),
    ],
)
def test_network_fits_any_small_image(image_shape, recipe, blocks):
    model = jax.eval_shape(lambda: Classifier(image_shape, 10, recipe, rngs=nnx.Rngs(0)))
    assert len(model.blocks) == blocks
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    found, logits = jax.eval_shape(lambda model, x: model(x), model, images)
    assert found.shape == (2, recipe.features) and logits.shape == (2, 10)


def test_two_networks_have_one_treedef():
    trees = [
        jax.tree.structure(
            jax.eval_shape(
                lambda seed=seed: Classifier((8, 8, 1), 3, Recipe(), rngs=nnx.Rngs(seed))
            )
        )
        for seed in (0, 1)
    ]
    assert trees[0] == trees[1]


def test_random_shift_moves_by_one_pixel_at_most():
    image = jnp.arange(64.0).reshape(8, 8, 1)
    padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), mode="edge")
    allowed = {padded[r : r + 8, c : c + 8].tobytes() for r in range(3) for c in range(3)}
    shifted = random_shift(jax.random.key(0), jnp.repeat(image[None], 100, axis=0))
    assert {np.asarray(each).tobytes() for each in shifted} == allowed


def test_random_mirror_turns_about_half_of_the_images():
    image = jnp.arange(64.0).reshape(8, 8, 1)
    drawn = np.asarray(random_mirror(jax.random.key(0), jnp.repeat(image[None], 200, axis=0)))
    turned = [np.array_equal(each, image[:, ::-1]) for each in drawn]
    assert 80 < sum(turned) < 120
    assert sum(turned) + sum(np.array_equal(each, image) for each in drawn) == 200


def _fit(recipe, log=lambda _: None):
    def batches(parts):
        return ((np.zeros((len(ids), 4, 4, 1), np.uint8), ids % 2) for ids in parts)

    return fit(batches, 8, (4, 4, 1), num_classes=2, recipe=recipe, log=log)


def test_long_training_shows_how_far_it_is(monkeypatch):
    def compiled(*_):
        return lambda key: (jnp.zeros(1), ()), lambda model, state, *_: (model, state, jnp.ones(()))

    lines = []
    monkeypatch.setattr(classifier, "_compiled", compiled)
    monkeypatch.setattr(classifier, "OFTEN", 0.0)
    _fit(Recipe(batch=4, epochs=2), lines.append)
    assert [line.partition(", loss 1.000, ")[0] for line in lines] == [
        f"feature network: {place}"
        for place in ("epoch 1/2, step 1/2", "epoch 1/2", "epoch 2/2, step 1/2", "epoch 2/2")
    ]
    assert lines[-1].endswith(" 0 s left")


@pytest.mark.slow
def test_a_network_that_diverges_measures_nothing():
    with pytest.raises(UserError, match=r"diverged.*config\.features\.learning_rate=1e\+30"):
        _fit(Recipe(width=8, features=2, epochs=3, batch=8, learning_rate=1e30))


@pytest.mark.parametrize("values", [dict(width=4096), dict(width=1024, blocks=100)])
def test_a_network_beyond_all_memory_is_refused_before_it_is_made(values):
    with pytest.raises(UserError, match=r"config\.features\.width=.* takes [\d,]+ GB"):
        _fit(Recipe(**values))
    with pytest.raises(UserError, match=r"width=8000000000 must be"):
        Recipe(width=8_000_000_000)
