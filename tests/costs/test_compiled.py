"""The report of a compiled program."""

import pytest

from sg_jax.costs import compiled


def test_what_does_not_fit_is_said_with_a_remedy():
    message = (
        "RESOURCE_EXHAUSTED: the total memory required (20.50G) exceeds available HBM (15.75G)."
    )
    assert compiled.overflow(message) == {"peak_gib": 20.5}
    report = dict(
        topology="v5e:2x2", devices=4, mesh=dict(data=4), program="A step", fits=False,
        peak_gib=20.5, hbm_gib=15.75,
    )  # fmt: skip
    text = compiled.render(report)
    assert "4.75 GiB" in text and "config.model.remat" in text
    with pytest.raises(RuntimeError, match="something else"):
        compiled.overflow("something else")
