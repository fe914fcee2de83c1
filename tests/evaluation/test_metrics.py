"""The rows: how numbers print, which is best, and what each is computed from."""

import math

import numpy as np
import pytest

from sg_jax.config import tuples
from sg_jax.evaluation.distances import Statistics, frechet, precision_recall
from sg_jax.evaluation.found import FeatureSet
from sg_jax.evaluation.metrics import (
    CLASSIFIER,
    DRAWING,
    MAIN,
    METRICS,
    RESULT,
    Drawing,
    main_of,
    quality,
)

NAN = math.nan


def test_texts_of_a_column_align_and_say_what_was_not_measured():
    assert METRICS["frechet"].texts([1.0, None, NAN, 20.0], [0.5, None, 1.0, NAN]) == [
        "1.000 ± 0.500", "–", "– ± 1.000", "20.000",
    ]  # fmt: skip
    assert METRICS["frechet"].texts([1.0, 200.0]) == ["1.0", "200.0"]
    assert METRICS["accuracy"].texts([0.5]) == ["50.0"]  # in percent
    assert METRICS["images_per_second"].texts([1430.0, 9.87654]) == ["1,430", "10"]
    assert METRICS["gflops_per_step"].text(0.123456) == "0.1235"


def test_the_winner_is_the_best_number_there_is():
    assert METRICS["frechet"].winner([3.0, NAN, 1.0, 1.0, None]) == 2
    assert METRICS["recall"].winner([0.1, 0.3, None]) == 1
    assert METRICS["recall"].winner([None, NAN]) is None
    assert METRICS["frechet"].best([1.0, 1.00001, 2.0]) == [True, True, False]  # printed alike
    assert METRICS["samples"].best([1.0, 2.0]) == [False, False]


def _images(seed, count, **more):
    rng = np.random.default_rng(seed)
    return FeatureSet(rng.normal(size=(count, 4)), rng.integers(0, 3, count), **more)


def test_metrics_of_images_are_the_functions_they_name():
    real = _images(0, 40)
    fake = _images(1, 30, predicted=np.zeros(30, int))
    found = {
        name: metric.function(real, fake)
        for name, metric in METRICS.items()
        if metric.needs in (MAIN, CLASSIFIER)
    }
    assert found["frechet"] == frechet(real.features, fake.features)
    assert (found["precision"], found["recall"]) == precision_recall(real.features, fake.features)
    assert found["accuracy"] == np.mean(fake.labels == 0)
    assert METRICS["gflops_per_step"].function(Drawing(2e9, 5.0)) == 2.0
    assert METRICS["images_per_second"].function(Drawing(2e9, 5.0)) == 5.0


def test_statistics_over_more_images_count_and_the_kept_features_make_the_manifold():
    whole = _images(0, 40)
    kept = FeatureSet(whole.features[::4], whole.labels[::4], counted=Statistics.of(whole.features))
    fake = _images(1, 30)
    assert (kept.count, whole.count) == (40, 40)
    assert METRICS["frechet"].function(kept, fake) == METRICS["frechet"].function(whole, fake)
    expected, _ = precision_recall(whole.features[::4], fake.features)
    assert METRICS["precision"].function(kept, fake) == expected


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_row_is_complete(metric):
    assert METRICS[metric.name] is metric and metric.header and metric.unit
    assert metric.of_images == (metric.needs not in (DRAWING, RESULT))
    facts = dict(real="1", test="2", compared="3", neighbours=3, floor="0.5")
    assert "{" not in f"{metric.explanation} {metric.floor}".format(**facts)


def test_a_config_can_ask_for_every_metric_of_images():
    assert set(tuples.METRICS) == {m.name for m in METRICS.values() if m.of_images}


def test_the_main_network_is_the_one_that_other_metrics_need():
    assert main_of(()) == main_of(("accuracy", "kid")) == main_of(("mind",)) == "classifier"
    assert main_of(("precision", "fid")) == main_of(("fd_dinov2", "is", "accuracy")) == "inception"
    assert main_of(("fd_dinov2", "mind")) == "dinov2"
    assert main_of(("fid", "mind"), "dinov2") == "dinov2"


def test_settings_are_ranked_by_what_was_measured():
    assert quality([{"mind": 1.0, "fd_dinov2": 2.0}, {"fid": None}]).name == "fd_dinov2"
    assert quality([{"frechet": 1.0}, {"fid": 3.0}]).name == "fid"
    assert quality([]).name == "frechet"
