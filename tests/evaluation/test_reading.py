"""Images by index, kept or read anew, and indices evenly spread."""

import threading

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import reading
from sg_jax.evaluation.reading import Reader, in_parts, spread


class Numbers:
    """Image i is filled with i; reads are counted."""

    def __init__(self, count):
        self.count, self.reads, self.lock = count, [], threading.Lock()

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        with self.lock:
            self.reads.append(i)
        return {"image": np.full((2, 2, 1), i, np.uint8), "label": i % 3}


@pytest.mark.parametrize("keep", [0, 2**20])
def test_batches_come_in_the_order_asked_for(keep, monkeypatch):
    monkeypatch.setattr(reading, "KEEP_BYTES", keep)
    source = Numbers(20)
    reader = Reader(source)
    assert len(reader) == 20 and reader.image_shape == (2, 2, 1)
    parts = [np.array([3, 1]), np.array([19]), np.arange(20)[::-1]]
    for _ in range(2):
        found = list(reader.batches(parts))
        assert [images[:, 0, 0, 0].tolist() for images, _ in found] == [p.tolist() for p in parts]
        assert [labels.tolist() for _, labels in found] == [(p % 3).tolist() for p in parts]
    assert len(source.reads) == 1 + (20 if keep else 2 * 23)  # the first tells the shape


def test_an_error_in_a_thread_is_raised(monkeypatch):
    class Broken(Numbers):
        def __getitem__(self, i):
            if i == 7:
                raise UserError("example 7 cannot be read")
            return super().__getitem__(i)

    monkeypatch.setattr(reading, "KEEP_BYTES", 0)
    with pytest.raises(UserError, match="example 7"):
        list(Reader(Broken(10)).batches(in_parts(np.arange(10), 4)))


def test_a_reader_that_is_not_read_to_the_end_ends(monkeypatch):
    monkeypatch.setattr(reading, "KEEP_BYTES", 0)
    source = Numbers(100)
    batches = Reader(source).batches(in_parts(np.arange(100), 10))
    next(batches)
    batches.close()
    assert len(source.reads) <= 1 + 20  # one batch ahead


def test_evenly_spread_indices_by_hand():
    assert spread(4, 10).tolist() == [0, 2, 5, 7]
    assert spread(10, 4).tolist() == [0, 1, 2, 3]
    assert spread(10_000, 1_281_167)[-1] == 9999 * 1_281_167 // 10_000
