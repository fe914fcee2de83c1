"""The buckets of words: what is a word, and what its bucket depends on."""

import numpy as np
from plain_network import bucket

from sg_jax.models.encoding import BUCKETS, encode_bytes, word_buckets


def buckets(text, length=64):
    """The bucket of each byte of a text."""
    condition, _ = encode_bytes([text], length)
    return np.asarray(word_buckets(condition["text"]))[0, : len(text.encode())].tolist()


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
