"""The network with all choices of its block, written out in NumPy float64, one image at a time."""

import math
import re

import jax
import numpy as np


def name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def arrays_of(model):
    """The weights by name: "blocks/stacks/0/mlp/hidden/kernel"."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def bucket(word):
    """The bucket of a word of bytes: a sum of products modulo 2**32, in Python's integers."""
    factors = np.random.default_rng(0).integers(0, 2**31, 64).astype(np.uint32) * 2 + 1
    total = sum((byte + 2) * int(factor) for byte, factor in zip(word, factors, strict=False))
    return (total * 0x9E3779B1 % 2**32) >> 20


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rms(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def turn(x, angles):
    """Turn pairs (i, i + half) of one head's channels [N, head] by angles [N, half]."""
    z = x[:, : x.shape[1] // 2] + 1j * x[:, x.shape[1] // 2 :]
    z = z * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], axis=1)


class Plain:
    """A network's weights in float64, and its forward pass."""

    def __init__(self, model):
        self.model, self.weights = (
            model,
            {k: np.asarray(v, np.float64) for k, v in arrays_of(model).items()},
        )

    def linear(self, path, x, pick=...):
        y = x @ self.weights[f"{path}/kernel"][pick]
        return y + self.weights[f"{path}/bias"][pick] if f"{path}/bias" in self.weights else y

    def norm(self, path, x, pick=...):
        """RMSNorm if there is a weight at `path`, and LayerNorm otherwise."""
        if path in self.weights:
            return rms(x, self.weights[path][pick])
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def mlp(self, path, x, pick=...):
        hidden = self.linear(f"{path}/hidden", x, pick)
        if f"{path}/gate/kernel" in self.weights:
            hidden = silu(self.linear(f"{path}/gate", x, pick)) * hidden
        else:
            hidden = gelu(hidden)
        return self.linear(f"{path}/out", hidden, pick)

    def attention(self, path, x, source, pick=..., angles=None):
        heads = self.model.heads
        q = self.linear(f"{path}/query", x, pick)
        k, v = (self.linear(f"{path}/{part}", source, pick) for part in ("key", "value"))
        out, size = [], q.shape[1] // heads
        for n in range(0, q.shape[1], size):  # channels of a head lie side by side
            a, b = q[:, n : n + size], k[:, n : n + size]
            if f"{path}/query_norm" in self.weights:
                a = rms(a, self.weights[f"{path}/query_norm"][pick])
                b = rms(b, self.weights[f"{path}/key_norm"][pick])
            if angles is not None:
                a, b = turn(a, angles), turn(b, angles)
            scores = np.exp(a @ b.T / math.sqrt(size))
            out.append(scores / scores.sum(1, keepdims=True) @ v[:, n : n + size])
        return self.linear(f"{path}/out", np.concatenate(out, axis=1), pick)

    def modulation(self, path, c, count, pick=...):
        x = silu(c)
        if f"{path}/down/kernel" in self.weights:
            x, path = self.linear(f"{path}/down", x, pick), f"{path}/up"
        return np.split(self.linear(path, x, pick), count)

    def text(self, text, length):
        """Return the refined tokens of a text without its padding."""
        path, weights = "text_embedding", self.weights
        if f"{path}/table" in weights:
            x = weights[f"{path}/table"][np.asarray(text)]
            whole = bytes(int(token) - 1 for token in np.asarray(text)[: int(length)])
            for word in re.finditer(rb"[A-Za-z0-9\x80-\xff]+|.", whole, re.DOTALL):
                x[word.start() : word.end()] += weights[f"{path}/words"][bucket(word[0])]
            if self.model.text_words:
                spans = [word.span() for word in re.finditer(rb"[A-Za-z0-9\x80-\xff]+|\S", whole)]
                x, length = np.array([x[a:b].mean(axis=0) for a, b in spans]), len(spans)
        else:
            x = np.asarray(text, np.float64)
            x = self.linear(f"{path}/project", rms(x, weights[f"{path}/feature_norm"]))
        x = x[: int(length)] if length else weights[f"{path}/blank"][None]
        head = x.shape[1] // self.model.heads
        turns = 10000.0 ** (-np.arange(head // 2) / (head // 2))
        angles = np.arange(len(x))[:, None] * turns
        for n in range(len(self.model.conditioning.refine)):
            at = f"{path}/refine/{n}"
            y = self.norm(f"{at}/attention_norm", x)
            x = x + self.attention(f"{at}/attention", y, y, angles=angles)
            x = x + self.mlp(f"{at}/mlp", self.norm(f"{at}/mlp_norm", x))
        return rms(x, weights[f"{path}/norm"])

    def block(self, path, pick, h, c, angles, text):
        m = self.modulation(f"{path}/modulation", c, 6, pick)
        x = self.norm(f"{path}/attention_norm", h, pick) * (1 + m[1]) + m[0]
        h = h + m[2] * self.attention(f"{path}/attention", x, x, pick, angles)
        if text is not None:
            x = self.norm(f"{path}/text_norm", h, pick)
            h = h + self.attention(f"{path}/text_attention", x, text, pick)
        x = self.norm(f"{path}/mlp_norm", h, pick) * (1 + m[4]) + m[3]
        return h + m[5] * self.mlp(f"{path}/mlp", x, pick)

    def __call__(self, x, t, condition, ids):
        """Return the velocity of one image [H, W, C]; ids are kept places [K] for each route."""
        model, x = self.model, np.asarray(x, np.float64)
        d, p, side = model.width, model.patch, model.image_size // model.patch
        cells = [(row, column) for row in range(side) for column in range(side)]
        h = np.stack([x[p * r : p * r + p, p * s : p * s + p].ravel() for r, s in cells])
        h = self.linear("patch_embedding", h)
        if model.parts.positions != "rotary":
            waves = 10000.0 ** (-np.arange(d // 4) / (d // 4))
            h = h + np.array(
                [[f(n * w) for n in (s, r) for f in (np.sin, np.cos) for w in waves]
                 for r, s in cells]
            )  # fmt: skip
        angles, head = None, d // model.heads
        if model.parts.positions != "table":
            turns = 10000.0 ** (-np.arange(head // 4) / (head // 4))
            angles = np.array([[n * w for n in cell for w in turns] for cell in cells])
        waves = 10000.0 ** (-np.arange(128) / 128)
        features = np.concatenate([np.cos(t * waves), np.sin(t * waves)])
        c = self.linear("time_embedding/out", silu(self.linear("time_embedding/hidden", features)))
        text = None
        if isinstance(condition, dict):
            text = self.text(condition["text"], condition["length"])
        else:
            c = c + self.weights["label_embedding/table"][condition]
        for number, segment in enumerate(model.blocks.segments):
            every = segment.route is None or ids is None
            kept = np.arange(len(h)) if every else np.asarray(ids[segment.route])
            inside, turns = h[kept], None if angles is None else angles[kept]
            for pick in range(segment.stop - segment.start):
                at = f"blocks/stacks/{number}"
                inside = self.block(at, pick, inside, c, turns, text)
            h[kept] = inside
        shift, scale = self.modulation("final_modulation", c, 2)
        out = self.linear("final", self.norm("final_norm", h) * (1 + scale) + shift)
        v = np.empty_like(x)
        for (r, s), token in zip(cells, out, strict=True):
            v[p * r : p * r + p, p * s : p * s + p] = token.reshape(p, p, -1)
        return v
