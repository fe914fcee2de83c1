"""Small pictures with captions, and a frozen text encoder without torch."""

import json

import numpy as np
from PIL import Image

from sg_jax.encoders.text import Described, TextEncoder
from sg_jax.errors import UserError


def write(folder, splits=("train", "test"), count=6, captions=None):
    """Write `count` red and as many blue pictures of 8x8 in each split, with two captions each.

    `captions` may return others, from a colour and a number.
    """
    texts = captions or (lambda colour, i: [f"a {colour} square {i}", f"{colour} {i}"])
    for split in splits:
        for place, colour in enumerate(("red", "blue")):
            path = folder / split / colour
            path.mkdir(parents=True)
            rows = []
            for i in range(count):
                pixels = np.zeros((8, 8, 3), np.uint8)
                pixels[..., 2 * place] = 100 + i
                Image.fromarray(pixels).save(path / f"{i}.png")
                rows.append({"file_name": f"{i}.png", "captions": texts(colour, i)})
            (path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


class Encoder(TextEncoder):
    """A token for each letter, whose features are its code over 100 and its place."""

    def __init__(self, name="encoders/letters", length=12, fingerprint="0123456789abcdef", **text):
        told = dict(prefix="", cut_prefix=False) | text
        self.name = name
        self.about = Described(name, fingerprint, length, features=2, **told)
        self.seen = []  # how many texts each call had

    def cut(self, texts):
        return [len(self.about.prefix + text) > self.length for text in texts]

    def __call__(self, texts):
        self.seen.append(len(texts))
        found = np.zeros((len(texts), self.length, 2), np.float32)
        lengths = np.zeros(len(texts), np.int32)
        for row, text in enumerate(texts):
            codes = [ord(c) / 100 for c in (self.about.prefix + text)[: self.length]]
            if "NaN" in text:
                raise UserError(f"texts[{row}] has features that are not finite")
            found[row, : len(codes)] = np.stack([codes, np.arange(len(codes))], 1)
            lengths[row] = len(codes)
        return {"text": found, "length": lengths}
