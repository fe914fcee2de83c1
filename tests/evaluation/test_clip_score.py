"""The CLIP score: what a missing package is answered with, and the score itself."""

import sys
import types

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation.clip_score import Clip


class _Tensor:
    def __init__(self, value):
        self.value = np.asarray(value)

    def double(self):
        return self

    def numpy(self):
        return self.value.astype(np.float64)


@pytest.fixture
def stand_in(monkeypatch):
    """Stand-ins of torch and transformers: embeddings are the mean colour, and a text's digits."""

    class Network:
        @classmethod
        def from_pretrained(cls, name):
            if name == "missing":
                raise OSError("no such model")
            return cls()

        def eval(self):
            return self

        def float(self):
            self.whole = True
            return self

        def __call__(self, text, images, **_):
            assert self.whole, "weights in half precision compute in it"
            colours = [np.mean(image, axis=(0, 1)) for image in images]
            texts = [[float(d) for d in t] for t in text]
            return types.SimpleNamespace(image_embeds=_Tensor(colours), text_embeds=_Tensor(texts))

        def process(self, text, images, return_tensors, padding, truncation):
            assert all(image.shape[-1] == 3 for image in images)
            return dict(text=text, images=images)

    class Processor:
        from_pretrained = staticmethod(lambda name: Network().process)

    class Nothing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(no_grad=Nothing))
    given = types.SimpleNamespace(CLIPModel=Network, AutoProcessor=Processor)
    monkeypatch.setitem(sys.modules, "transformers", given)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the package .*pip install 'sg_jax\[clip\]'"):
        Clip("openai/clip-vit-base-patch32")


def test_an_unknown_network_is_named(stand_in):
    with pytest.raises(UserError, match=r"config\.compose\.clip='missing' cannot be loaded"):
        Clip("missing")


def test_the_score_is_a_hundred_cosines(stand_in):
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[0] = [100, 0, 0]
    images[1] = [100, 100, 0]
    images[2] = [0, 0, 50]
    # Cosines of (1, 0, 0) with itself, (1, 1, 0) with (1, 0, 0), and (0, 0, 1) with (1, 0, 0).
    scores = Clip("some").scores(images, ["100", "100", "100"])
    np.testing.assert_allclose(scores, [100, 100 / np.sqrt(2), 0], atol=1e-9)
