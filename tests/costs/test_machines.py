"""Durations from FLOPs: which chips a text names, and what they are assumed to compute."""

import pytest

from sg_jax.costs import machines
from sg_jax.errors import UserError


@pytest.mark.parametrize(
    "text, number, rate",
    [
        ("16*v5e", 16, 0.4 * 16 * 197e12),
        ("v5e:4x4", 16, 0.4 * 16 * 197e12),
        ("2*v5p:2x2x4", 32, 0.4 * 32 * 459e12),
        ("8*H100", 8, 0.4 * 8 * 989e12),
        ("v4", 1, 0.4 * 275e12),
        ("4*cpu", 4, 0.4 * 4 * 80e9),
    ],
)
def test_a_text_names_chips(text, number, rate):
    found = machines.machine(text)
    assert found.number == number and found.rate() == pytest.approx(rate)


def test_wide_numbers_are_slower():
    """TPUs multiply float32 exactly in six passes, and GPUs without their tensor cores."""
    v5e, h100 = machines.machine("v5e", 0.5), machines.machine("H100", 0.5)
    assert v5e.rate("float32") == 0.5 * 197e12  # products of networks are rounded by default
    assert v5e.rate("float32", exact=True) == pytest.approx(0.5 * 197e12 / 6)
    assert v5e.rate("bfloat16", exact=True) == 0.5 * 197e12
    assert h100.rate("float32") == 0.5 * 989e12 / 2
    assert h100.rate("float32", exact=True) == 0.5 * 67e12


def test_without_a_text_it_is_this_machine(monkeypatch):
    monkeypatch.setattr(machines.os, "cpu_count", lambda: 6)
    found = machines.machine()
    assert str(found) == "6 x CPU core at 40% of 80 GFLOP/s, assumed"
    assert found.device == found  # all cores together are one device
    assert machines.machine("8*A100").device.number == 1


def test_the_line_names_chips_share_and_peak():
    assert str(machines.machine("16*v5e", 0.55)) == "16 x v5e at 55% of 197 TFLOP/s, assumed"


@pytest.mark.parametrize("text", ["v5", "16 v5e", "0*v5e", "v5e:0x4", "9999999*v5e", "*", "v5e:4x"])
def test_other_texts_are_refused(text):
    with pytest.raises(UserError, match="--chips="):
        machines.machine(text)


@pytest.mark.parametrize("share", [0.0, 1.1, -1.0, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share):
    with pytest.raises(UserError, match="--mfu="):
        machines.machine("v5e", share)


def test_durations_in_words():
    known = {0.25: "0.25 s", 89: "89 s", 90: "1.5 min", 7200: "2 h", 172800: "2 days"}
    assert {seconds: machines.words(seconds) for seconds in known} == known
    assert machines.words(10 * 365.25 * 86400) == "10 years"
