"""TextDiT: a DiT whose blocks attend to text, such as the routed 2.5B text-to-image network.

Its conditions are texts (`text.Text`). The time alone scales, shifts and gates the blocks.
Tokens read the text by attention, between self-attention and MLP (Krause et al., arXiv 2601.01608).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import SettingError, is_whole, plain
from sg_jax.method.routing import Conditioned, Context
from sg_jax.models import sizes
from sg_jax.models.dit import DiT
from sg_jax.models.text import Text


class TextDiT(DiT):
    """A DiT conditioned on text.

    Args:
      heads: H, of tokens and of text.
      text_length: L, the tokens of a text; shorter texts are padded.
      text_words: T, the words of a text of bytes, each of which is a token; 0: each byte is.
      text_features: F, channels of a frozen encoder's features; 0: bytes, embedded by a table.
      text_layers: transformer layers that refine the text before the blocks read it.
      qk_norm, bias: see `DiT`; they apply to the text's layers too.
      rngs: initial weights.
      dit: image_size, channels, patch, width, depth and the other arguments of `DiT`, except
        num_classes.
    """

    unread = ("num_classes",)

    def __init__(
        self,
        *,
        heads: int,
        text_length: int,
        text_words: int = 0,
        text_features: int = 0,
        text_layers: int = 2,
        qk_norm: bool = False,
        bias: bool = True,
        rngs: nnx.Rngs,
        **dit: Any,
    ):
        (text_length,) = sizes.checked(text_length=text_length)
        counts = dict(
            text_words=plain(text_words),
            text_features=plain(text_features),
            text_layers=plain(text_layers),
        )
        for name, count in counts.items():
            if not is_whole(count) or not 0 <= count <= sizes.LARGEST[name]:
                rule = f"must be an int in [0, {sizes.LARGEST[name]}]."
                raise SettingError("config.model", name, count, rule)
        words, features, count = counts.values()
        if words and (features or words > text_length):
            most = f"must be at most text_length={text_length}."
            rule = "must be 0 with text_features." if features else most
            raise SettingError("config.model", "text_words", words, rule)
        self.text_words, self.text_length = words, text_length
        self.text_features, self.text_layers = features, count

        def embed(width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> Text:
            return Text(
                text_length, features, width, heads, count, dtype, rngs, bias, qk_norm, words
            )

        tokens = words or text_length
        super().__init__(
            heads=heads, qk_norm=qk_norm, bias=bias, embed=embed, text=tokens, rngs=rngs, **dit
        )

    @property
    def conditioning(self) -> Text:
        """The texts that images can be sampled under."""
        return self.text_embedding

    def _context(self, time: jax.Array, condition: Any) -> Conditioned:
        rotation = self._rotation(len(time)) if self.parts.rotates else None
        return Context(time, rotation, *condition)
