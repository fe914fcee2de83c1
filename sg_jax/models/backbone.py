"""What backbones have in common: patches and conditions in, routed blocks, velocity out.

Backbones differ only in their blocks; `dit.DiT` is the published one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import UserError, is_whole, one_of, plain, shown
from sg_jax.method.network import Branch, Condition, KeepIds
from sg_jax.method.prediction import PREDICTIONS
from sg_jax.method.presets import Named
from sg_jax.method.routing import Conditioned, Route, interleave, repeat, split, vector_of
from sg_jax.method.tokens import patchify, unpatchify
from sg_jax.models import layers, norms, sizes
from sg_jax.models.conditioning import Classes
from sg_jax.models.stack import RoutedStack
from sg_jax.parallel import blocks


class Backbone(nnx.Module):
    """Predict the velocity [B, H, W, C] of images at time t under a condition; see `Network`.

    Args:
      image_size: side of the square input, in pixels (or latents).
      channels: C.
      num_classes: labels run from 0 to num_classes - 1; see `conditioning.Classes`.
      patch: side of a patch, one token.
      width: D.
      depth: number of blocks.
      block: makes one block from initial random keys; see `routing`.
      routes: pairs (start, end) of blocks, 0-based, both included.
      dtype: compute type, "float32" or "bfloat16"; parameters stay float32.
      remat: what the backward pass recomputes: "none", "selective" (what is cheap) or "full".
      learn_sigma: the head has 2 C channels, as in the published SiT; the first C are used.
      prediction: what it returns: "velocity", REPA's "reversed" one, EDM's F ("edm"), or DiT's
        "noise"; see `method.prediction`.
      time_endpoint: how frequencies of time are spaced; see `layers.timestep_features`.
      inner: blocks before the inner head, a second head that is trained as well; 0: none.
      norm: of the tokens, "layer" or "rms"; see `norms`.
      rngs: initial weights.
      embed: makes the conditioning from the width, the compute type and initial weights; by default
        `conditioning.Classes`.
    """

    masks = False  # whether tokens that are not kept are masked instead of routed
    unread: tuple[str, ...] = ()  # constructor arguments of its bases that it does not have

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int = 0,
        patch: int,
        width: int,
        depth: int,
        block: Callable[[nnx.Rngs], nnx.Module],
        routes: Sequence[Route] = (),
        dtype: str = "float32",
        remat: str = "none",
        learn_sigma: bool = False,
        prediction: str = "velocity",
        time_endpoint: bool = False,
        inner: int = 0,
        norm: str = "layer",
        rngs: nnx.Rngs,
        embed: Callable[[int, jnp.dtype, nnx.Rngs], Any] | None = None,
    ):
        image_size, channels = sizes.checked(image_size=image_size, channels=channels)
        patch, width, depth = sizes.checked(patch=patch, width=width, depth=depth)
        one_of("config.model.dtype", dtype, ("float32", "bfloat16"))
        one_of("config.model.prediction", prediction, PREDICTIONS)
        for name, switch in {"learn_sigma": learn_sigma, "time_endpoint": time_endpoint}.items():
            if not isinstance(plain(switch), bool):
                raise UserError(f"config.model.{name}={shown(switch)} must be True or False.")
        if image_size % patch:
            raise UserError(
                f"config.model.patch={patch} must divide the image size, which is {image_size}."
            )
        if width % 4:
            raise UserError(
                f"config.model.width={width} must be divisible by 4 (sine and cosine of row and "
                f"column)."
            )
        inner = plain(inner)
        if not is_whole(inner) or not 0 <= inner < depth:
            raise UserError(
                f"config.model.inner={shown(inner)} must be the number of blocks before the inner "
                f"head, 1 <= inner < depth={depth}, or 0 for none."
            )
        numbers = jnp.dtype(dtype)
        self.image_size, self.channels = image_size, channels
        self.patch, self.width, self.depth = patch, width, depth
        self.dtype, self.learn_sigma, self.prediction = numbers, plain(learn_sigma), prediction
        self.time_endpoint = plain(time_endpoint)
        pixels = patch * patch * channels
        self.patch_embedding = layers.Linear(pixels, width, numbers, rngs)
        self.time_embedding = layers.TimestepEmbedding(width, numbers, rngs, self.time_endpoint)
        if embed is None:
            (num_classes,) = sizes.checked(num_classes=num_classes)
            self.label_embedding = Classes(num_classes, width, rngs)
        else:
            self.text_embedding = embed(width, numbers, rngs)
        self.blocks = RoutedStack(block, depth, routes, remat, rngs, inner, norm)
        self.routes = plain(routes)
        self.named = Named()  # of its run, once it has one
        self.final_modulation = layers.Linear(width, 2 * width, numbers, rngs, layers.ZEROS)
        self.final = layers.Linear(width, pixels * (1 + learn_sigma), numbers, rngs, layers.ZEROS)
        self.final_norm = norms.weight_of(norm, width)
        self.inner = inner
        if inner:  # made last, so that all other weights are those of a network without it
            self.inner_modulation = layers.Linear(width, 2 * width, numbers, rngs, layers.ZEROS)
            self.inner_final = layers.Linear(width, pixels, numbers, rngs, layers.ZEROS)
            self.inner_norm = norms.weight_of(norm, width)

    @property
    def conditioning(self) -> Any:
        """The conditions that images can be sampled under."""
        return self.label_embedding

    @property
    def tokens(self) -> int:
        """N, the number of patches of an image."""
        return (self.image_size // self.patch) ** 2

    def in_chunks(self, tokens: int) -> "Backbone":
        """Return this network with a limit on how many tokens a device runs at once.

        Tokens that fit into on-chip memory are computed faster, except with gradients. 0 runs all
        tokens at once, -1 the device's best number.
        """
        other = jax.tree.map(lambda x: x, self)
        for part in vars(other).values():
            if isinstance(part, RoutedStack):
                part.chunk = tokens
        return other

    def skipping(self, active: jax.Array) -> "Backbone":
        """Return this network without those of its `blocks` that are not `active`, bool [depth].

        The others cost nothing, although `active` is traced; tokens pass through them unchanged.
        """
        other = jax.tree.map(lambda x: x, self)
        other.blocks.active = active
        return other

    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Condition, keep_ids: KeepIds = None
    ) -> jax.Array:
        """Return the velocity [B, H, W, C], float32; see `branches`."""
        return self.branches(x, t, [Branch(condition, keep_ids)])[0]

    def branches(
        self,
        x: jax.Array,
        t: jax.Array,
        branches: Sequence[Branch],
        inner: bool = False,
    ) -> Any:
        """Return several predictions at the same x_t, computing what they share only once.

        With one condition for all (the same object) and no noise on the time, the branches are
        equal until the first route, so the embeddings and the blocks before it run once; after the
        route they run as one batch.

        Args:
          x: images x_t [B, H, W, C].
          t: times [B], fed to the timestep embedding unscaled.
          branches: their conditions are what the conditioning embeds, such as class labels, int32
            [B], and their ids one [B, K] per route, or None to compute every token.
          inner: whether the inner head's output is wanted too. Inside a route, the head reads what
            the network would see if the route ended there.

        Returns:
          A velocity [B, H, W, C], float32, for each branch; with `inner`, a pair of these and the
          inner head's velocity [B, H, W, C] in the first branch.
        """
        if inner and not self.inner:
            raise UserError("This network has no inner head; config.model.inner gives it one.")
        net, count, found = blocks.gathered(self), len(branches), []
        patches = net.patch_embedding(patchify(x, net.patch))  # [B, N, D]
        h = net._placed(patches)
        time = net.time_embedding(t)  # [B, D]
        shared = all(b.condition is branches[0].condition and not b.time_noise for b in branches)
        embedded: dict[int, Any] = {}  # each condition once, however many branches have it
        for b in branches:
            if id(b.condition) not in embedded:
                embedded[id(b.condition)] = net.conditioning(b.condition, net.dtype)
        cs = [
            net._context(noisy(time, b.time_noise), embedded[id(b.condition)])
            for b in (branches[:1] if shared else branches)
        ]
        h = h if shared else jnp.repeat(h, count, 0)

        def visit(done: int, h: jax.Array) -> None:
            if inner and done == net.inner:
                head = net.inner_modulation, net.inner_final, net.inner_norm
                found.append(net._head(h, vector_of(cs[0]), *head))

        ids, borrow = [b.ids for b in branches], [b.borrow for b in branches]
        h = net.blocks(h, interleave(cs), ids, shared, borrow, visit)  # [G B, N, D]
        vectors = [vector_of(c) for c in cs]
        c = repeat(vectors[0], count) if shared else interleave(vectors)
        vs = split(net._head(h, c, net.final_modulation, net.final, net.final_norm), count)
        return (vs, *found) if inner else vs

    def _placed(self, patches: jax.Array) -> jax.Array:
        """Return the tokens [B, N, D] of embedded patches, with a table of positions added."""
        side = self.image_size // self.patch
        return patches + layers.position_table(side, side, self.width)[None].astype(self.dtype)

    def _context(self, time: jax.Array, condition: Any) -> Conditioned:
        """Return what the blocks read, from the embedded time [B, D] and condition."""
        return time + condition

    def _head(
        self, h: jax.Array, c: jax.Array, modulation: Any, linear: Any, weight: Any
    ) -> jax.Array:
        """Return the velocity [B, H, W, C], float32, that a head reads from tokens [B, N, D].

        Args:
          h: tokens [B, N, D].
          c: [B, D].
          modulation, linear, weight: of the head; the weight is that of its norm.
        """
        shift, scale = layers.modulation(modulation, c, 2)
        found = layers.moments(h, norms.kind_of(weight))
        h = linear(norms.modulated(h, found, shift, scale, weight))
        return unpatchify(h, self.patch).astype(jnp.float32)[..., : self.channels]

    @property
    def choices(self) -> int:
        """How many independent choices of tokens a forward pass takes: one per route."""
        return len(self.routes)


def noisy(embedding: jax.Array, noise: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """Return e + amount std(e) n for embeddings e [B, D]; see `Branch.time_noise`."""
    if noise is None:
        return embedding
    keys, amount = noise
    n = jax.vmap(lambda key: jax.random.normal(key, embedding.shape[1:]))(keys)  # [B, D]
    wide = embedding.astype(jnp.float32)
    spread = amount[:, None] * wide.std(axis=1, keepdims=True)
    return (wide + spread * n).astype(embedding.dtype)
