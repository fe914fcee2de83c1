"""Captions as the conditions of batches: drawn anew in each epoch, and the same after a resume."""

import captioned_pictures
import jax
import numpy as np
import pytest

from sg_jax.data import identity, wording
from sg_jax.data.pipeline import seek, train_iterator
from sg_jax.data.sources import open_source
from sg_jax.data.wording import Wording
from sg_jax.encoders.text import Described, Text
from sg_jax.errors import UserError
from sg_jax.models.encoding import encode_bytes
from sg_jax.programs import heldout

LENGTH = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = captioned_pictures.write(tmp_path_factory.mktemp("pictures"))
    return open_source(str(folder), "train")


@pytest.fixture
def iterate(source):
    """Arguments -> batches of 4 of the 12 pictures."""
    opened = []

    def run(**arguments):
        given = {"batch_size": 4, "seed": 3, "threads": 0, "wording": Wording(LENGTH)} | arguments
        opened.append(train_iterator(source, **given))
        return opened[-1]

    yield run
    for iterator in opened:
        iterator.close()


def texts_of(condition):
    rows = zip(condition["text"], condition["length"], strict=True)
    return [bytes((text[:length] - 1).astype(np.uint8)).decode() for text, length in rows]


def equal(left, right):
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_a_batch_has_the_captions_of_its_pictures(iterate):
    batch = next(iterate())
    condition = batch["condition"]
    assert condition["text"].shape == (4, LENGTH) and condition["text"].dtype == np.int32
    for image, text in zip(batch["image"], texts_of(condition), strict=True):
        red, blue = image[0, 0, 0] > -1, image[0, 0, 2] > -1
        assert (red, blue) == ("red" in text, "blue" in text)
        level = round((max(image[0, 0, 0], image[0, 0, 2]) + 1) * 127.5) - 100
        assert text.endswith(f" {level}")


def test_one_caption_is_drawn_anew_in_each_epoch(iterate):
    batches = iterate()
    drawn = {}
    for _ in range(3 * 20):  # 20 epochs
        batch = next(batches)
        for image, text in zip(batch["image"], texts_of(batch["condition"]), strict=True):
            drawn.setdefault(image.tobytes(), []).append(text)
    assert len(drawn) == 12
    for texts in drawn.values():
        assert len(set(texts)) == 2 and 3 < texts.count(texts[0]) < 17


def test_a_batch_depends_on_seed_and_step_alone(iterate):
    whole = iterate(threads=2)
    batches = [next(whole) for _ in range(7)]
    resumed = iterate()
    seek(resumed, 5)
    assert equal(next(resumed), batches[5])
    halves = [iterate(process_index=i, process_count=2) for i in range(2)]
    for half in halves:
        seek(half, 4)
    parts = [next(half) for half in halves]
    joined = jax.tree.map(lambda *each: np.concatenate(each), *parts)
    assert equal(joined, batches[4])
    assert not equal(next(iterate(seed=4)), batches[0])


@pytest.mark.slow  # two processes start
def test_batches_of_other_processes_are_the_same(iterate):
    here, there = iterate(), iterate(workers=2)
    assert all(equal(next(here), next(there)) for _ in range(4))


def test_classes_are_as_before(source):
    batch = next(train_iterator(source, batch_size=4, seed=3, threads=0))
    assert batch["condition"].shape == (4,) and batch["condition"].dtype == np.int32


@pytest.mark.parametrize("words", [0, 2])
@pytest.mark.parametrize(
    "text", ["", "a b", "a b ", "a b c", "abcdefghi", "üüüüü", "ab, c", "\ud800 x"]
)
def test_what_is_cut_is_what_the_condition_lacks(text, words):
    cut = encode_bytes([text], 9, words)[1]
    assert Wording(9, words=words).cuts(text) == bool(cut)


def test_how_many_captions_are_cut_is_said_once(source, capsys):
    wording.check(Wording(9), source)
    assert capsys.readouterr().out == (
        "12 of 24 captions are longer than 9 bytes (config.text.length), and cut; the longest "
        "has 15 bytes.\n"
    )
    wording.check(Wording(15), source)
    assert capsys.readouterr().out == ""


def test_captions_in_memory_are_looked_at_without_threads(source, monkeypatch):
    """For a million captions, tasks would take a minute and 2 GB."""
    monkeypatch.delattr(wording, "ThreadPoolExecutor")
    assert len(wording.look(Wording(LENGTH).of(source))) == len(source)


@pytest.mark.parametrize("caption", [[], "", " \n", ["", "  "]])
def test_a_picture_without_a_caption_is_named(tmp_path, caption):
    captioned_pictures.write(tmp_path, captions=lambda c, i: caption if i == 4 else f"{c} {i}")
    source = open_source(str(tmp_path), "train")
    assert wording.of(Text(), source) == Wording(128)
    with pytest.raises(UserError, match=r"example \d+ of split 'train', .*4\.png, has no caption"):
        wording.check(Wording(LENGTH), source)
    batches = train_iterator(
        source, batch_size=12, seed=0, threads=0, wording=Wording(LENGTH)
    )  # as an example that was not looked at
    with pytest.raises(UserError, match=r"4\.png, has no caption"):
        next(batches)


def test_data_without_captions_are_refused(digits_dir):
    digits = open_source("digits", "train", str(digits_dir))
    with pytest.raises(UserError, match=r"config\.data\.name='digits' has no captions.*\.txt file"):
        wording.of(Text(), digits)
    with pytest.raises(UserError, match=r"'digits' has no text features.*--mode latents"):
        wording.of(Text(encoder="a/b"), digits)


def test_features_of_another_encoder_are_refused():
    made = Described("a/b", "01", 12, "Draw: ", False, 8)
    source = type("Source", (), {"name": "made", "described": made})()
    text = dict(encoder="a/b", length=12, prefix="Draw: ")
    assert wording.of(Text(**text), source) == Wording(12, 8)
    for change, said in (
        (dict(encoder="a/c"), "encoder 'a/b' instead of 'a/c'"),
        (dict(length=13), "length 12 instead of 13"),
        (dict(prefix=""), "prefix 'Draw: ' instead of ''"),
        (dict(cut_prefix=True), "cut_prefix False instead of True"),
    ):
        with pytest.raises(UserError, match=f"not made as config.text says: {said}"):
            wording.of(Text(**text | change), source)


def test_a_run_knows_its_captions_again(source, tmp_path):
    found = identity.of(source, Text())
    assert "captions" not in identity.of(source)
    captioned_pictures.write(tmp_path, captions=lambda c, i: f"{c} {i + (c == 'red') * (i == 2)}")
    other = identity.of(open_source(str(tmp_path), "train"), Text())
    assert identity.differences(found, other) == "other captions"


def test_held_out_images_have_their_first_captions(source, mesh_of):
    images = heldout.read(source, 8, 4, 0, mesh_of(1, 1), Wording(LENGTH))
    found = [text for batch in images.batches for text in texts_of(batch["condition"])]
    assert len(found) == 8 and all(text.startswith("a ") for text in found)
