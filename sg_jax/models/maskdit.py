"""MaskDiT: an encoder of only the kept tokens, and a small decoder that predicts all tokens.

Masking (Krause et al., arXiv 2601.01608, Eq. 4; Zheng et al., arXiv 2306.09305) is the other way to
train on few tokens: a masked token goes through no encoder block and reaches the decoder as a
learned mask token, whereas a token that bypasses a route keeps its value from before the route.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import UserError, plain, shown
from sg_jax.method import tokens
from sg_jax.method.network import Branch
from sg_jax.method.routing import interleave, split
from sg_jax.method.tokens import patchify, unpatchify
from sg_jax.models import layers, sizes
from sg_jax.models.backbone import noisy
from sg_jax.models.conditioning import Classes
from sg_jax.models.dit import Block, DiT
from sg_jax.models.parts import Parts
from sg_jax.models.stack import RoutedStack
from sg_jax.parallel import blocks


class MaskDiT(DiT):
    """A DiT that encodes the kept tokens, then decodes the full set.

    It has the interface of every backbone. `keep_ids`, one array [B, K] for the whole encoder, are
    the tokens that are not masked. Without them every token is encoded and the mask token is
    unused; the published network samples this way. The output is the raw output of the network.
    EDM's preconditioning (arXiv 2206.00364), with which it was published, is not part of it, and t
    is embedded unscaled.

    Unlike in a DiT, the null condition is not a row of the table: its embedding is zero, because
    the published network reads labels as one-hot vectors and a missing label as zeros.

    Args:
      decoder_width: E. Its default and the next two are the paper's, for an encoder of size XL/2.
      decoder_depth: number of decoder blocks.
      decoder_heads: heads of a decoder block.
      rngs: initial weights.
      encoder: image_size, channels, num_classes, patch, width, depth and heads, and optionally
        mlp_ratio and attention (also the decoder's), dtype, remat, learn_sigma, prediction: see
        `DiT`.
    """

    masks = True
    unread = tuple(field.name for field in dataclasses.fields(Parts))  # it has the published block

    def __init__(
        self,
        *,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        rngs: nnx.Rngs,
        **encoder,
    ):
        if routes := plain(encoder.get("routes", ())):
            raise UserError(
                f"config.model.routes={shown(routes)} must be empty: a network that masks its "
                f"tokens has no routes."
            )
        if inner := plain(encoder.get("inner", 0)):
            raise UserError(
                f"config.model.inner={shown(inner)} must be 0: a network that masks its tokens has "
                "no inner head, because its encoder sees only those that are kept."
            )
        decoder_width, decoder_depth, decoder_heads = sizes.checked(
            decoder_width=decoder_width, decoder_depth=decoder_depth, decoder_heads=decoder_heads
        )
        if decoder_width % decoder_heads or decoder_width % 4:
            raise UserError(
                f"config.model.decoder_width={decoder_width} must be divisible by 4 (sine and "
                f"cosine of row and column) and by config.model.decoder_heads={decoder_heads}."
            )
        super().__init__(**encoder, rngs=rngs)
        d, e, dtype = self.width, decoder_width, self.dtype
        self.decoder_width, self.decoder_depth, self.decoder_heads = e, decoder_depth, decoder_heads

        def block(rngs: nnx.Rngs) -> Block:  # its conditioning keeps the encoder's width
            return Block(
                e, decoder_heads, self.mlp_ratio, dtype, self.attention, rngs, conditioning=d
            )

        # These three replace those of the encoder.
        self.label_embedding = Classes(self.conditioning.num_classes, d, rngs, null_row=False)
        self.final_modulation = layers.Linear(d, 2 * e, dtype, rngs, layers.ZEROS)
        self.final = layers.Linear(e, self.final.out_features, dtype, rngs, layers.ZEROS)
        self.decoder_modulation = layers.Linear(d, 2 * d, dtype, rngs, layers.ZEROS)
        self.decoder_embedding = layers.Linear(d, e, dtype, rngs, layers.ZEROS)
        self.mask_token = nnx.Param(layers.NORMAL(rngs.params(), (e,)))
        self.decoder = RoutedStack(block, decoder_depth, (), self.blocks.remat, rngs)

    def branches(
        self,
        x: jax.Array,
        t: jax.Array,
        branches: Sequence[Branch],
        inner: bool = False,
    ) -> list[jax.Array]:
        """Return several predictions at the same x_t.

        They share the patch embedding. The decoder runs once, on all of them as one batch, and so
        does the encoder if all keep the same number of tokens.

        Args:
          x: images x_t [B, H, W, C].
          t: times [B], fed to the timestep embedding unscaled.
          branches: their ids are an array [B, K], possibly in a list of one item; or None to
            encode every token.
          inner: must be False.

        Returns:
          A prediction [B, H, W, C], float32, for each branch.

        Raises:
          UserError: no token is kept, ids are given for more than one route, or the call asks for
            something that masking does not have.
        """
        if inner or any(b.borrow for b in branches):
            raise UserError("A network that masks has no inner head, and no tokens to borrow.")
        net, count = blocks.gathered(self), len(branches)
        single = [_single(b.ids) for b in branches]
        h = net.patch_embedding(patchify(x, net.patch)) + net._positions(net.width)  # [B, N, D]
        time = net.time_embedding(t)  # [B, D]
        cs = [
            noisy(time, b.time_noise) + net.label_embedding(b.condition, net.dtype)
            for b in branches
        ]
        c = interleave(cs)  # [G B, D]
        if len({None if i is None else i.shape for i in single}) == 1:
            arrays = [i for i in single if i is not None]  # of all branches, or of none
            kept = interleave(arrays) if arrays else None
            h = net._encode(jnp.repeat(h, count, 0), c, kept)
        else:
            h = interleave([net._encode(h, *part) for part in zip(cs, single, strict=True)])
        h = net.decoder(h + net._positions(net.decoder_width), c, [None])  # [G B, N, E]
        h = net.final(_normalise(h, net.final_modulation, c))
        out = unpatchify(h, net.patch).astype(jnp.float32)[..., : net.channels]  # [G B, H, W, C]
        return split(out, count)

    def _encode(self, h: jax.Array, c: jax.Array, ids: jax.Array | None) -> jax.Array:
        """Return the decoder's input [B, N, E] from tokens h [B, N, D]."""
        if ids is None:
            return self._project(self.blocks(h, c, [None]), c)
        kept = self._project(self.blocks(tokens.gather(h, ids), c, [None]), c)  # [B, K, E]
        blank = self.mask_token[...].astype(self.dtype)[None, None]  # [1, 1, E]
        return tokens.scatter(jnp.broadcast_to(blank, (*h.shape[:2], blank.shape[-1])), kept, ids)

    def _project(self, h: jax.Array, c: jax.Array) -> jax.Array:
        return self.decoder_embedding(_normalise(h, self.decoder_modulation, c))

    def _positions(self, width: int) -> jax.Array:
        side = self.image_size // self.patch
        return jnp.asarray(layers.position_table(side, side, width), self.dtype)[None]  # [1, N, D]

    @property
    def choices(self) -> int:
        """How many independent choices of kept tokens a forward pass takes: one."""
        return 1


def _normalise(h: jax.Array, modulation: layers.Linear, c: jax.Array) -> jax.Array:
    """Normalise tokens h, then shift and scale them by the conditioning c [B, D]."""
    return layers.adaptive_norm(h, layers.moments(h), *layers.modulation(modulation, c, 2))


def _single(ids: Any) -> jax.Array | None:
    """Return the array [B, K] of a branch, given by itself or in a list."""
    if isinstance(ids, list | tuple):
        if len(ids) != 1:
            raise UserError(
                f"keep_ids has {len(ids)} arrays, but masking has one choice of tokens: give one "
                "array [B, K]."
            )
        ids = ids[0]
    if ids is not None:
        _check_keep(ids.shape[1], f" keep_ids has the shape {ids.shape}.")
    return ids


def _check_keep(keep: int, found: str) -> None:
    if keep == 0:
        raise UserError(f"masking needs at least one token to encode:{found}")
