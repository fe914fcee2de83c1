"""Prompts to samples: the same image whatever the batch, and features made when they are due."""

import captioned_pictures
import numpy as np
import pytest
import random_weights

from sg_jax.data import asked
from sg_jax.errors import UserError
from sg_jax.method.presets import Named
from sg_jax.models.text_dit import TextDiT
from sg_jax.programs import integration
from sg_jax.programs.sampling import sample, sample_batches

SHAPE = dict(
    image_size=4, channels=3, patch=2, width=16, heads=2, depth=1, routes=(), text_layers=1
)
TEXTS = ["a red circle", "a", "字", "two"]


def network(features):
    return random_weights.network(
        lambda rngs: TextDiT(**SHAPE, text_length=12, text_features=features, rngs=rngs), 0.2
    )


@pytest.fixture(scope="module")
def reader():
    """A network of bytes."""
    return network(0)


@pytest.fixture(scope="module")
def seer():
    """A network of features."""
    return network(2)


def draw(model, wanted, **options):
    given = dict(steps=1, pixels=False, batch_size=2, guidance="cfg") | options
    return sample(model, wanted, **given)


def test_an_image_depends_on_its_prompt_whatever_the_batch(reader):
    whole = draw(reader, TEXTS)
    assert whole.shape == (4, 4, 4, 3)
    before = integration.integrate._cache_size()
    other = draw(reader, ["a blue circle", *TEXTS[1:]])
    np.testing.assert_array_equal(draw(reader, TEXTS[2:], first=2), whole[2:])
    np.testing.assert_array_equal(draw(reader, asked.of_texts(TEXTS)), whole)
    assert integration.integrate._cache_size() == before  # one program for all prompts
    np.testing.assert_array_equal(other[1:], whole[1:])
    assert np.abs(other[0] - whole[0]).max() > 1e-4


@pytest.mark.slow  # two more programs
def test_devices_and_the_batch_size_change_no_sample(reader, mesh_of):
    whole = draw(reader, TEXTS)
    np.testing.assert_allclose(draw(reader, TEXTS, mesh=mesh_of(2, 1)), whole, atol=1e-5)
    np.testing.assert_allclose(draw(reader, TEXTS[:3], batch_size=3), whole[:3], atol=1e-5)


def test_texts_are_encoded_a_batch_at_a_time(seer):
    encoder = captioned_pictures.Encoder()
    batches = sample_batches(
        seer, TEXTS, "cfg", steps=1, pixels=False, batch_size=2, text_encoder=encoder
    )
    assert encoder.seen == [1]  # one text, to see that its features fit
    first = next(batches)
    assert encoder.seen == [1, 2]
    images = np.concatenate([first, *batches])
    assert encoder.seen == [1, 2, 2]
    np.testing.assert_array_equal(images, draw(seer, encoder(TEXTS)))
    np.testing.assert_array_equal(images, draw(seer, asked.of_features(encoder(TEXTS))))


def test_an_encoder_that_the_network_was_not_trained_with_is_refused(seer):
    own = captioned_pictures.Encoder()
    seer.named = Named(encoder=own.fingerprint())
    try:
        assert draw(seer, TEXTS, text_encoder=own).shape == (4, 4, 4, 3)
        with pytest.raises(UserError, match=r"text_encoder='b/c' is not the encoder.*\(fe, not 01"):
            draw(seer, TEXTS, text_encoder=captioned_pictures.Encoder("b/c", fingerprint="fe"))
    finally:
        seer.named = Named()


def test_how_many_prompts_are_cut_is_said(reader, seer, capsys):
    said = "2 prompts are longer than 12 {} and cut; the first is number 1.\n"
    wanted = ["a", "x" * 13, "a", "y" * 14]
    draw(reader, (text for text in wanted))
    assert capsys.readouterr().out == said.format("bytes")
    draw(seer, wanted, text_encoder=captioned_pictures.Encoder())
    assert capsys.readouterr().out == said.format("tokens")
    draw(reader, TEXTS)
    assert capsys.readouterr().out == ""


def test_what_is_no_prompt(reader, seer):
    encoder = captioned_pictures.Encoder()
    for wanted, said in (
        ("a circle", r"must be a list of texts"),
        ([1], r"\[0\]=1 must be a text"),
        (["a", None], r"\[1\]=None must be a text"),
        (encoder(["a"]), r"has the shape \[1, 12, 2\].*12 bytes"),
    ):
        with pytest.raises(UserError, match=said):
            draw(reader, wanted)
    for wanted, said in (
        (["a"], "give text_encoder"),
        (captioned_pictures.Encoder(length=9)(["a"]), r"\[1, 9, 2\].*must be \[B, 12, 2\]"),
        ({"text": np.full((1, 12, 2), np.nan), "length": [1]}, r"\[0\] has NaN"),
    ):
        with pytest.raises(UserError, match=said):
            draw(seer, wanted)
    for wanted in ("a", [1], [], 5):
        with pytest.raises(UserError, match="must be a list of texts for the text_encoder"):
            draw(seer, wanted, text_encoder=encoder)
    with pytest.raises(
        UserError, match=r"text_encoder=5 must be one that sg_jax.load_text_encoder"
    ):
        draw(seer, ["a"], text_encoder=5)
    with pytest.raises(UserError, match="cannot be counted"):
        draw(reader, ["a"], guidance="icg")
