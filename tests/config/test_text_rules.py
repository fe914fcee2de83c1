"""What a config of a network of texts may say, and what its geometry follows from."""

import pytest

from sg_jax.config import experiment, geometry, tree
from sg_jax.data.wording import Wording
from sg_jax.errors import UserError

SHAPE = dict(depth=2, width=16, heads=2, patch=4, image_size=8, channels=3, routes=((1, 1),))


@pytest.fixture
def config():
    """Sections -> a config of a small network of texts."""

    def make(kind="text_dit", model=None, **sections):
        found = tree.defaults()
        found.model.update(dict(kind=kind, **SHAPE) | (model or {}))
        found.train.update(batch_size=8)
        for name, values in sections.items():
            found[name].update(values)
        return found

    return make


def test_the_length_of_texts_is_that_of_the_config(config):
    made = geometry.fill_geometry(config(text=dict(length=24)))
    assert made.model.text_length == 24 and made.model.text_features == 0
    built = experiment.build(made)
    assert built.wording == Wording(24) and built.blank(3)["text"].shape == (3, 24)
    with pytest.raises(UserError, match=r"text_length=9 differs from config\.text\.length=24"):
        geometry.fill_geometry(config(model=dict(text_length=9), text=dict(length=24)))


def test_the_words_of_texts_are_those_of_the_config(config):
    made = geometry.fill_geometry(config(text=dict(length=24, words=5)))
    assert made.model.text_words == 5
    assert experiment.build(made).wording == Wording(24, words=5)
    with pytest.raises(UserError, match=r"text_words=9 differs from config\.text\.words=5"):
        geometry.fill_geometry(config(model=dict(text_words=9), text=dict(length=24, words=5)))
    with pytest.raises(UserError, match=r"words=5 has no effect: encoder='a/b'"):
        experiment.build(
            geometry.complete(
                config(text=dict(encoder="a/b", length=24, words=5)), (8, 8, 3), 2, features=5
            )
        )


def test_the_features_are_those_of_the_data(config):
    given = config(text=dict(encoder="a/b", length=24))
    assert not geometry.is_known(given) and geometry.is_known(config())
    made = geometry.complete(given, (8, 8, 3), 2, features=5)
    assert experiment.build(made).wording == Wording(24, 5)
    with pytest.raises(UserError, match="text_features=6 differs from the data's 5"):
        changed = config(model=dict(text_features=6), text=dict(encoder="a/b", length=24))
        geometry.complete(changed, (8, 8, 3), 2, features=5)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (dict(sample=dict(labels=(1,))), r"config\.sample\.labels=\(1,\) has no effect.*--prompts"),
        (
            dict(evaluate=dict(labels="uniform")),
            r"config\.evaluate\.labels='uniform' has no effect",
        ),
        (dict(text=dict(prefix="x")), r"prefix='x' has no effect: encoder='bytes'"),
        (
            dict(sample=dict(guidance="icg"), train=dict(then=("sample",))),
            r"config\.guidance\.icg\.weak_label='random' .* cannot be counted",
        ),
    ],
)
def test_what_has_no_effect_on_texts(config, sections, said):
    with pytest.raises(UserError, match=said):
        experiment.build(geometry.fill_geometry(config(**sections)))


def test_a_network_of_classes_reads_no_texts(config):
    classes = dict(num_classes=2)
    built = experiment.build(geometry.fill_geometry(config("dit", classes)))
    assert built.wording is None and built.texts is None and built.blank(3).shape == (3,)
    with pytest.raises(
        UserError, match=r"config\.text\.length=9 has no effect: .*'dit' reads class"
    ):
        experiment.build(geometry.fill_geometry(config("dit", classes, text=dict(length=9))))
