"""Training that starts from weights which were made elsewhere."""

import json

import jax
import numpy as np
import pytest
import random_weights
import tensor_files
from sit_networks import SIZES, make

from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.models.dit import DiT
from sg_jax.weights import convert, starts, teachers
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


def test_tables_and_shapes_tell_the_heads_and_the_mlp(tmp_path):
    parts = dict(norm="rms", mlp="swiglu", positions="both", mlp_ratio=2.5, width=64)
    weights = convert.to_state_dict(make(**parts, heads=4), "lightningdit")
    np.savez(tmp_path / "x.npz", **weights)
    # 106 channels, of 159 or 160 before they are reduced
    starts.check(tmp_path / "x.npz", jax.eval_shape(lambda: fresh(**parts, heads=4)))
    with pytest.raises(UserError, match=r"heads 4, which do not fit config\.model\.heads=2"):
        starts.check(tmp_path / "x.npz", jax.eval_shape(lambda: fresh(**parts, heads=2)))


@pytest.mark.parametrize("source", ["owner/name", "runs/gone", "tests"])
def test_what_is_neither_a_run_nor_weights_is_no_start(source):
    words = rf"init_from='{source}' is neither a run nor weights.*snapshot_download"
    with pytest.raises(UserError, match=words):
        starts.check(source, jax.eval_shape(lambda: fresh()))


def test_networks_of_another_prediction_are_no_start(imported, tmp_path):
    with pytest.raises(UserError, match=r"prediction 'velocity'.*config.model.prediction='edm'"):
        starts.check(imported, fresh(learn_sigma=True, prediction="edm"))
    noise = make(prediction="noise", learn_sigma=True, time_endpoint=True)
    np.savez(tmp_path / "dit.npz", **convert.to_state_dict(noise, "diffusers_dit"))
    starts.check(tmp_path / "dit.npz", noise)
    with pytest.raises(UserError, match=r"prediction 'noise'.*config.model.prediction='velocity'"):
        starts.check(tmp_path / "dit.npz", fresh(learn_sigma=True))


def test_the_config_of_a_folder_of_diffusers_counts(tmp_path, mesh_of):
    kind = dict(prediction="noise", learn_sigma=True, time_endpoint=True)
    network = make(**kind, num_classes=9)  # 10 rows, which might be 10 classes
    weights = convert.to_state_dict(network, "diffusers_dit")
    about = dict(num_attention_heads=4, sample_size=8, num_embeds_ada_norm=9)
    config = json.dumps(dict(about, _class_name="DiTTransformer2DModel"))
    (tmp_path / "config.json").write_text(config)
    content = tensor_files.safetensors(weights)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(content)
    model = fresh(**kind, image_size=16)
    found = named(starts.load(tmp_path, model, mesh_of(1, 1)))["label_embedding"]
    np.testing.assert_array_equal(found[-1], named(network)["label_embedding"][-1])
    with pytest.raises(UserError, match=r"heads 4, which do not fit config\.model\.heads=8"):
        starts.check(tmp_path, fresh(**kind, heads=8))


def test_a_file_of_other_images_does_not_teach(sit):
    model = fresh(learn_sigma=True, image_size=16)
    with pytest.raises(UserError, match=r"has image size 8, but this one has 16"):
        teachers.check(sit[0], model, Guidance(), "unguided")
