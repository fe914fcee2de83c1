"""Settings by name: the presets, and those that a network brings from its run."""

import copy

import jax
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import presets
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import Named
from sg_jax.programs import integration, sampling


@pytest.fixture
def own(small):
    """The small network, as if its run had a setting of its own."""
    network = jax.tree.map(lambda weight: weight, small)
    network.named = Named({"sg": Guidance(1.5, 0.0, 0.5), "mine": Guidance(2.0, 0.0, 0.5)})
    return network


def test_a_name_is_that_of_the_networks_run(small, own):
    def draw(network, guidance):
        return sampling.sample(network, [0, 1], guidance, steps=2, pixels=False)

    expected = draw(small, Guidance(1.5, 0.0, 0.5))
    compiled = integration.integrate._cache_size()
    np.testing.assert_array_equal(draw(own, "sg"), expected)
    assert np.abs(draw(own, "mine") - expected).max() > 0
    assert integration.integrate._cache_size() == compiled  # settings are no part of a program
    with pytest.raises(UserError, match=r"guidance='cfg' must be .*: sg, mine\."):
        draw(own, "cfg")
    with pytest.raises(UserError, match=r"guidance='mine' must be .*: unguided, cfg,"):
        draw(small, "mine")


def test_what_is_made_of_a_network_keeps_its_settings(small, own):
    assert jax.tree.structure(own) == jax.tree.structure(small)
    for made in (jax.tree.map(lambda a, b: a + b, own, small), copy.copy(own)):
        assert made.named.settings["mine"].scale == 2.0
    assert small.named.settings == presets.PRESETS


def test_early_checkpoints_are_shares_of_the_training():
    early = {name: preset.weak_step for name, preset in presets.PRESETS.items() if preset.weak_step}
    assert early == {"ag": 0.33, "sg_fid": 0.33, "ag_sg": 0.33}
    assert presets.PRESETS["ag"].describe() == "ω 1.5, γ 0 / 0 33% trained"


@pytest.mark.parametrize("step", [1.5, -1, True, -0.5, float("nan"), 3.0, "3"])
def test_what_is_neither_a_step_nor_a_share_is_refused(step):
    with pytest.raises(UserError, match=r"guidance\.weak_step=.* an int .*, or a share"):
        Guidance(weak_step=step)
    assert Guidance(weak_step=np.int64(3)).weak_step == 3


def test_a_network_that_is_missing_is_asked_for(small):
    with pytest.raises(UserError, match=r"weak_model, such as sg_jax\.load\(workdir, step=STEP\)"):
        sampling.sample(small, [0], "ag")
