"""The buckets of words: what is a word, and what its bucket depends on."""

import numpy as np
import pytest
from plain_network import bucket

from sg_jax.data.shapes_captions import NUMBERS, plural
from sg_jax.data.shapes_outlines import SHAPES
from sg_jax.data.shapes_scenes import COLOURS, SHADES, SIZES
from sg_jax.models.encoding import BUCKETS, encode_bytes, word_buckets, word_shares, word_spans


def buckets(text, length=64):
    """The bucket of each byte of a text."""
    condition, _ = encode_bytes([text], length)
    return np.asarray(word_buckets(condition["text"]))[0, : len(text.encode())].tolist()


@pytest.mark.slow
def test_every_byte_of_a_word_has_the_words_bucket():
    found = buckets("a red circle, a circle")
    assert len(set(found[6:12])) == 1 and found[6:12] == found[16:22]
    assert found[0] == found[14] and found[1] == found[5]  # "a", " "
    assert len(set(found)) == len(["a", " ", "red", "circle", ","])
    assert found[16:] == buckets("circle") == buckets("circle", length=6)


def test_words_of_other_scripts_are_whole():
    assert len(set(buckets("κύκλος"))) == len(set(buckets("öäü42"))) == 1
    assert len(set(buckets("two-two"))) == 2


def test_the_order_of_bytes_matters_and_words_spread():
    assert buckets("abc")[0] != buckets("cba")[0] != buckets("abcc")[0]
    words = sorted({f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "lmnrst"})
    found = [buckets(word)[0] for word in words]
    assert 0 <= min(found) and max(found) < BUCKETS
    expected = BUCKETS * (1 - (1 - 1 / BUCKETS) ** len(words))  # if they fall at random
    assert len(set(found)) > expected - 4


def test_a_bucket_is_a_sum_over_the_bytes_of_the_word():
    """The hash in Python's integers, modulo 2**32."""
    assert buckets("a square")[2] == bucket(b"square")


def test_no_text_has_buckets_too():
    condition, _ = encode_bytes(["", "a"], 5)
    found = np.asarray(word_buckets(condition["text"]))
    assert found.shape == (2, 5) and found[0, 0] == found[1, 1] != found[1, 0]


def test_the_shares_of_bytes_in_words():
    """Spaces are in no word; each other byte has one over the length of its word."""
    condition, _ = encode_bytes(["ab  c,", "", " "], 7)
    found = np.asarray(word_shares(condition["text"], 4))
    expected = np.zeros((3, 4, 7))
    expected[0, 0, :2], expected[0, 1, 4], expected[0, 2, 5] = 0.5, 1, 1
    np.testing.assert_allclose(found, expected)
    assert word_spans(b"ab  c,") == [(0, 2), (4, 5), (5, 6)]


@pytest.mark.parametrize(
    "text, kept, cut",
    [("a b", "a b", 0), ("a b ", "a b ", 0), ("a b c", "a b", 1), ("ab, c", "ab,", 1), ("", "", 0)],
)
def test_texts_are_cut_to_so_many_words(text, kept, cut):
    found, number = encode_bytes([text], 16, words=2)
    size = int(found["length"][0])
    assert bytes((found["text"][0, :size] - 1).tolist()).decode() == kept and number == cut


def test_the_words_of_the_shapes_have_buckets_of_their_own():
    """Or the network could not tell some of them apart quickly."""
    shapes = [*SHAPES, *map(plural, SHAPES)]
    words = {
        *shapes,
        *COLOURS,
        *SIZES,
        *SHADES,
        *NUMBERS,
        *"a an and left right of above below".split(),
    }
    words -= {""}
    assert len({bucket(word.encode()) for word in words}) == len(words) > 30
