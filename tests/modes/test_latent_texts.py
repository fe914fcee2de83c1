"""Features of captions by --mode latents: stored, read back as conditions, and what is refused."""

import json
import shlex

import captioned_pictures
import numpy as np
import pytest
from image_files import picture, write
from published import golden

from sg_jax.config import parsing, tree
from sg_jax.data import wording
from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import open_source, options_of
from sg_jax.encoders.text import Text
from sg_jax.errors import UserError
from sg_jax.main import main
from sg_jax.weights import text_encoders

TEXT = Text(encoder="encoders/letters", length=12, prefix="> ")


@pytest.fixture
def encode(tmp_path, monkeypatch):
    """Flags -> the data set that is made of small pictures with captions."""
    made = []

    def load(text):
        made.append(captioned_pictures.Encoder(length=text.length, prefix=text.prefix))
        return made[-1]

    monkeypatch.setattr(text_encoders, "load", load)

    def run(*flags, name="made", captions=None):
        pictures = tmp_path / "pictures"
        if not pictures.exists():
            captioned_pictures.write(pictures, splits=("train",), captions=captions)
        main([
            "main", "--mode=latents", "--config=configs/digits.py",
            f"--config.data.name={pictures}", f"--to={tmp_path}", f"--name={name}", "--per_file=4",
            "--config.text.encoder=encoders/letters", "--config.text.length=12",
            "--config.text.prefix=> ", *flags,
        ])  # fmt: skip
        return open_source(name, "train", str(tmp_path))

    run.made = made
    return run


def expected(text):
    """The features of a caption by the stand-in."""
    codes = [ord(c) / 100 for c in f"> {text}"[:12]]
    return np.stack([codes, np.arange(len(codes))], 1)


def check(source):
    """Assert that the features of every caption come back as the condition."""
    reading = wording.of(TEXT, source)
    assert (reading.length, reading.features) == (12, 2)
    worded = reading.of(source)
    for i in range(len(source)):
        captions, features = source.captions[i], worded[i]["texts"]
        assert len(captions) == len(features) == 2
        for caption, found in zip(captions, features, strict=True):
            np.testing.assert_allclose(found, expected(caption), atol=0.01)
        condition = reading.chosen(worded[i], 1)["condition"]
        assert condition["text"].shape == (12, 2) and condition["length"] == len(features[1])
        assert not condition["text"][condition["length"] :].any()
    return reading


def followed(said):
    """The config of a training with the flags that are printed and another config's values."""
    flags = shlex.split(said.partition("Train on them with\n")[2].splitlines()[0])
    return parsing.parse(flags, "configs/emoji_t2i.py")


def test_pictures_keep_their_pixels_beside_features(encode, tmp_path, capsys):
    source = encode()
    said = capsys.readouterr().out
    assert "config.text.length=12 cuts 12 of 24 captions" in said
    assert (
        "12 images of 8x8x3, 2 classes, with captions and their features (12 tokens of 2)" in said
    )
    config = followed(said)  # whose length and words are others
    assert tree.check(config).text == TEXT
    assert (config.data.name, config.data.data_dir) == ("made", str(tmp_path))
    pictures = open_source(str(tmp_path / "pictures"), "train")
    assert len(source) == 12 and not source.latents
    for i in range(12):  # in their order, and without mirror images
        np.testing.assert_array_equal(source[i]["image"], pictures[i]["image"])
        assert source.captions[i] == pictures.captions[i]
    reading = check(source)
    batches = train_iterator(source, batch_size=4, seed=0, threads=0, wording=reading)
    condition = next(batches)["condition"]
    assert condition["text"].shape == (4, 12, 2) and condition["text"].dtype == np.float16
    main(["main", "--mode=latents", "--check", f"--to={tmp_path}", "--name=made"])
    assert "All 12 images" in capsys.readouterr().out


def test_latents_keep_features_too(encode, tmp_path, capsys):
    np.savez(tmp_path / "tae.npz", **golden("tae_tiny")[1])
    source = encode(
        f"--config.autoencoder.path={tmp_path / 'tae.npz'}", "--config.data.image_size=16",
        "--dtype=bfloat16", "--config.data.split=train[:100%]",
    )  # fmt: skip
    assert source.latents and len(source) == 12
    data = followed(capsys.readouterr().out).data  # of images of 32x32
    assert data.split == "train"
    assert len(open_source(data.name, data.split, **options_of(data))) == 12
    reading = check(source)
    batch = next(train_iterator(source, batch_size=4, seed=0, threads=0, wording=reading))
    assert batch["condition"]["text"].dtype == np.float32


def test_tars_of_webdataset_become_latents_with_features(encode, tmp_path):
    """Filtered and mixed as the two stages of the paper are; other captions have their own."""
    np.savez(tmp_path / "tae.npz", **golden("tae_tiny")[1])
    scored, plain = {}, {}
    for i, score in enumerate((4.0, 5.0, 6.5)):
        scored |= {f"{i}.png": picture(i, size=(16, 20)), f"{i}.txt": f"coyo {i}".encode()}
        scored[f"{i}.json"] = json.dumps({"aesthetic_score_laion_v2": score}).encode()
    for i in range(2):
        plain |= {f"{i}.png": picture(i, size=(16, 16)), f"{i}.txt": f"made {i}".encode()}
    for name, files in (("scored", scored), ("plain", plain)):
        write(tmp_path / name / "00000", files, "tar")
    source = encode(
        f"--config.data.name=wds:{tmp_path}/scored,{tmp_path}/plain@2",
        "--config.data.aesthetics=5", "--config.data.image_size=16",
        f"--config.autoencoder.path={tmp_path / 'tae.npz'}",
    )  # fmt: skip
    found = sorted(source.captions[i] for i in range(len(source)))
    assert found == [("coyo 1",), ("coyo 2",)] + 2 * [("made 0",)] + 2 * [("made 1",)]
    assert source.latents
    worded = wording.of(TEXT, source).of(source)
    for i in range(len(source)):
        (features,) = worded[i]["texts"]
        np.testing.assert_allclose(features, expected(source.captions[i][0]), atol=0.01)


def test_a_second_command_goes_on_with_the_same_encoder_alone(encode, tmp_path, monkeypatch):
    source = encode("--mirror=yes")
    assert len(source) == 24
    np.testing.assert_array_equal(source[1]["image"], source[0]["image"][:, ::-1])
    with pytest.raises(UserError, match="exists: delete it"):
        encode()
    (tmp_path / "other.unfinished" / "progress").mkdir(parents=True)
    about = tmp_path / "other.unfinished" / "progress" / "about.json"
    about.write_text('{"text": {"encoder": "another"}}')
    with pytest.raises(UserError, match=r"was begun with .* but now it is"):
        encode(name="other")


@pytest.mark.parametrize(
    ("caption", "said"),
    [("", "has no caption, or an empty one"), ("NaN", r"example \d.*4\.png.*not finite")],
)
def test_the_picture_whose_caption_is_wrong_is_named(encode, tmp_path, caption, said):
    with pytest.raises(UserError, match=said):
        encode(captions=lambda colour, i: caption if i == 4 else f"{colour} {i}")
    assert not (tmp_path / "made").exists()


def test_what_cannot_be_encoded(encode, tmp_path, digits_dir):
    digits = ["--config.data.name=digits", f"--config.data.data_dir={digits_dir}"]
    with pytest.raises(UserError, match=r"'digits' has no captions, but config\.text\.encoder="):
        encode(*digits)
    with pytest.raises(UserError, match=r"autoencoder\.path is empty"):
        encode("--config.text.encoder=bytes", "--config.text.prefix=")
    assert not encode.made
