"""DiT/SiT: a transformer over image patches with adaLN-Zero conditioning and token routes.

Peebles & Xie (arXiv 2212.09748), Ma et al. (arXiv 2401.08740); routes as in arXiv 2501.04765.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax import tokens
from sg_jax.errors import UserError, nearest
from sg_jax.models import layers
from sg_jax.models.routing import KeepIds, Route, RoutedStack, interleave, split

SIZES = {  # depth, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
PATCHES = (2, 4, 8)


def geometry(size: str) -> dict[str, int]:
    """Return depth, width, heads and patch of a published size such as "XL/2"."""
    names = [f"{s}/{p}" for s in SIZES for p in PATCHES]
    if size not in names:
        raise UserError(
            f"config.model.size={size!r} must be one of {', '.join(names)}, or empty with depth, "
            f"width, heads and patch given." + nearest(size, names)
        )
    name, patch = size.split("/")
    return dict(zip(("depth", "width", "heads"), SIZES[name], strict=True), patch=int(patch))


class Block(nnx.Module):
    """Attention and MLP, each scaled, shifted and gated by the conditioning (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention = layers.Attention(width, heads, dtype, rngs)
        self.mlp = layers.Mlp(width, int(width * mlp_ratio), dtype, rngs)
        self.modulation = layers.linear(width, 6 * width, dtype, rngs, layers.ZEROS)

    def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
        """Return tokens [B, N, D] from tokens h [B, N, D] and conditioning c [B, D]."""
        modulation = jnp.split(self.modulation(jax.nn.silu(c)), 6, axis=-1)  # six [B, D]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        x = layers.modulate(layers.layer_norm(h), shift_a, scale_a)
        h = h + gate_a[:, None] * self.attention(x)
        x = layers.modulate(layers.layer_norm(h), shift_m, scale_m)
        return h + gate_m[:, None] * self.mlp(x)


class DiT(nnx.Module):
    """Predict the velocity [B, H, W, C] of images at time t with labels y.

    Args:
      image_size: side of the square input, in pixels (or latents).
      channels: C.
      num_classes: labels run from 0 to num_classes - 1; num_classes itself is the null label.
      patch, width, depth, heads: `geometry("XL/2")` gives the published ones.
      routes: pairs (start, end) of blocks, 0-based, both included.
      mlp_ratio: hidden width of the MLP over `width`.
      dtype: compute type; parameters stay float32.
      remat: what the backward pass recomputes: "none", "dots" (all but matrix products), "full".
      rngs: initial weights.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        routes: Sequence[Route] = (),
        mlp_ratio: float = 4.0,
        dtype: str = "float32",
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        if patch < 1 or image_size % patch:
            raise UserError(
                f"config.model.patch={patch} must divide the image size, which is {image_size}."
            )
        if heads < 1 or width % heads or width % 4:
            raise UserError(
                f"config.model.width={width} must be divisible by config.model.heads={heads} and "
                f"by 4 (sine and cosine of row and column)."
            )
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"config.model.dtype={dtype!r} must be 'float32' or 'bfloat16'.")
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.patch, self.width, self.depth, self.heads = patch, width, depth, heads
        self.mlp_ratio, self.dtype = mlp_ratio, jnp.dtype(dtype)

        def block(rngs):
            return Block(width, heads, mlp_ratio, self.dtype, rngs)

        self.patch_embedding = layers.linear(patch * patch * channels, width, self.dtype, rngs)
        self.time_embedding = layers.TimestepEmbedding(width, self.dtype, rngs)
        self.label_embedding = nnx.Param(layers.NORMAL(rngs.params(), (num_classes + 1, width)))
        self.blocks = RoutedStack(block, depth, routes, remat, rngs)
        self.routes = tuple(tuple(route) for route in routes)
        self.final_modulation = layers.linear(width, 2 * width, self.dtype, rngs, layers.ZEROS)
        self.final = layers.linear(width, patch * patch * channels, self.dtype, rngs, layers.ZEROS)

    @property
    def tokens(self) -> int:
        """N, the number of patches of an image."""
        return (self.image_size // self.patch) ** 2

    @property
    def null_label(self) -> int:
        """The label that stands for "no label"."""
        return self.num_classes

    def __call__(
        self, x: jax.Array, t: jax.Array, y: jax.Array, keep_ids: KeepIds = None
    ) -> jax.Array:
        """Return the velocity [B, H, W, C], float32.

        Args:
          x: images x_t [B, H, W, C].
          t: times [B], fed to the timestep embedding as they are.
          y: labels [B], int.
          keep_ids: one [B, K] per route, or None to compute every token.
        """
        return self.branches(x, t, [y], [keep_ids])[0]

    def branches(
        self, x: jax.Array, t: jax.Array, ys: Sequence[jax.Array], ids: Sequence[KeepIds]
    ) -> list[jax.Array]:
        """Return several predictions at the same x_t, computing what they share only once.

        With one label for all, the branches are equal until the first route, so the embeddings and
        the blocks before it run once; after the route they run as one batch.

        Args:
          x, t: as in `__call__`.
          ys: one [B] of labels for all branches, or one for each.
          ids: each branch's `keep_ids`.

        Returns:
          For each branch a velocity [B, H, W, C], float32.
        """
        count = len(ids)
        patches = self.patch_embedding(patchify(x, self.patch))  # [B, N, D]
        side = self.image_size // self.patch
        h = patches + layers.position_table(side, side, self.width)[None].astype(self.dtype)
        time = self.time_embedding(t)  # [B, D]
        table = self.label_embedding[...].astype(self.dtype)
        cs = [time + table[y] for y in ys]
        shared = len(cs) == 1
        h = h if shared else jnp.repeat(h, count, 0)
        h = self.blocks(h, interleave(cs), ids, shared=shared)  # [G B, N, D]
        c = jnp.repeat(cs[0], count, 0) if shared else interleave(cs)
        shift, scale = jnp.split(self.final_modulation(jax.nn.silu(c)), 2, axis=-1)
        h = self.final(layers.modulate(layers.layer_norm(h), shift, scale))
        v = unpatchify(h, self.patch, self.channels).astype(jnp.float32)  # [G B, H, W, C]
        return split(v, count)

    def draw_ids(self, keys: jax.Array, gamma: float) -> KeepIds:
        """Draw the kept ids of every route at sparsity rate gamma; None where that is all of them.

        Args:
          keys: one key per image [B].
          gamma: share of the tokens that bypasses the routed blocks; 1 skips those blocks.
        """
        keep = tokens.keep_count(self.tokens, gamma)
        if keep == self.tokens or not self.routes:
            return None
        fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
        return [
            tokens.sample_ids(fold(keys, r), self.tokens, keep) for r in range(len(self.routes))
        ]


def patchify(x: jax.Array, patch: int) -> jax.Array:
    """Cut images [B, H, W, C] into patches [B, N, patch * patch * C], in raster order."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // patch, patch, width // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def unpatchify(x: jax.Array, patch: int, channels: int) -> jax.Array:
    """Put patches [B, N, patch * patch * C] of a square image together again: [B, H, W, C]."""
    b, n, _ = x.shape
    side = round(n**0.5)
    x = x.reshape(b, side, side, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, side * patch, side * patch, channels)
