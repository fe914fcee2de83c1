"""Real images as statistics: accumulated in a stream, kept in a file, read again or not."""

import dataclasses
import shutil
import time
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from tiny_networks import Pixels

from sg_jax.config.sections import Data, Evaluate, Features
from sg_jax.errors import UserError
from sg_jax.evaluation import distances, features, real, scoring
from sg_jax.evaluation.metrics import CLASSIFIER, METRICS
from sg_jax.evaluation.reading import Reader
from sg_jax.evaluation.real import View, found_in
from sg_jax.runs import sharing

PIXELS = Pixels(classes=4)
ABOUT = dict(name="numbers", images=[600, 40], references=600)


class Source:
    """Images drawn from i, counted when read."""

    name, split, num_classes, image_shape = "noise", "train", 4, (8, 8, 1)
    latents = False

    def __init__(self, count, seed=0):
        self.count, self.seed, self.reads = count, seed, 0

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.reads += 1
        image = np.random.default_rng([self.seed, i]).integers(0, 256, (8, 8, 1), np.uint8)
        return {"image": image // (1 + i % 4), "label": i % 4}


@pytest.fixture(scope="module")
def whole():
    """All images of a source at once."""
    source = Source(600)
    return np.stack([source[i]["image"] for i in range(600)]), np.arange(600) % 4


def test_what_is_found_in_a_stream_is_what_is_found_at_once(whole):
    images, labels = whole
    features, probabilities = PIXELS.score(images)
    found = found_in(PIXELS, Reader(Source(600)), np.arange(600))
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.predicted, probabilities.argmax(1))
    np.testing.assert_array_equal(found.labels, labels)
    fake = np.random.default_rng(1).normal(size=(50, 6))
    expected = distances.frechet(features, fake)
    assert distances.frechet(found.statistics, fake) == pytest.approx(expected, rel=1e-9)


def test_features_of_some_are_kept_and_all_count(whole, monkeypatch):
    monkeypatch.setattr(real, "KEPT", 7)
    ids = np.arange(0, 600, 2)
    found = found_in(PIXELS, Reader(Source(600)), ids)
    chosen = ids[np.arange(7) * 300 // 7]
    np.testing.assert_array_equal(found.features, PIXELS.score(whole[0][chosen])[0])
    np.testing.assert_array_equal(found.labels, whole[1][chosen])
    assert found.count == 300
    np.testing.assert_allclose(
        found.statistics.mean, PIXELS.score(whole[0][ids])[0].mean(axis=0), rtol=1e-12
    )


def test_the_file_holds_for_its_network_and_its_data_alone(tmp_path):
    view = View(
        PIXELS,
        found_in(PIXELS, Reader(Source(600)), np.arange(600)),
        found_in(PIXELS, Reader(Source(40, seed=1)), np.arange(40)),
    )
    path = real.save(tmp_path / "real.npz", ABOUT, view)
    again = real.load(path, ABOUT, PIXELS)
    np.testing.assert_array_equal(again.real.features, view.real.features)
    np.testing.assert_array_equal(again.real.labels, view.real.labels)
    metric = METRICS["frechet"]
    assert metric.function(again.real, again.test) == metric.function(view.real, view.test)
    np.testing.assert_array_equal(again.test.predicted, view.test.predicted)
    assert real.load(path, {**ABOUT, "references": 500}, PIXELS) is None
    other = types.SimpleNamespace(digest="12345678")
    assert real.load(path, ABOUT, other) is None
    assert real.load(tmp_path / "none.npz", ABOUT, PIXELS) is None
    path.write_bytes(path.read_bytes()[:-50])
    assert real.load(path, ABOUT, PIXELS) is None


def test_of_two_commands_one_looks_at_the_images(tmp_path, monkeypatch):
    looked, whole = [], real.all_found_in

    def slowly(networks, reader, ids, part, about):
        (part / "files").mkdir(parents=True)
        shutil.rmtree(part)  # as what does not fit is removed
        looked.append(ids)
        time.sleep(0.5)
        return whole(networks, reader, ids, part, about)

    monkeypatch.setattr(real, "all_found_in", slowly)
    monkeypatch.setattr(sharing, "PAUSE", 0.05)
    config = types.SimpleNamespace(evaluate=Evaluate(references=50))
    source = Source(600)

    def command(later):
        while later and not looked:
            time.sleep(0.01)
        return scoring._of_data({"inception": PIXELS}, config, source, tmp_path, together=False)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(command, (False, True))
    assert len(looked) == 1
    found, again = one["inception"].real, other["inception"].real
    np.testing.assert_array_equal(found.features, again.features)
    assert found.count == 50 and [p.name for p in tmp_path.iterdir()] == ["real_inception.npz"]


@pytest.fixture
def judge_of(tmp_path, monkeypatch):
    """Changes to the config -> (judge, how many images were read)."""
    test = Source(40, seed=1)
    test.split = "test"
    monkeypatch.setattr(scoring, "open_source", lambda *args, **kwargs: test)

    def run(references=0, count=600, run="", **recipe):
        source = Source(count)
        test.reads = 0
        small = dict(width=8, features=16, epochs=1, batch=32)
        config = types.SimpleNamespace(
            data=Data(),
            features=Features(**{**small, **recipe}),
            evaluate=Evaluate(references=references),
        )
        return scoring.open_judge(config, source, tmp_path / run), source.reads + test.reads

    return run


@pytest.mark.every(2)
@pytest.mark.parametrize("shared", [False, True])
def test_of_two_commands_one_trains_the_classifier(judge_of, tmp_path, monkeypatch, shared):
    """In one run, or in two runs with one `config.features.path`."""
    trained = []

    def slowly(train, test, made_from, log):
        trained.append(made_from)
        time.sleep(0.2)
        network = jax.tree.map(lambda x: x + len(trained), features._new_model(made_from))
        return features.Scorer(network, 0.5, made_from)

    monkeypatch.setattr(features, "_train", slowly)
    monkeypatch.setattr(sharing, "PAUSE", 0.05)
    path = str(tmp_path / "shared" / "network.npz") if shared else ""

    def command(later):
        while later and not trained:
            time.sleep(0.01)
        return judge_of(run="b" if later and shared else "a", path=path)[0].digest

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(command, (False, True)))) == len(trained) == 1
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.slow
def test_a_later_evaluation_reads_no_image(judge_of, tmp_path):
    first, reads = judge_of()
    assert reads > 0 and first.references == 600 and first.compared == 0
    assert {file.name for file in tmp_path.iterdir()} == {"classifier.npz", "real.npz"}
    second, reads = judge_of()
    assert reads == 0 and second.digest == first.digest
    assert second.of_test_images() == first.of_test_images()
    accuracy = first.classifier.network.test_accuracy
    assert first.of_test_images()["accuracy"] == pytest.approx(accuracy, abs=1e-12)


@pytest.mark.slow
def test_a_shared_network_may_lie_in_the_home(judge_of, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first, _ = judge_of(path="~/shared[1].npz")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["shared[1].npz"]
    assert judge_of(path="~/shared[1].npz")[0].digest == first.digest
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"config\.features\.path='.*file/x\.npz': .* is a file"):
        judge_of(path=str(tmp_path / "file" / "x.npz"))
    (tmp_path / "home" / "shared[1].npz").write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"cannot be read .*not replaced: give another path, delete"
    ):
        judge_of(path="~/shared[1].npz")
    assert (tmp_path / "home" / "shared[1].npz").read_bytes() == b"damaged"


def test_images_that_moved_are_the_same(judge_of, monkeypatch):
    """A folder of images is named by its path, but known by what is in it."""
    contents = dict(identify=lambda self, i: (bytes([self.seed, i % 256]), i % 4))
    for name, value in contents.items():
        monkeypatch.setattr(Source, name, value, raising=False)
    monkeypatch.setattr(Source, "posterior", "none", raising=False)
    first, reads = judge_of()
    assert reads > 0
    monkeypatch.setattr(Source, "name", "elsewhere/noise")
    second, reads = judge_of()
    assert reads == 0 and second.digest == first.digest
    # Where only the classifier is shared, it is the same one.
    third, reads = judge_of(references=50)
    assert reads > 0 and third.digest == first.digest


def test_the_scores_of_the_test_images_are_kept(judge_of, monkeypatch):
    first, _ = judge_of()
    scores, calls = first.of_test_images(), []
    precision = METRICS["precision"]
    counted = dataclasses.replace(
        precision, function=lambda *sets: calls.append(sets) or precision.function(*sets)
    )
    monkeypatch.setitem(METRICS, "precision", counted)
    assert judge_of()[0].of_test_images() == scores and not calls
    # One that is new since is measured, once.
    monkeypatch.setitem(METRICS, "other", dataclasses.replace(counted, name="other"))
    for _ in range(2):
        found = judge_of()[0].of_test_images()
        assert found == {**scores, "other": scores["precision"]} and len(calls) == 1


DAMAGES = {
    "cut": lambda parts: None,
    "features of another network": lambda parts: parts.update(
        {f"{s}/features": parts[f"{s}/features"][:, :5] for s in ("real", "test")}
    ),
    "other statistics": lambda parts: parts.update({"real/mean": parts["real/mean"][:3]}),
    "labels of other images": lambda parts: parts.update({"test/labels": np.zeros(3, np.int32)}),
    "NaN": lambda parts: parts["real/features"].fill(np.nan),
    "no labels": lambda parts: parts.pop("real/labels"),
    "scores": lambda parts: parts.update({"scores": np.array("[1]")}),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_used_is_made_anew(judge_of, tmp_path, capsys, damage):
    first, _ = judge_of()
    scores, path = first.of_test_images(), tmp_path / "real.npz"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-100])
    else:
        with np.load(path) as file:
            parts = {name: file[name] for name in file.files}
        DAMAGES[damage](parts)
        np.savez(path, **parts)
    capsys.readouterr()
    judge, reads = judge_of()
    assert reads > 0 and f"{path} cannot be read" in capsys.readouterr().out
    assert judge.of_test_images() == scores
    assert judge_of()[1] == 0 and "cannot be read" not in capsys.readouterr().out


@pytest.mark.every(3)
@pytest.mark.parametrize("change", [dict(references=100), dict(count=500), dict(seed=1)])
def test_what_does_not_fit_is_measured_anew(judge_of, change):
    first, _ = judge_of()
    second, reads = judge_of(**change)
    assert reads > 0
    assert second.references == change.get("references", change.get("count", 600))
    assert judge_of(**change)[1] == 0
    assert (second.digest == first.digest) == ("references" in change)


def test_the_kept_images_stand_for_the_others_in_precision_and_recall(judge_of, monkeypatch):
    monkeypatch.setattr(real, "KEPT", 50)
    judge, _ = judge_of()
    assert (judge.references, judge.compared) == (600, 50)
    assert len(judge.views[CLASSIFIER].real.manifold.points) == 50
