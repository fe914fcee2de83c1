"""Checkpoints and the folder of a run: bit for bit, on other meshes, and what does not fit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import (
    NAMES,
    TX,
    assert_equal,
    completed,
    make_model,
    make_network,
    random_state,
)

from sg_jax.config import record
from sg_jax.errors import UserError
from sg_jax.programs.training import abstract_state
from sg_jax.weights import checkpoints
from sg_jax.weights.saver import Saver


def write(folder, mesh, step=6, position=11, **kwargs):
    """Save one state and return it."""
    state = dataclasses.replace(
        random_state(mesh, **kwargs), step=jax.device_put(np.int32(step), mesh.devices.flat[0])
    )
    with Saver(folder, every=1, keep=9) as saver:
        saver.save(state, step, {"data_position": position})
    return state


@pytest.fixture(scope="module")
def run(tmp_path_factory, mesh_of):
    """A folder with config and one checkpoint, written on 8 devices, and the state in it."""
    folder = str(tmp_path_factory.mktemp("runs") / "run")
    record.prepare(folder, completed(), NAMES, begun=False)
    return folder, write(folder, mesh_of(1, 8))


@pytest.mark.every(3)
@pytest.mark.parametrize("mesh", [(1, 8), (2, 4), (1, 1)], ids=["fsdp 8", "2 x 4", "1 device"])
def test_a_state_comes_back_bit_for_bit_on_any_mesh(run, mesh_of, mesh):
    folder, state = run
    abstract = abstract_state(make_model, TX, mesh_of(*mesh))
    with Saver(folder, every=1, keep=9) as saver:
        restored, progress = saver.restore(abstract)
    assert progress == {"data_position": 11, "step": 6} and restored.step == 6
    assert jax.tree.structure(restored) == jax.tree.structure(abstract)
    assert_equal(restored, state)
    for leaf, like in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)


def test_every_array_has_a_readable_name_of_its_own():
    model = jax.eval_shape(make_model, jax.random.key(0))
    names = checkpoints.named(model)
    assert len(names) == len(jax.tree.leaves(model))
    for part in ("query", "key", "value"):
        assert names[f"blocks/stacks/1/attention/{part}/kernel"].shape == (2, 16, 16)
    assert names["blocks/stacks/1/attention/out/kernel"].shape == (2, 16, 16)
    assert names["blocks/stacks/0/mlp/hidden/kernel"].shape == (1, 16, 64)
    assert names["label_embedding"].shape == (6, 16)
    assert jax.tree.structure(checkpoints.unnamed(names, model)) == jax.tree.structure(model)


def test_names_hold_their_own_arrays():
    tree = {"a": {"value": {"kernel": 1}, "kernel": 2}, "b": [3, 4]}
    assert checkpoints.unnamed(checkpoints.named(tree), tree) == tree


def test_loading_gives_the_moving_average(run):
    folder, state = run
    model = checkpoints.load(folder)
    assert_equal(model, state.ema)
    assert jax.tree.structure(model) == jax.tree.structure(state.ema)
    assert (model.depth, model.conditioning.count, model.routes) == (4, 5, ((1, 2),))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(model)} == {1}


def test_loading_the_raw_weights(run):
    folder, state = run
    assert_equal(checkpoints.load(folder, weights="model"), state.model)


def test_loading_onto_a_mesh(run, mesh_of):
    folder, state = run
    model = checkpoints.load(folder, mesh=mesh_of(2, 4))
    assert_equal(model, state.ema)
    assert "fsdp" in model.label_embedding.table[...].sharding.spec


def test_a_loaded_network_runs(run, forward):
    x, y = jnp.ones((1, 8, 8, 3)), jnp.zeros(1, jnp.int32)
    model = jax.tree.map(lambda w: w / 1000, checkpoints.load(run[0]))
    assert forward(model, x, jnp.ones(1), y, None).shape == x.shape


def test_a_step_is_chosen_by_number(tmp_path, mesh_of):
    folder = str(tmp_path / "run")
    record.prepare(folder, completed(), NAMES, begun=False)
    states = {s: write(folder, mesh_of(1, 1), step=s, seed=s) for s in (9, 10)}
    assert_equal(checkpoints.load(folder), states[10].ema)  # the latest: by number, not by name
    assert_equal(checkpoints.load(folder, step=9), states[9].ema)
    with pytest.raises(UserError, match=r"step=8 is not a checkpoint.*\[9, 10\]"):
        checkpoints.load(folder, step=8)


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "keep, keep_period, left", [(2, 0, [10, 12]), (1, 0, [12]), (1, 4, [4, 8, 12])]
)
def test_the_latest_and_every_nth_checkpoint_are_kept(tmp_path, mesh_of, keep, keep_period, left):
    state = random_state(mesh_of(1, 1))
    folder = str(tmp_path)
    with Saver(folder, 2, keep, keep_period) as saver:
        for step in range(1, 13):
            if saver.should_save(step):
                saver.save(state, step, {})
    assert sorted(int(p.name) for p in checkpoints.checkpoint_dir(folder).iterdir()) == left


def test_saving_a_step_twice_is_no_error(tmp_path, mesh_of):
    state = random_state(mesh_of(1, 1))
    with Saver(str(tmp_path), 1, 2) as saver:
        for _ in range(2):
            saver.save(state, 3, {})


def test_a_new_run_has_nothing_to_restore(tmp_path, mesh_of):
    abstract = abstract_state(make_model, TX, mesh_of(1, 1))
    with Saver(str(tmp_path), 1, 2) as saver:
        assert saver.restore(abstract) is None


@pytest.mark.parametrize(
    "model, array",
    [(dict(width=32), "bias"), (dict(routes=()), "stacks"), (dict(depth=6), "stacks")],
)
def test_a_checkpoint_of_another_network_is_named(run, mesh_of, model, array):
    folder, _ = run

    def other(key):
        return make_network(completed(model=model), key)

    abstract = abstract_state(other, TX, mesh_of(1, 1))
    with (
        Saver(folder, every=1, keep=9) as saver,
        pytest.raises(UserError, match=rf"does not fit this network: model/\S*{array}.* there"),
    ):
        saver.restore(abstract)


def test_a_config_comes_back(run):
    folder, _ = run
    saved, names = record.read(folder)
    assert saved == completed() and names == NAMES
    assert saved.model.routes == ((1, 2),)


def test_a_run_is_continued_with_its_own_config(run):
    folder, _ = run
    record.prepare(folder, completed(), NAMES, begun=True)
    longer = completed(train=dict(steps=10_000, log_every=7), sample=dict(guidance="cfg"))
    record.prepare(folder, longer, NAMES, begun=True)


def test_rates_may_change_and_by_how_much_is_logged(run, tmp_path, capsys):
    folder = str(tmp_path / "run")
    record.prepare(folder, completed(), NAMES, begun=True)
    other = completed(optimizer=dict(learning_rate=3e-5, weight_decay=0.1))
    record.prepare(folder, other, NAMES, begun=True)
    said = capsys.readouterr().out
    assert "learning_rate was 0.0001; from here on it is 3e-05, 0.3 times that." in said
    assert "weight_decay was 0; from here on it is 0.1." in said
    record.prepare(folder, other, NAMES, begun=True)
    assert "from here on" not in capsys.readouterr().out
    assert record.read(folder)[0].optimizer.learning_rate == 3e-5


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(objective=dict(gamma=0.25)), ["config.objective.gamma=0.25", "0.5"]),
        (dict(optimizer=dict(b1=0.5)), ["config.optimizer.b1=0.5", "0.9"]),
        (dict(train=dict(batch_size=8)), ["config.train.batch_size=8", "256"]),
        (dict(train=dict(ema_decay=0.5)), ["config.train.ema_decay=0.5", "0.9999"]),
        (dict(seed=3), ["config.seed=3", "0"]),
        (dict(data=dict(flip=True)), ["config.data.flip=True", "False"]),
        (dict(model=dict(routes=((1, 3),))), ["config.model.routes=((1, 3),)", "((1, 2),)"]),
    ],
)
def test_a_run_is_not_continued_with_another_config(run, changes, named):
    folder, _ = run
    with pytest.raises(UserError) as error:
        record.prepare(folder, completed(**changes), NAMES, begun=True)
    for part in [*named, folder]:
        assert part in str(error.value)


def test_sampling_may_change_what_training_used(run):
    folder, _ = run
    other = completed(objective=dict(gamma=0.1), model=dict(dtype="bfloat16", remat="full"))
    record.check_same(other, folder, "sampled")
    with pytest.raises(UserError, match=r"config\.model\.dtype='bfloat16' differs"):
        record.check_same(other, folder, "scored")  # scores would be mixed
    with pytest.raises(UserError, match=r"config\.model\.heads=4 differs from the 2"):
        record.check_same(completed(model=dict(heads=4)), folder, "sampled")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"workdir='\S*none' does not exist"):
        checkpoints.load(tmp_path / "none")


def test_a_foreign_folder_is_named_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"has no config\.json"):
        checkpoints.load(tmp_path)
    with pytest.raises(UserError, match=r"not empty and has no config\.json"):
        record.prepare(str(tmp_path), completed(), NAMES, begun=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ['{"model_type": "gpt2"}', "{}", "[]", "{"])
def test_the_config_of_another_program_is_left_alone(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json cannot be read .*: give another folder"):
        record.prepare(str(tmp_path), completed(), NAMES, begun=False)
    assert (tmp_path / "config.json").read_text() == text


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        record.prepare(str(tmp_path / "run"), completed(), NAMES, begun=False)


def test_a_run_without_checkpoints_is_named(tmp_path):
    record.prepare(str(tmp_path), completed(), NAMES, begun=False)
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", json.dumps({"config": {"trian": {}}})])
def test_a_broken_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        record.read(tmp_path)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(weights="raw"), "weights='raw' must be one of"),
        (dict(weights=["ema"]), r"weights=\['ema'\] must be one of"),
        (dict(step="2"), "step='2' is not a checkpoint"),
        (dict(step=2.0), "step=2.0 is not a checkpoint"),
        (dict(step=10**400), r"step=2\*\*1328 or more is not a checkpoint"),
        (dict(mesh=3), "mesh=3 must be a mesh with the axes"),
        (dict(like="runs/x"), "like='runs/x' must be a network"),
    ],
)
def test_a_wrong_argument_is_named(run, given, words):
    with pytest.raises(UserError, match=words):
        checkpoints.load(run[0], **given)


@pytest.mark.parametrize("workdir", [None, 3, b"runs/x", ["runs/x"], {}])
def test_what_is_no_path_is_named(workdir):
    with pytest.raises(UserError, match="must be a path, such as 'runs/digits'"):
        checkpoints.load(workdir)


def test_a_folder_without_checkpoints_takes_another_config(tmp_path):
    folder = str(tmp_path / "run")
    record.prepare(folder, completed(), NAMES, begun=False)
    other = completed(optimizer=dict(learning_rate=1.0))
    record.prepare(folder, other, NAMES, begun=False)
    assert record.read(folder)[0].optimizer.learning_rate == 1.0


def test_the_kind_of_network_is_compared_first(run):
    other = completed(model=dict(kind="maskdit", routes=(), decoder_depth=2))
    with pytest.raises(UserError, match=r"config\.model\.kind='maskdit' differs from the 'dit'"):
        record.check_same(other, run[0], "sampled")


def test_a_half_written_checkpoint_is_not_taken_for_one(tmp_path, mesh_of):
    """As a run killed while it saves leaves it."""
    folder = str(tmp_path / "run")
    record.prepare(folder, completed(), NAMES, begun=False)
    state = write(folder, mesh_of(1, 1), step=4)
    partial = checkpoints.checkpoint_dir(folder) / "5.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "model").mkdir()
    assert_equal(checkpoints.load(folder), state.ema)
    abstract = abstract_state(make_model, TX, mesh_of(1, 1))
    with Saver(folder, every=1, keep=9) as saver:
        restored, _ = saver.restore(abstract)
    assert restored.step == 4
