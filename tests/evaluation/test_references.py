"""References as ADM publishes them and as we do: what they hold is used, the rest computed."""

import types

import numpy as np
import pytest
import tiny_networks

from sg_jax.config.sections import Evaluate
from sg_jax.errors import UserError
from sg_jax.evaluation import networks, references, scoring
from sg_jax.evaluation.distances import Statistics, frechet
from sg_jax.evaluation.references import look_at
from sg_jax.parallel import processes

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), np.uint8)


@pytest.fixture
def net():
    return networks.Network("inception", tiny_networks.Inception(), together=False)


def moments(features):
    features = features.astype(np.float64)
    return dict(mu=features.mean(0), sigma=np.cov(features.T))


def adm(path, net, images=IMAGES, **parts):
    """Write a file as ADM's evaluator does, with statistics of all images."""
    seen = net.score(IMAGES)
    places = moments(seen.spatial)
    both = moments(seen.features) | dict(mu_s=places["mu"], sigma_s=places["sigma"])
    whole = dict(both if images is None else {"arr_0": images, **both})
    np.savez(path, **{**whole, **parts})
    return seen


def test_statistics_of_a_file_are_those_of_the_images(tmp_path, net):
    seen = adm(tmp_path / "r.npz", net, IMAGES[:15])
    reference = references.read(tmp_path / "r.npz")
    assert len(reference.digest) == 16 and reference.label == f"r.npz ({reference.digest})"
    found = reference.found({"inception": net}, ["inception"], spatial=True)["inception"]
    assert frechet(found.statistics, seen.features) == pytest.approx(0, abs=1e-9)
    assert frechet(found.spatial, seen.spatial) == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(found.features, seen.features[:15])  # of the stored images


def test_what_a_file_lacks_is_computed_from_its_images(tmp_path, net):
    np.savez(tmp_path / "r.npz", IMAGES)
    found = references.read(tmp_path / "r.npz").found({"inception": net}, [], spatial=True)
    seen, expected = found["inception"], net.score(IMAGES)
    np.testing.assert_allclose(seen.statistics.scatter, Statistics.of(expected.features).scatter)
    np.testing.assert_allclose(seen.spatial.mean, expected.spatial.mean(0), rtol=1e-6)
    assert seen.count == 40


def test_images_that_are_missing_are_asked_for(tmp_path, net):
    adm(tmp_path / "r.npz", net, images=None)
    reference = references.read(tmp_path / "r.npz")
    assert reference.images is None
    found = reference.found({"inception": net}, [], spatial=True)["inception"]
    assert found.features is None
    with pytest.raises(UserError, match=r"r\.npz has no images .*precision, recall, KID and MIND"):
        reference.found({"inception": net}, ["inception"], spatial=False)
    # Training that ends with an evaluation says so before it begins.
    evaluate = Evaluate(reference=str(tmp_path / "r.npz"), metrics=("fid", "precision"))
    with pytest.raises(UserError, match=r"r\.npz has no images .*precision, recall, KID and MIND"):
        scoring.check_ready(types.SimpleNamespace(evaluate=evaluate), None, 8)


def test_all_metrics_of_a_network_have_what_they_need(tmp_path, net, monkeypatch):
    adm(tmp_path / "r.npz", net)
    monkeypatch.setattr(networks, "load", lambda kind, config, together: net)
    evaluate = Evaluate(reference=str(tmp_path / "r.npz"), network="inception")
    config = types.SimpleNamespace(evaluate=evaluate)
    judge = scoring.open_judge(config, None, tmp_path, together=False)
    assert {"kid", "precision"} <= set(judge.measures)
    tallies = judge.tallies(40)
    tallies.add(judge.observe(IMAGES), np.zeros(40, int))
    found = judge.scores_of(tallies.results())
    assert all(np.isfinite(value) for value in found.values()) and found["recall"] == 1


def test_statistics_of_another_network_are_refused_before_images_are_looked_at(tmp_path, net):
    adm(tmp_path / "r.npz", net, mu=np.zeros(64), sigma=np.eye(64))
    reference = references.read(tmp_path / "r.npz")
    with pytest.raises(UserError, match="mu has 64 numbers, but inception finds 5 features"):
        reference.check({"inception": net}, spatial=False)
    adm(tmp_path / "r.npz", net, mu_s=np.zeros(3), sigma_s=np.eye(3))
    reference = references.read(tmp_path / "r.npz")
    reference.check({"inception": net}, spatial=False)  # they are not used
    with pytest.raises(UserError, match="mu_s has 3 numbers, but inception finds 12 features"):
        reference.check({"inception": net}, spatial=True)


def test_what_is_written_is_read_again(tmp_path, net):
    found = look_at_all(net)
    about = dict(images=40, networks=dict(inception=net.label))
    path = references.write(tmp_path / "r.npz", found, iter([IMAGES[:7]]), (7, 6, 6, 3), about)
    with np.load(path) as file:  # as ADM's evaluator reads it
        assert sorted(file.files) == ["about", "arr_0", "mu", "mu_s", "sigma", "sigma_s"]
        np.testing.assert_array_equal(file["arr_0"], IMAGES[:7])
        np.testing.assert_allclose(file["sigma"], np.cov(net.score(IMAGES).features.T), rtol=1e-5)
    reference = references.read(path)
    reference.check({"inception": net}, spatial=True)
    again = reference.found({"inception": net}, ["inception"], spatial=True)["inception"]
    assert again.count == 40 and len(again.features) == 7
    expected = found["inception"].statistics
    np.testing.assert_allclose(again.statistics.scatter, expected.scatter, rtol=1e-12)
    other = networks.Network("inception", tiny_networks.Inception(7))
    with pytest.raises(UserError, match=r"made with inception 0{16}, but .* inception 0{15}7"):
        reference.check({"inception": other}, spatial=False)


def look_at_all(net):
    class Images:
        def __len__(self):
            return 40

        def batches(self, start=0):
            yield from (IMAGES[i : i + 9] for i in range(start, 40, 9))

    return look_at(Images(), {"inception": net}, "reference")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (dict(mu=np.zeros(3), sigma=np.eye(4)), "mu|mean"),
        (dict(mu=np.zeros(3)), "arr_0"),
        (dict(about=np.asarray("[")), "about"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(tmp_path, parts, words):
    np.savez(tmp_path / "r.npz", **parts)
    with pytest.raises(UserError, match=words):
        references.read(tmp_path / "r.npz")


def test_a_process_that_does_not_write_opens_the_judge_too(tmp_path, net, monkeypatch):
    """It has no classifier, in which the metrics of a run are measured by default."""
    np.savez(tmp_path / "r.npz", IMAGES)
    monkeypatch.setattr(processes, "is_writer", lambda: False)
    evaluate = Evaluate(reference=str(tmp_path / "r.npz"))
    config = types.SimpleNamespace(evaluate=evaluate)
    source = types.SimpleNamespace(latents=False)
    assert scoring.open_judge(config, source, tmp_path).views == {}
