"""Means and deviations over seeds."""

import statistics

import pytest

from sg_jax.evaluation.metrics import METRICS
from sg_jax.evaluation.results import SettingResult, mean_and_deviation


def test_means_and_deviations_over_seeds():
    scores = [dict(frechet=f, recall=0.2, accuracy=None) for f in (1.0, 2.0, 6.0)]
    scores[0]["accuracy"] = 0.5
    mean, deviation = mean_and_deviation(scores)
    assert mean == dict(frechet=3.0, recall=0.2, accuracy=0.5)  # of the one that has it
    assert deviation["frechet"] == pytest.approx(statistics.stdev((1, 2, 6)))
    assert deviation["recall"] == deviation["accuracy"] == 0.0
    assert mean_and_deviation(scores[1:2]) == (
        scores[1],
        dict(frechet=0.0, recall=0.0, accuracy=None),
    )


def test_a_result_shows_its_deviations_where_a_number_varies():
    scores = [dict(frechet=f, gflops_per_step=0.1) for f in (1.0, 2.0, 6.0)]
    result = SettingResult.over_seeds("sg", "", 20, scores)
    assert result.seeds == 3 and set(result.deviations) == {"frechet"}
    assert result.value(METRICS["gflops_per_step"]) == 0.1  # to the last digit
    assert result.value(METRICS["samples"]) == 20
    assert result.value(METRICS["recall"]) is None
