"""Directions move the tokens of their subjects alone, and are found where they are planted."""

import dataclasses
import types

import captioned_pictures
import jax
import numpy as np
import pytest
import random_weights

from sg_jax.data import contrasts, subjects
from sg_jax.data.directions import Direction
from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import Named
from sg_jax.models import layers
from sg_jax.models.text_dit import TextDiT
from sg_jax.parallel import sharding
from sg_jax.programs import control, directions
from sg_jax.programs.conditions import Conditions
from sg_jax.programs.sampling import sample

PROMPTS = ["a circle above a star", "a star and a CIRCLE"]
TRIPLES = [(f"a {{{n}}}", f"a big {{{n}}}", f"a tiny {{{n}}}") for n in ("circle", "star")]
CFG_SG = Guidance(scale=2.0, gamma_weak=0.5, weak_label="null")


SIZES = dict(
    image_size=8, channels=3, patch=2, width=16, heads=2, depth=2, routes=((1, 1),),
    text_length=24, text_layers=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def net():
    return random_weights.network(lambda rngs: TextDiT(**SIZES, rngs=rngs), 0.2)


@pytest.fixture(scope="module")
def size(net):
    values = np.random.default_rng(1).standard_normal(16).astype(np.float32)
    own = control.fingerprint(net.conditioning)
    return Direction(values, "size", own, "", "learned", tuple(TRIPLES))


def draw(net, prompts=PROMPTS, guidance="unguided", **more):
    return sample(net, prompts, guidance, 2, pixels=False, **more)


@pytest.mark.slow
def test_a_scale_of_zero_changes_no_bit(net, size):
    """Alone it adds nothing to the program; beside another scale it adds zeros."""
    plain = draw(net)
    np.testing.assert_array_equal(draw(net, control=[("circle", size, 0.0)]), plain)
    some = draw(net, control=[("circle", size, [0.0, 2.0])])
    np.testing.assert_array_equal(some[0], plain[0])
    assert np.abs(some[1] - plain[1]).max() > 1e-3


def test_only_the_tokens_of_the_subject_move(net, size):
    asked = [("circle", size, [1.0, -2.0]), ("star", size, 0.5)]
    conditions = Conditions(net.conditioning, PROMPTS, control=asked)
    found = conditions.rows(0, 2, 3)
    once = Conditions(net.conditioning, iter(PROMPTS), control=asked).rows(0, 2, 3)
    np.testing.assert_array_equal(once["shift"], found["shift"])
    moved = np.zeros((3, 24, 16), np.float32)
    moved[0, 2:8], moved[0, 17:21] = size.values, 0.5 * size.values  # bytes of both words
    moved[1, 13:19], moved[1, 2:6] = -2 * size.values, 0.5 * size.values
    np.testing.assert_allclose(found["shift"], moved)

    plain = {name: found[name] for name in ("text", "length")}
    embed = jax.jit(lambda net, c: net.conditioning(c, net.dtype)[0])
    np.testing.assert_allclose(embed(net, found) - embed(net, plain), moved, atol=1e-5)
    null = net.conditioning.null
    np.testing.assert_array_equal(embed(net, null(found)), embed(net, null(plain)))


def test_tokens_of_another_width_cannot_be_moved_alike(net, size):
    """Autoguidance by a smaller network."""
    weak = random_weights.network(lambda rngs: TextDiT(**{**SIZES, "width": 8}, rngs=rngs))
    how = dict(guidance=Guidance(scale=2.0), weak_model=weak)
    prompts = net.conditioning.check(PROMPTS)
    shifted = {**prompts, "shift": np.zeros((2, 24, 16), np.float32)}
    for asked, moved in ((PROMPTS, [("circle", size, 1.0)]), (shifted, [])):
        with pytest.raises(UserError, match=r"of width 16, but .* have width 8"):
            draw(net, asked, control=moved, **how)


@pytest.mark.slow
def test_batches_and_devices_change_nothing(net, size):
    asked = [("circle", size, [1.0, -2.0, 0.5])]
    prompts = [*PROMPTS, PROMPTS[0]]
    mesh = sharding.make_mesh(devices=jax.devices()[:2])
    whole, parts, spread = (
        draw(net, prompts, CFG_SG, control=asked, **how)
        for how in ({}, dict(batch_size=2), dict(mesh=mesh))
    )
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_allclose(spread, whole, atol=1e-5)


@pytest.mark.slow
def test_no_text_is_not_moved(net, size):
    """The null prediction of CFG is that without control: at omega 0 nothing else is left."""
    null = Guidance(scale=0.0, weak_label="null")
    one, two = (draw(net, guidance=null, control=c) for c in ([], [("star", size, 3.0)]))
    np.testing.assert_allclose(one, two, atol=1e-5)
    same = Guidance(scale=0.0, gamma_weak=0.5)  # the weak prediction of SG has the text
    one, two = (draw(net, guidance=same, control=c) for c in ([], [("star", size, 3.0)]))
    assert np.abs(one - two).max() > 1e-3


def planted(net, direction):
    """Prompts whose positive and negative tokens differ by a direction."""
    found = [c.neutral for c in contrasts.of_texts(TRIPLES)]
    condition = net.conditioning.check([m.text for m in found])
    places = control.places_of(net.conditioning, found)
    shift = 0.5 * places[:, :, None] * direction
    pair = [({**condition, "shift": np.float32(sign * shift)}, places) for sign in (1, -1)]
    return directions.Conditions((condition, places), *pair)


def test_the_difference_finds_a_planted_direction(net, size):
    found = directions.difference(net, planted(net, size.values))
    np.testing.assert_allclose(found, size.values, atol=1e-5)


@pytest.mark.slow
def test_guidance_that_needs_another_network_is_left_out(net, capsys):
    options = dict(steps=1, images=2, draw_steps=1)
    found, plain = (
        directions.find_direction(net, TRIPLES, "learned", guidance=g, **options).values
        for g in ("ag", "unguided")
    )
    np.testing.assert_array_equal(found, plain)
    assert "needs another network: images are drawn without guidance." in capsys.readouterr().out


@pytest.mark.slow  # four programs
def test_devices_that_do_not_share_a_step_change_no_direction(net):
    """Two images of a step do not divide over three devices, and the network lies on one."""
    options = dict(steps=2, images=3, draw_steps=1, batch_size=2)
    alone = jax.device_put(net, jax.devices()[0])
    found, plain = (
        directions.find_direction(alone, TRIPLES, mesh=mesh, **options).values
        for mesh in (sharding.make_mesh(devices=jax.devices()[:3]), None)
    )
    np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.slow
def test_learning_finds_what_a_planted_direction_does(net, size):
    """Its tokens need not be the same: what the network does not read, nothing can learn."""
    rng = np.random.default_rng(2)
    images, which = rng.standard_normal((8, 8, 8, 3)).astype(np.float32), np.arange(8) % 2
    how = directions.Learning(steps=60, learning_rate=0.1, lowest=0.2, highest=1.0)
    losses = []
    asked = planted(net, 0.3 * size.values)
    found = directions.learned(
        net, asked, images, which, how, progress=lambda n, loss: losses.append(loss)
    )
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:3])
    cosine = found @ size.values / np.linalg.norm(found) / np.linalg.norm(size.values)
    assert cosine > 0.5


@pytest.mark.slow
def test_directions_are_found_saved_and_used(net, tmp_path):
    for method in directions.METHODS:
        found = directions.find_direction(
            net, TRIPLES, method, "size", steps=3, images=4, draw_steps=2
        )
        assert found.method == method and np.linalg.norm(found.values) > 0
        path = found.save(tmp_path / f"{method}.npz")
        from_file, direct = (draw(net, control=[("circle", d, 1.0)]) for d in (path, found))
        np.testing.assert_array_equal(from_file, direct)


@pytest.mark.parametrize(
    "asked, named",
    [
        ("size.npz", ["control='size.npz'", "list of (subject, direction, scale)"]),
        ([("circle", 1.0)], ["list of (subject, direction, scale)"]),
        ([("square", None, 1.0)], ["control[0]: prompts[0]='a circle above a star'", "'square'"]),
        ([("circle", "none.npz", 1.0)], ["control[0]'s direction", "none.npz"]),
        ([("circle", None, float("nan"))], ["control[0]'s scale nan"]),
        ([("circle", None, [1.0] * 3)], ["control[0]'s scale", "2 prompts"]),
        ([(7, None, 1.0)], ["control[0]'s subject 7"]),
    ],
)
def test_a_wrong_control_is_named(net, size, asked, named):
    if isinstance(asked, list):
        asked = [tuple(size if part is None else part for part in entry) for entry in asked]
    with pytest.raises(UserError) as error:
        Conditions(net.conditioning, PROMPTS, control=asked)
    for part in named:
        assert part in str(error.value)


def test_a_direction_of_another_network_is_refused(net, size, small):
    other = dataclasses.replace(size, network="0" * 16)
    with pytest.raises(UserError, match="another network"):
        Conditions(net.conditioning, PROMPTS, control=[("circle", other, 1.0)])
    with pytest.raises(UserError, match="conditions are 5 classes"):
        Conditions(small.conditioning, [0], control=[("circle", size, 1.0)])
    features = net.conditioning.check(PROMPTS)
    with pytest.raises(UserError, match="only features"):
        Conditions(net.conditioning, features, control=[("circle", size, 1.0)])


def test_a_subject_beyond_the_text_is_named(net, size):
    with pytest.raises(UserError, match=r"'circle' .* beyond the 24 bytes"):
        Conditions(net.conditioning, ["a star left of a big circle"], control=[("circle", size, 1)])


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(method="best"), "method='best'"),
        (dict(prompts=[]), "no prompts"),
        (dict(prompts=["a {circle}"]), r"prompts\[0\]='a \{circle\}' must be three texts"),
        (dict(steps=0), "config.control.steps=0"),
        (dict(step=3), "step= is not one of steps"),
        (dict(model="runs/shapes"), "model='runs/shapes' must be a network"),
        (dict(mesh=3), "mesh=3 must be a mesh"),
        (dict(text_encoder="clip"), "text_encoder='clip' must be the encoder"),
        (dict(lowest=3.0), "config.control.lowest=3.0 must be at most"),
    ],
)
def test_what_cannot_be_found_is_named(net, changes, named):
    with pytest.raises(UserError, match=named):
        directions.find_direction(**{"model": net, "prompts": TRIPLES, **changes})


def test_an_encoder_that_the_network_was_not_trained_with_finds_no_direction():
    net = layers.abstract(lambda rngs: TextDiT(**SIZES, text_features=2, rngs=rngs))
    net.named = Named(encoder="01")
    with pytest.raises(UserError, match=r"not the encoder.*\(fe, not 01"):
        other = captioned_pictures.Encoder("b/c", fingerprint="fe")
        directions.find_direction(net, np.array(TRIPLES), "difference", text_encoder=other)


def test_words_of_a_subject_are_its_tokens():
    conditioning = types.SimpleNamespace(
        length=30, features=0, tokens=5, most_words=5, most="30 bytes or 5 words"
    )
    asked = [subjects.find("a rëd star, circle", "circle"), subjects.find("a rëd star", "rëd star")]
    found = control.places_of(conditioning, asked)
    assert [np.flatnonzero(row).tolist() for row in found] == [[4], [1, 2]]
    with pytest.raises(UserError, match="beyond the 30 bytes or 5 words"):
        control.places_of(conditioning, [subjects.find("a star and a blue circle", "circle")])


def test_tokens_of_an_encoder_are_found_by_their_characters():
    """A token belongs to the subject if it shares a character with it; prefixes do not."""
    text = subjects.find("a red circle", "circle")  # characters 6 to 12
    spans = [(-4, 0), (0, 1), (1, 5), (5, 9), (9, 12), (0, 0)]  # "a", " red", " cir", "cle"
    encoder = types.SimpleNamespace(spans=lambda texts: [spans] * len(texts))
    conditioning = types.SimpleNamespace(features=4, tokens=8, most="8 tokens")
    found = control.places_of(conditioning, [text], encoder)
    assert np.flatnonzero(found[0]).tolist() == [3, 4]
    del spans[4:]
    with pytest.raises(UserError, match="beyond the 8 tokens"):
        control.places_of(conditioning, [text], encoder)
