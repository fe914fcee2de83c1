"""What backbones have in common: patches and labels in, routed blocks, velocity out.

Backbones differ only in their blocks; `dit.DiT` is the published one.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import UserError, one_of, plain
from sg_jax.method.network import Condition, KeepIds
from sg_jax.method.prediction import PREDICTIONS
from sg_jax.method.presets import Named
from sg_jax.method.routing import Route, interleave, split
from sg_jax.method.tokens import patchify, unpatchify
from sg_jax.models import layers, sizes
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
      rngs: initial weights.
    """

    masks = False  # whether tokens that are not kept are masked instead of routed

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int,
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
        rngs: nnx.Rngs,
    ):
        image_size, channels, num_classes = sizes.checked(
            image_size=image_size, channels=channels, num_classes=num_classes
        )
        patch, width, depth = sizes.checked(patch=patch, width=width, depth=depth)
        one_of("config.model.dtype", dtype, ("float32", "bfloat16"))
        one_of("config.model.prediction", prediction, PREDICTIONS)
        for name, switch in {"learn_sigma": learn_sigma, "time_endpoint": time_endpoint}.items():
            if not isinstance(plain(switch), bool):
                raise UserError(f"config.model.{name}={switch!r} must be True or False.")
        if image_size % patch:
            raise UserError(
                f"config.model.patch={patch} must divide the image size, which is {image_size}."
            )
        if width % 4:
            raise UserError(
                f"config.model.width={width} must be divisible by 4 (sine and cosine of row and "
                f"column)."
            )
        numbers = jnp.dtype(dtype)
        self.image_size, self.channels = image_size, channels
        self.patch, self.width, self.depth = patch, width, depth
        self.dtype, self.learn_sigma, self.prediction = numbers, plain(learn_sigma), prediction
        self.time_endpoint = plain(time_endpoint)
        pixels = patch * patch * channels
        self.patch_embedding = layers.Linear(pixels, width, numbers, rngs)
        self.time_embedding = layers.TimestepEmbedding(width, numbers, rngs, self.time_endpoint)
        self.label_embedding = Classes(num_classes, width, rngs)
        self.blocks = RoutedStack(block, depth, routes, remat, rngs)
        self.routes = plain(routes)
        self.named = Named()  # the guidance settings of its run, once it has one
        self.final_modulation = layers.Linear(width, 2 * width, numbers, rngs, layers.ZEROS)
        self.final = layers.Linear(width, pixels * (1 + learn_sigma), numbers, rngs, layers.ZEROS)

    @property
    def conditioning(self) -> Classes:
        """The conditions that images can be sampled under."""
        return self.label_embedding

    @property
    def tokens(self) -> int:
        """N, the number of patches of an image."""
        return (self.image_size // self.patch) ** 2

    def in_chunks(self, tokens: int) -> "Backbone":
        """Return this network with a limit on how many tokens a device runs at once.

        What fits into on-chip memory is computed faster, except with gradients. 0 runs all tokens
        at once, -1 the device's best number.
        """
        other = jax.tree.map(lambda x: x, self)
        for part in vars(other).values():
            if isinstance(part, RoutedStack):
                part.chunk = tokens
        return other

    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Condition, keep_ids: KeepIds = None
    ) -> jax.Array:
        """Return the velocity [B, H, W, C], float32; see `branches`."""
        return self.branches(x, t, [condition], [keep_ids])[0]

    def branches(
        self,
        x: jax.Array,
        t: jax.Array,
        conditions: Sequence[Condition],
        ids: Sequence[KeepIds],
    ) -> list[jax.Array]:
        """Return several predictions at the same x_t, computing what they share only once.

        With one condition for all, the branches are equal until the first route, so the embeddings
        and the blocks before it run once; after the route they run as one batch.

        Args:
          x: images x_t [B, H, W, C].
          t: times [B], fed to the timestep embedding unscaled.
          conditions: one for all branches, or one for each; of class labels, int32 [B].
          ids: for each branch one [B, K] per route, or None to compute every token.

        Returns:
          For each branch a velocity [B, H, W, C], float32.
        """
        net, count = blocks.gathered(self), len(ids)
        patches = net.patch_embedding(patchify(x, net.patch))  # [B, N, D]
        side = net.image_size // net.patch
        h = patches + layers.position_table(side, side, net.width)[None].astype(net.dtype)
        time = net.time_embedding(t)  # [B, D]
        cs = [time + net.label_embedding(condition, net.dtype) for condition in conditions]
        shared = len(cs) == 1
        h = h if shared else jnp.repeat(h, count, 0)
        h = net.blocks(h, interleave(cs), ids, shared=shared)  # [G B, N, D]
        c = jnp.repeat(cs[0], count, 0) if shared else interleave(cs)
        parts = layers.modulation(net.final_modulation, c, 2)
        h = layers.adaptive_norm(h, layers.moments(h), *parts)
        h = net.final(h)
        v = unpatchify(h, net.patch).astype(jnp.float32)[..., : net.channels]  # [G B, H, W, C]
        return split(v, count)

    @property
    def choices(self) -> int:
        """How many independent choices of tokens a forward pass takes: one per route."""
        return len(self.routes)
