"""Distances between guided images and their unguided twins."""

import json
import types

import numpy as np
import pytest
from tiny_networks import Pixels

from sg_jax.config import parsing, tree
from sg_jax.errors import UserError
from sg_jax.evaluation import scoring
from sg_jax.evaluation.found import FeatureSet
from sg_jax.evaluation.real import View
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.modes import diversity
from sg_jax.weights import checkpoints


@pytest.fixture
def diversity_of(tmp_path, tiny, mesh_of, monkeypatch):
    """Changes to `config.diversity` -> (picture, report, that file's content)."""
    real = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    found = FeatureSet(Pixels().score(real)[0], np.arange(40) % 5)
    judge = scoring.Judge({"classifier": View(Pixels(), found, found)})
    monkeypatch.setattr(checkpoints, "saved_steps", lambda _: [7])
    monkeypatch.setattr(checkpoints, "load", lambda *args, **kwargs: tiny)
    monkeypatch.setattr(scoring, "open_judge", lambda *args: judge)
    settings = dict(
        unguided=Guidance(), sg=Guidance(1.5, gamma_weak=0.75), off=Guidance(weak_label="null")
    )

    def run(**changes):
        asked = {"guidance": ("unguided", "sg"), "samples": 12, **changes}
        sections = dict(sample=dict(steps=2, batch_size=12), diversity=asked)
        config = tree.check(parsing.merge(sections))
        mesh, sampler = mesh_of(1, 1), Sampler()
        sampling = dict(steps=2, seed=0, batch_size=12, mesh=mesh, sampler=sampler)
        experiment = types.SimpleNamespace(image_shape=(8, 8, 3), autoencoder=None,
            config=config, mesh=mesh, sampler=sampler, sampling=sampling, model=tiny,
            settings=settings, captions=None, asked=tiny.conditioning.in_turn,
        )  # fmt: skip
        source = types.SimpleNamespace(num_classes=5)
        picture, report = diversity.diversity(experiment, source, str(tmp_path))
        return picture, json.loads(report.read_text(encoding="utf-8"))

    return run


@pytest.mark.slow
def test_unguided_lies_at_zero_and_guided_does_not(diversity_of):
    picture, report = diversity_of(guidance=("unguided", "sg", "off"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = report["settings"]
    for name in ("unguided", "off"):  # omega 1 is no guidance
        assert set(found[name]["quantiles"].values()) == {0.0} and found[name]["mean"] == 0.0
    quantiles = list(found["sg"]["quantiles"].values())
    assert quantiles == sorted(quantiles) and quantiles[0] > 0
    assert found["sg"]["description"] == Guidance(scale=1.5, gamma_weak=0.75).describe()
    assert report["samples"] == 12 and report["unit"] > 0


def test_the_unit_is_the_mean_over_pairs_of_one_class():
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [9.0, 9.0], [100.0, 0.0], [98.0, 0.0]])
    labels = np.array([0, 0, 0, 1, 2, 2])
    # Class 0: 5, 1 and |(3, 3)| = sqrt(18); class 1 has no pair; class 2: 2.
    expected = (5 + 1 + np.sqrt(18) + 2) / 4
    assert diversity.same_class_distance(points, labels) == pytest.approx(expected)


def test_real_pairs_are_at_distance_one_of_their_own_unit():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 8))
    unit = diversity.same_class_distance(points[:200], np.zeros(200))
    others = diversity.pair_distances(points[200:300], points[300:]) / unit
    assert others.mean() == pytest.approx(1.0, abs=0.06)


def test_classes_of_one_image_give_no_unit():
    with pytest.raises(UserError, match=r"config\.evaluate\.references"):
        diversity.same_class_distance(np.eye(3), np.arange(3))
