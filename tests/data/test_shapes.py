"""The shapes: what scenes hold, what is said of them, and that images are read back exactly."""

import hashlib

import numpy as np
import pytest

from sg_jax.data import embedded, shapes, shapes_captions, shapes_detector, shapes_scenes
from sg_jax.data.shapes_captions import captions
from sg_jax.data.shapes_outlines import AREA, REACH, SHAPES, SIDE, coverage
from sg_jax.data.shapes_scenes import Draws, Scene, Thing, draw, held_out, random_scene, relation
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError


def thing(shape="circle", colour="red", radius=4.6, shade=0.7, x=8.0, y=16.0):
    return Thing(shape, colour, radius, shade, x, y)


def scenes(count, first=50_000, unseen=False):
    return [random_scene(Draws(first + i), unseen) for i in range(count)]


def kinds(things):
    return sorted((one.shape, one.colour) for one in things)


def wrong(count, first, unseen):
    """Return how many of `count` scenes are not read back as they were drawn."""
    drawn = scenes(count, first, unseen)
    found = shapes_detector.detect(np.stack([draw(scene) for scene in drawn]))
    return sum(
        kinds(scene.things) != kinds(one.thing for one in each)
        for scene, each in zip(drawn, found, strict=True)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_its_area_within_its_reach(shape):
    covered = coverage(shape, 16.0, 16.0, 5.0)
    assert covered.sum() == pytest.approx(AREA[shape] * 25, rel=0.03)
    side, up, down = (5 * reach for reach in REACH[shape])
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    # Tips are thinner than a pixel.
    assert abs(rows[0] + 0.5 - (16 - up)) < 1.5 and abs(rows[-1] + 0.5 - (16 + down)) < 1.5
    assert abs(columns[0] + 0.5 - (16 - side)) < 1.5 and abs(columns[-1] + 0.5 - (16 + side)) < 1.5


def test_scenes_are_the_same_everywhere():
    images = np.stack([draw(scene) for scene in scenes(64, first=0)])
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "b1c9574e591ac89c"


def test_every_scene_is_drawn_whole_and_its_things_are_apart():
    counts = set()
    for scene in scenes(300):
        boxes = np.array([one.box for one in scene.things])
        assert boxes.min() >= 0 and boxes.max() <= SIDE
        counts.add(len(boxes))
        if len({one.shape for one in scene.things}) == 2:
            assert relation(*scene.things)
    assert counts == {1, 2, 3}


def test_held_out_combinations_are_never_in_training():
    for scene in scenes(300):
        shapes_there = [one.shape for one in scene.things]
        for one in scene.things:
            assert (one.shape, one.colour) not in shapes_scenes.UNSEEN_COLOURS
        if len(set(shapes_there)) == 1:
            assert (shapes_there[0], len(shapes_there)) not in shapes_scenes.UNSEEN_COUNTS
        else:
            assert frozenset(shapes_there) not in shapes_scenes.UNSEEN_PAIRS
            (a, b), where = scene.things, relation(*scene.things)
            assert not shapes_scenes.unseen_place(a.shape, where, b.shape)
            assert not shapes_scenes.unseen_place(b.shape, relation(b, a), a.shape)
    assert all(held_out(scene) for scene in scenes(50, unseen=True))


@pytest.mark.parametrize(
    "things, said",
    [
        ([thing()], {"a circle", "a red circle", "one red circle"}),
        (
            [thing("star", "blue", 3.5, 0.5)],
            {"a small star", "a small blue star", "a dark blue star", "a blue star"},
        ),
        (
            [thing("cross", x=6.0), thing("cross", x=25.0)],
            {"two crosses", "two red crosses"},
        ),
        (
            [thing(), thing("square", "blue", 5.5, x=24.0)],
            {
                "a circle and a square",
                "a red circle left of a blue square",
                "a blue square right of a red circle",
                "a large blue square right of a red circle",
            },
        ),
        (
            [thing(y=6.0), thing("square", "blue", y=25.0)],
            {"a circle above a square", "a blue square below a red circle"},
        ),
    ],
)
def test_captions_say_what_is_there(things, said):
    found = captions(Scene(tuple(things)))
    assert said <= set(found)
    assert len(set(found)) == len(found)


def test_captions_are_short():
    longest = max(len(text) for scene in scenes(300) for text in captions(scene))
    assert longest <= shapes_captions.LONGEST


def test_the_detector_reads_scenes_back():
    assert wrong(500, 50_000, unseen=False) == wrong(100, 60_000, unseen=True) == 0


@pytest.mark.slow
def test_the_detector_reads_ten_thousand_scenes_back():
    assert wrong(9_000, 100_000, unseen=False) + wrong(1_000, 200_000, unseen=True) <= 10


def test_the_detector_measures_size_brightness_and_place():
    for shape in SHAPES:
        for radius, shade in ((3.3, 0.5), (4.6, 0.75), (5.8, 1.0)):
            drawn = thing(shape, "cyan", radius, shade, 13.3, 17.8)
            ((found,),) = shapes_detector.detect(draw(Scene((drawn,)))[None])
            assert found.confidence > 0.95
            assert found.thing.radius == pytest.approx(radius, rel=0.05)
            assert found.thing.shade == pytest.approx(shade, abs=0.02)
            assert (found.thing.x, found.thing.y) == pytest.approx((13.3, 17.8), abs=0.2)


def test_the_detector_bears_noise_and_blur():
    from scipy import ndimage

    drawn = scenes(200)
    images = np.stack([draw(scene) for scene in drawn]).astype(np.float64)
    images = ndimage.gaussian_filter(images, (0, 0.5, 0.5, 0))
    images += np.random.default_rng(0).normal(0, 6, images.shape)
    found = shapes_detector.detect(np.clip(images, 0, 255).astype(np.uint8))
    right = [
        kinds(scene.things) == kinds(one.thing for one in each)
        for scene, each in zip(drawn, found, strict=True)
    ]
    assert np.mean(right) > 0.97


def test_the_detector_finds_nothing_where_nothing_is():
    noise = np.random.default_rng(0).normal(200, 6, (4, 32, 32, 3)).astype(np.uint8)
    noise[0] = 255
    noise[1] = [[250, 20, 20]]  # a wall of red is no shape
    assert shapes_detector.detect(noise) == [[], [], [], []]
    assert shapes_detector.detect(noise[:0]) == []


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 16, 16, 3), (1, 32, 32, 1)])
def test_the_detector_refuses_other_images(shape):
    with pytest.raises(UserError, match="shapes are found in uint8"):
        shapes_detector.detect(np.zeros(shape, np.uint8))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder with the first 40 and 20 shapes."""
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "TRAIN", 40)
        patch.setattr(shapes, "TEST", 20)
        open_source("shapes", "train", str(folder))
    return folder


def test_the_data_set_has_images_captions_and_labels(few):
    train, test = (open_source("shapes", split, str(few)) for split in ("train", "test"))
    assert (len(train), len(test), train.image_shape) == (40, 20, (32, 32, 3))
    for i in range(40):
        scene = random_scene(Draws(i))
        np.testing.assert_array_equal(train[i]["image"], draw(scene))
        assert train.captions[i] == captions(scene)
        first = min(scene.things, key=lambda one: one.x)
        assert train.class_names[train[i]["label"]] == f"{first.colour} {first.shape}"
    seen = {random_scene(Draws(40 + i)) for i in range(10)}
    assert not any(held_out(scene) for scene in seen)
    unseen = random_scene(Draws(40 + 15), unseen=True)
    np.testing.assert_array_equal(test[15]["image"], draw(unseen))


def test_every_embedded_data_set_has_a_builder():
    for name in embedded.BUILDERS:
        module, _, kind = embedded.BUILDERS[name].partition(":")
        assert kind.lower() == name == module.rpartition(".")[2]
