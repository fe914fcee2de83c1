"""Latents that a network draws are decoded by an autoencoder that fits and stays where it is."""

import copy
import dataclasses

import jax
import numpy as np
import pytest
from published import golden

import sg_jax
from sg_jax.data.origin import Maker
from sg_jax.errors import UserError
from sg_jax.method.presets import Named
from sg_jax.parallel import sharding
from sg_jax.programs import decoding


@pytest.fixture(scope="module")
def tae():
    """A tiny autoencoder: 16 channels, factor 8."""
    return sg_jax.load_autoencoder(golden("tae_tiny")[1])


def test_an_autoencoder_that_is_on_the_device_is_not_moved(tae):
    """A network is drawn in many calls; each of them places the autoencoder."""
    placed = decoding.place(tae, sharding.one_device())
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (tae, placed)), strict=True))


def test_weights_are_hashed_once_and_not_in_each_call(make_small, tae, monkeypatch):
    """Those of SD have 335 MB."""
    model, hashed = copy.copy(make_small(channels=tae.channels)), []
    model.named = Named(maker=Maker("vae", "1", tae.scale, tae.shift, tae.factor))
    monkeypatch.setattr(type(tae), "fingerprint", lambda self: hashed.append(1) or "2")
    for _ in range(3):
        decoding.check(tae, model)
    assert hashed == [1]


def test_an_autoencoder_is_copied_to_all_devices(tae):
    mesh = sharding.make_mesh()
    placed = decoding.place(tae, mesh)
    for before, after in zip(*map(jax.tree.leaves, (tae, placed)), strict=True):
        assert after.is_fully_replicated and after.devices() == set(mesh.devices.flat)
        np.testing.assert_array_equal(after, before)


def test_latents_are_decoded_with_the_scale_that_they_were_made_with(make_small, tae, capsys):
    model, tae = copy.copy(make_small(channels=tae.channels)), copy.copy(tae)
    tae.scale = 2.0  # with 1, it would decode whatever the scale of the one it was distilled from
    made = Maker("vae", tae.fingerprint(), tae.scale, tae.shift, tae.factor)
    for change, words in (
        (
            dict(scale=0.5),
            r"scale 2, but .* made by vae with 0\.5.*load_autoencoder\(\.\.\., scale",
        ),
        (dict(shift=0.25), r"shift 0, but .* with 0\.25"),
        (dict(factor=4), r"factor 8, but .* with 4: give that one\."),
    ):
        model.named = Named(maker=dataclasses.replace(made, **change))
        with pytest.raises(UserError, match=words):
            sg_jax.sample(model, [0], autoencoder=tae)
    other = dataclasses.replace(made, fingerprint="0")
    for maker in (None, made, other):
        model.named = Named(maker=maker)
        for _ in range(2):
            decoding.check(tae, model)
        assert capsys.readouterr().out.count("latents were made by vae") == (maker is other)
