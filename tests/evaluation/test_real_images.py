"""Scores say which real images they compare with, where the digest of no network says it."""

import types

import pytest

from sg_jax.config import record
from sg_jax.config.sections import Data, Evaluate
from sg_jax.evaluation import real_images


def config(split="train", images=""):
    return types.SimpleNamespace(data=Data(name="d", split=split), evaluate=Evaluate(images=images))


@pytest.fixture
def run(monkeypatch):
    """The config of a run -> a function of another config and an origin: what is said of it."""

    def of(saved):
        monkeypatch.setattr(record, "is_run", lambda workdir: True)
        monkeypatch.setattr(record, "read", lambda workdir: (saved, ()))

        def said(given, origin=None):
            origin = origin and types.SimpleNamespace(images=dict(name=origin))
            source = types.SimpleNamespace(latents=origin is not None, origin=origin)
            return real_images.unlike_run(given, source, "run")

        return said

    return of


def test_those_of_the_run_are_not_named(run, tmp_path):
    assert run(config())(config()) == ""
    assert run(config())(config(images="pixels"), origin="pixels") == ""
    assert run(config(images="others"))(config(images="others"), origin="pixels") == ""


def test_others_are_named(run):
    assert run(config())(config("test")) == "split test"
    assert run(config())(config(images="others"), origin="pixels") == "others"
    assert run(config(images="others"))(config("test"), origin="pixels") == "pixels, split test"


def test_a_folder_that_is_no_run_has_none_of_its_own(tmp_path):
    source = types.SimpleNamespace(latents=False)
    assert real_images.unlike_run(config("test"), source, tmp_path) == ""
