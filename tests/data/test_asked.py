"""What a network of texts is asked for: captions of a split in a fixed order, and prompts."""

import captioned_pictures
import numpy as np
import pytest

from sg_jax.data import asked
from sg_jax.data.asked import Captioned
from sg_jax.data.section import Data
from sg_jax.data.sources import open_source
from sg_jax.data.wording import Wording
from sg_jax.encoders.text import Text
from sg_jax.errors import UserError

BLUE, RED = 0, 1  # folders in the order of their names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return captioned_pictures.write(tmp_path_factory.mktemp("pictures"), splits=("train", "test"))


@pytest.fixture
def captioned(folder):
    return Captioned(open_source(str(folder), "train"), Wording(16))


def test_captions_come_with_their_classes_in_a_fixed_order(captioned):
    found = captioned.ask(6)
    assert len(found) == 6 and found.prompts == found.words
    assert [("red" in text) * 1 for text in found.words] == found.labels.tolist()
    assert set(found.labels.tolist()) == {BLUE, RED} and found.labels.dtype == np.int32
    assert captioned.ask(6).words == found.words
    part = found[2:5]
    assert part.words == found.words[2:5] and part.prompts == found.words[2:5]
    np.testing.assert_array_equal(asked.labels_of(part), found.labels[2:5])
    np.testing.assert_array_equal(asked.labels_of(part[1:]), found.labels[3:5])
    assert part.digest() == captioned.ask(6)[2:5].digest() != found.digest()


def test_more_than_there_are_take_the_further_captions(captioned):
    words = captioned.ask(24).words
    assert len(set(words)) == 24  # 12 pictures of two captions
    assert captioned.ask(36).words == words + words[:12]
    assert all(text.startswith("a ") for text in words[:12])


def test_the_test_split_is_asked_if_it_is_there(folder, capsys):
    name, source = str(folder), open_source(str(folder), "train")
    assert asked.of_data(Data(name=name), Text(), source).source.split == "test"
    capsys.readouterr()
    found = asked.of_data(Data(name=name, test_split="validation"), Text(), source)
    assert found.source is source
    assert "Captions are drawn from split 'train'" in capsys.readouterr().out


def test_without_captions_there_is_nothing_to_ask(digits_dir):
    data = Data(data_dir=str(digits_dir))
    source = open_source("digits", "train", data.data_dir)
    with pytest.raises(UserError, match="has no captions"):
        asked.of_data(data, Text(), source)


def test_texts_are_encoded_only_when_they_are_due():
    calls = []

    def encode(texts):
        calls.append(texts)
        return {"length": np.array(list(map(len, texts)))}

    found = asked.of_texts(["a", "bb", "c"], encode)
    assert found[1:].prompts["length"].tolist() == [2, 1] and calls == [["bb", "c"]]
    assert asked.of_texts(["a", "b"])[:1].prompts == ["a"]


def test_a_prompt_of_several_images_is_encoded_once():
    encoder, texts = captioned_pictures.Encoder(), ["a", "b", "b", "a", "c"]
    found = asked.of_texts(texts, encoder)[:4].prompts
    assert encoder.seen == [2]
    for name, value in encoder(texts[:4]).items():
        np.testing.assert_array_equal(found[name], value)


def test_features_without_texts_are_told_apart():
    text = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    found = asked.of_features({"text": text, "length": np.array([1, 2])})
    np.testing.assert_array_equal(found[1:].prompts["text"], text[1:])
    other = asked.of_features({"text": text + 1, "length": np.array([1, 2])})
    assert found.words == ["", ""] and found.digest() != other.digest()
