"""A long drawing of a setting says how far it is."""

import types

import numpy as np

from sg_jax.evaluation import measure
from sg_jax.method.guidance import Guidance


def test_a_long_drawing_says_how_far_it_is(monkeypatch, capsys):
    def sample(model, labels, guidance, weak_model, progress, seed):
        for done in (2, 4, 5):
            progress(done)
        return np.zeros((len(labels), seed))

    monkeypatch.setattr(measure, "sample", sample)
    key = types.SimpleNamespace(guidance=Guidance(), seed=3)
    draw = measure._drawer(types.SimpleNamespace(sampling=dict(seed=0)), None, None, key)
    assert draw(np.arange(5)).shape == (5, 3)
    assert not capsys.readouterr().out  # it was quick
    monkeypatch.setattr(measure, "OFTEN", 0.0)
    draw(np.arange(5))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["image 2/5", "image 4/5"]
