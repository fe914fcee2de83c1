"""Text as a condition: bytes, or features of a frozen encoder, refined for the blocks to read.

A text condition is a dict of arrays with one row per image: "text", int32 [B, L] or float
[B, L, F], and "length", int32 [B], how many of the L places are text. Length 0 means "no text".
"shift", float [B, T, D], is optional: it is added to each refined token before blocks read it
(`method.control`). If the text is bytes, the T tokens are the bytes themselves, or words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.errors import UserError, shown
from sg_jax.models import layers, norms, rotary
from sg_jax.models.encoding import BUCKETS, BYTES, encode_bytes, word_buckets, word_shares
from sg_jax.models.text_layers import TextLayer

MASKED = -1e9  # added to a logit, it makes the weight exactly 0


class Text(nnx.Module):
    """Texts of up to T tokens, embedded into vectors [B, T, D] that blocks attend to.

    Args:
      length: L, features or bytes of a text.
      features: F, channels of a frozen encoder; 0: the text is bytes.
      width: D.
      heads: H.
      depth: how many `TextLayer`s refine it.
      dtype: compute type.
      rngs: initial weights.
      bias: whether linear layers have biases.
      qk_norm: whether queries and keys are normalised.
      words: T, words of a text of bytes, each of which is one token: the vector of its bucket plus
        the mean of its bytes' vectors; 0: each of the L bytes or features is a token.
    """

    def __init__(
        self,
        length: int,
        features: int,
        width: int,
        heads: int,
        depth: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        bias: bool = True,
        qk_norm: bool = False,
        words: int = 0,
    ):
        self.most_words, self.tokens = words, words or length
        self.length, self.features, self.width, self.heads = length, features, width, heads
        if features:
            self.feature_norm = norms.weight_of("rms", features)
            self.project = layers.Linear(features, width, dtype, rngs, bias=bias)
        else:
            self.table = nnx.Param(layers.NORMAL(rngs.params(), (BYTES, width)))
            self.words = nnx.Param(layers.NORMAL(rngs.params(), (BUCKETS, width)))
        self.blank = nnx.Param(layers.NORMAL(rngs.params(), (width,)))  # stands for "no text"
        made = [TextLayer(width, heads, dtype, rngs, bias, qk_norm) for _ in range(depth)]
        self.refine = nnx.List(made)
        self.norm = norms.weight_of("rms", width)

    def __call__(
        self, condition: Mapping[str, jax.Array], dtype: jnp.dtype
    ) -> tuple[jax.Array, jax.Array]:
        """Return text tokens [B, T, D] and what is added to the logits of each [B, T], float32."""
        text, length = condition["text"], condition["length"]
        if self.features:
            x = self.project(norms.rms(text.astype(dtype), self.feature_norm[...]))
        else:
            x = self.table[...][text] + self.words[...][word_buckets(text)]
            if self.most_words:
                shares = word_shares(text, self.most_words)
                length = shares.any(axis=2).sum(axis=1)
                x = jnp.einsum("btl,bld->btd", shares, x)
            x = x.astype(dtype)
        places = jnp.arange(x.shape[1])[None]  # [1, T]
        none = (length[:, None] == 0) & (places == 0)  # [B, T]
        x = jnp.where(none[:, :, None], self.blank[...].astype(dtype)[None, None], x)
        mask = jnp.where(places < jnp.maximum(length, 1)[:, None], 0.0, MASKED)
        rotation = jnp.asarray(rotary.line(x.shape[1], self.width // self.heads))[None]
        for layer in self.refine:
            x = layer(x, mask, rotation)
        x = norms.rms(x, self.norm[...])
        if "shift" in condition:
            x = x + condition["shift"].astype(dtype)
        return x, mask

    def macs(self, mixing: bool) -> float:
        """Return the multiply-adds for one text; see `TextLayer.macs`."""
        first = self.project.macs * self.length if self.features else 0
        return first + sum(layer.macs(self.tokens, mixing) for layer in self.refine)

    @property
    def kind(self) -> str:
        """What the conditions are, in words."""
        return f"text, {self.most}" + (f" of {self.features} features" if self.features else "")

    @property
    def most(self) -> str:
        """The most that a text may have, in words."""
        if self.features:
            return f"{self.length} tokens"
        return f"{self.length} bytes" + (f" or {self.most_words} words" if self.most_words else "")

    @property
    def count(self) -> None:
        """Texts cannot be counted."""

    @property
    def drawable(self) -> bool:
        """There is no list of texts to draw one from."""
        return False

    def null(self, condition: Any) -> Any:
        """Return "no text" for each image: zeros."""
        return jax.tree.map(jnp.zeros_like, condition)

    def another(self, condition: Any, keys: jax.Array) -> Any:
        """Raise: there is no list of texts to draw another one from."""
        raise UserError(
            "weak_label='random' (ICG) draws another of the network's conditions, but "
            "texts cannot be counted: use weak_label='null' or 'same'."
        )

    def check(
        self, prompts: Sequence[str] | Mapping[str, Any], name: str = "prompts"
    ) -> dict[str, np.ndarray]:
        """Return the condition of prompts, one per image.

        Args:
          prompts: texts, for a network of bytes; or a condition, the dict of arrays.
          name: of the argument, for messages.

        Raises:
          UserError: something is not a text, or an array has the wrong shape or values.
        """
        if isinstance(prompts, Mapping):
            return self._checked(prompts, name)
        if isinstance(prompts, str):
            raise UserError(f"{name}={shown(prompts)} must be a list of texts: put it into [].")
        try:
            texts: list[Any] = list(prompts)
        except TypeError:  # a single thing
            raise UserError(
                f"{name}={shown(prompts)} must be a list of texts, because the network's "
                f"conditions are {self.kind}."
            ) from None
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(
                    f"{name}[{place}]={shown(text)} must be a text, because the network's "
                    f"conditions are {self.kind}."
                )
        if self.features:
            raise UserError(
                f"{name} are texts, but the network reads features of a frozen encoder "
                f"({self.kind}): give text_encoder, the encoder that it was trained with."
            )
        return encode_bytes(texts, self.length, self.most_words)[0]

    def _checked(self, given: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
        """Return a condition that is given as arrays."""
        if set(given) - {"shift"} != {"text", "length"}:
            raise UserError(
                f"{name} has the entries {shown(sorted(map(str, given)))}, but it must have 'text' "
                "and 'length', and may have 'shift'."
            )
        text, length = np.asarray(given["text"]), np.asarray(given["length"])
        shape = (self.length, self.features) if self.features else (self.length,)
        if text.ndim != len(shape) + 1 or text.shape[1:] != shape:
            asked = ", ".join(["B", *map(str, shape)])
            raise UserError(
                f"{name}['text'] has the shape {list(text.shape)}, but the network's conditions "
                f"are {self.kind}: it must be [{asked}]."
            )
        floats = jnp.issubdtype(text.dtype, jnp.floating)
        if floats if not self.features else not floats:
            wanted = "floats" if self.features else f"ints in [0, {BYTES - 1}]"
            raise UserError(f"{name}['text'] has the type {text.dtype}; it must be {wanted}.")
        if self.features:
            rows = text.astype(np.float32, copy=False).reshape(len(text), -1)
            broken = np.flatnonzero(~np.isfinite(rows).all(1))
            if broken.size:
                raise UserError(
                    f"{name}['text'][{broken[0]}] has NaN or infinite features ({broken.size} of "
                    f"{len(text)} texts do)."
                )
        elif not np.issubdtype(text.dtype, np.integer) or (
            text.size and not 0 <= text.min() <= text.max() < BYTES
        ):
            raise UserError(f"{name}['text'] must be ints in [0, {BYTES - 1}]: bytes plus 1.")
        if length.shape != (len(text),) or not np.issubdtype(length.dtype, np.integer):
            raise UserError(
                f"{name}['length'] is {length.dtype} {list(length.shape)}, but it must be one int "
                f"for each of the {len(text)} texts."
            )
        wrong = np.flatnonzero((length < 0) | (length > self.length))
        if wrong.size:
            raise UserError(
                f"{name}['length'][{wrong[0]}]={length[wrong[0]]} must lie in [0, {self.length}]."
            )
        kept = text if self.features else text.astype(np.int32)
        found = {"text": kept, "length": length.astype(np.int32)}
        return found | ({"shift": self._shift(given, name)} if "shift" in given else {})

    def _shift(self, given: Mapping[str, Any], name: str) -> np.ndarray:
        shift, shape = np.asarray(given["shift"]), (len(given["text"]), self.tokens, self.width)
        fits = shift.shape == shape and jnp.issubdtype(shift.dtype, jnp.floating)
        if not fits or not np.isfinite(shift.astype(np.float32)).all():
            raise UserError(
                f"{name}['shift'] is {shift.dtype} {list(shift.shape)}; it must be finite floats "
                f"{list(shape)}."
            )
        return shift.astype(np.float32)
