"""How often a run goes back, which batches it reads then, and what its user is told."""

import json
import types

import pytest

from sg_jax.errors import UserError
from sg_jax.programs.health import Diverged, Finding
from sg_jax.weights.rollbacks import Rollbacks


@pytest.fixture
def diverge(tmp_path):
    """Note a divergence at a step of the run in tmp_path, which has these checkpoints."""

    def call(rollbacks, step, *saved, action="rollback", sound=None, data=False):
        for number in saved:
            (tmp_path / "checkpoints" / str(number)).mkdir(parents=True, exist_ok=True)
        train = types.SimpleNamespace(on_divergence=action)
        config = types.SimpleNamespace(
            train=train, data=types.SimpleNamespace(name="digits", split="train")
        )
        sound = step - 1 if sound is None else sound
        rollbacks.after(Diverged(Finding(step, sound, f"Fault at {step}", data)), config)

    return call


def test_a_run_without_rollbacks_reads_what_is_next(tmp_path):
    rollbacks = Rollbacks(str(tmp_path))
    assert (len(rollbacks), rollbacks.position(0, 0), rollbacks.position(7, 7)) == (0, 0, 7)


def test_the_batches_of_a_run_that_went_back_do_not_depend_on_kills(tmp_path, diverge):
    one = Rollbacks(str(tmp_path))
    assert one.position(0, 0) == 0
    diverge(one, 19, 10)  # the batches 0 to 18 are passed over
    for rollbacks in (one, Rollbacks(str(tmp_path))):
        assert rollbacks.position(10, 10) == 19
    # 20 is saved at position 19 + 10; step 25 reads up to 34.
    assert one.position(20, 29) == 29
    diverge(one, 25, 20)
    for rollbacks in (one, Rollbacks(str(tmp_path))):
        assert (len(rollbacks), rollbacks.position(20, 29)) == (2, 34)
        assert rollbacks.position(10, 10) == 34  # if 20 is damaged: no batch twice
        assert rollbacks.position(30, 44) == 44


def test_rollbacks_to_one_checkpoint_end(tmp_path, diverge):
    for _ in range(2):  # another command tries as often, with other data
        rollbacks = Rollbacks(str(tmp_path))
        for _ in range(3):
            rollbacks.position(3, 3)
            diverge(rollbacks, 5, 3)
        rollbacks.position(3, 3)
        with pytest.raises(UserError, match=r"Fault at 5.*after 3 rollbacks to step 3 too"):
            diverge(rollbacks, 5, 3)
    rows = json.loads((tmp_path / "rollbacks.json").read_text())
    assert [row["position"] for row in rows] == [5, 7, 9, 11, 13, 15, 17, 19]
    assert [row["last"] for row in rows] == [False, False, False, True] * 2


def test_a_later_checkpoint_is_tried_as_often(tmp_path, diverge):
    rollbacks = Rollbacks(str(tmp_path))
    for step in (5, 5, 5, 8, 8, 8):
        diverge(rollbacks, step, 3 if step == 5 else 6)
    with pytest.raises(UserError, match="to step 6 too"):
        diverge(rollbacks, 8, 6)


def test_a_checkpoint_that_may_be_spoiled_is_passed_over(tmp_path, diverge, capsys):
    rollbacks = Rollbacks(str(tmp_path))
    diverge(rollbacks, 7, 3, 6, sound=5)
    assert "Back to step 3" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "6.diverged"}
    diverge(rollbacks, 7, 6, sound=5)  # saved once more
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {
        "3", "6.diverged", "6.diverged.1",
    }  # fmt: skip
    diverge(rollbacks, 4, sound=2)  # with no other one left it is tried, and kept
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"3"}


@pytest.mark.parametrize(
    "saved, sound, words",
    [
        (
            (),
            4,
            ["no checkpoint yet: lower config.opt", "'skip' or 'rollback'"],
        ),
        ((3,), 4, ["checkpoint of step 3 is from before that, and sound", "train.init_from="]),
        ((3, 6), 5, ["checkpoint of step 6 may have the same fault: move it", "that of step 3"]),
        ((6,), 5, ["The only checkpoint, of step 6, may have the same fault"]),
    ],
)
def test_what_is_kept_is_said(tmp_path, diverge, saved, sound, words):
    with pytest.raises(UserError) as raised:
        diverge(Rollbacks(str(tmp_path)), 7, *saved, action="stop", sound=sound)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert ("init_from" in message) == bool(saved)
    assert not (tmp_path / "rollbacks.json").exists()


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_bad_weights_to_start_from_are_named_as_that(tmp_path, diverge, action):
    with pytest.raises(UserError, match=r"Fault at 0: give others \(config\.train\.init_from"):
        diverge(Rollbacks(str(tmp_path)), 0, action=action, sound=-1)


@pytest.mark.parametrize("action", ["stop", "skip", "rollback"])
def test_bad_data_is_no_reason_to_go_back(tmp_path, diverge, action):
    with pytest.raises(UserError, match=r"config\.data\.name='digits', split 'train', has NaN"):
        diverge(Rollbacks(str(tmp_path)), 7, 3, action=action, data=True)


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{}", '{"a": 1}', '[{"step": 1}]', "[" * 9999, "\x00",
     '[{"step": 1, "position": -1}]', '[{"step": 1, "position": 1e400}]',
     '[{"step": 1, "position": true}]', '[{"step": 1, "position": 1, "last": 2}]'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "rollbacks.json").write_text(content)
    with pytest.raises(UserError, match=r"rollbacks\.json is damaged or another file"):
        Rollbacks(str(tmp_path))
