"""Training that starts from weights which were made elsewhere."""

import jax
import numpy as np
import pytest
import random_weights
from sit_networks import SIZES, make

from sg_jax.errors import UserError
from sg_jax.models.dit import DiT
from sg_jax.weights import convert, starts
from sg_jax.weights.checkpoints import named


def fresh(**sizes):
    return random_weights.network(lambda rngs: DiT(**{**SIZES, **sizes}, rngs=rngs), seed=1)


@pytest.mark.parametrize("source", ["file", "run"])
def test_training_starts_from_weights_with_other_classes_and_routes(
    source, sit, imported, mesh_of, capsys
):
    start = sit[0] if source == "file" else imported
    model = fresh(learn_sigma=True, num_classes=7, routes=((0, 0), (2, 2)), image_size=16)
    starts.check(start, jax.eval_shape(lambda: model))
    found, wanted = named(starts.load(start, model, mesh_of(1, 1))), named(model)
    given = convert.from_state_dict(dict(np.load(sit[0])), "sit", routes=((0, 0), (2, 2)))
    for name, array in named(given).items():
        if name != "label_embedding":
            np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(found["label_embedding"][:7], wanted["label_embedding"][:7])
    np.testing.assert_array_equal(found["label_embedding"][7], named(sit[1])["label_embedding"][5])
    said = capsys.readouterr().out
    assert "5 classes and the run has 7, so the label table has 7 new rows" in said
    assert source == "run" or "read as weights of family sit" in said


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (dict(width=48), r"width 32, which do not fit config.model.width=48"),
        (dict(depth=2), "depth 3, which do not fit"),
        (dict(prediction="noise", learn_sigma=True), None),
        (dict(prediction="edm", learn_sigma=True), None),
        (dict(learn_sigma=True, patch=4), "patch 2"),
    ],
)
def test_weights_that_do_not_fit_are_no_start(sizes, text, sit):
    model = fresh(**{"learn_sigma": True, **sizes})
    if text is None:  # the names are those of DiT and TREAD too
        starts.check(sit[0], model)
        return
    with pytest.raises(UserError, match=text):
        starts.check(sit[0], model)


def test_networks_of_another_prediction_are_no_start(imported, tmp_path):
    with pytest.raises(UserError, match=r"prediction 'velocity'.*config.model.prediction='edm'"):
        starts.check(imported, fresh(learn_sigma=True, prediction="edm"))
    noise = make(prediction="noise", learn_sigma=True, time_endpoint=True)
    np.savez(tmp_path / "dit.npz", **convert.to_state_dict(noise, "diffusers_dit"))
    starts.check(tmp_path / "dit.npz", noise)
    with pytest.raises(UserError, match=r"prediction 'noise'.*config.model.prediction='velocity'"):
        starts.check(tmp_path / "dit.npz", fresh(learn_sigma=True))
