"""DINOv2, the vision transformer of FD-DINOv2 (Oquab et al., arXiv 2304.07193).

    network = sg_jax.load_encoder("dinov2", "dinov2_vitl14_pretrain.pth")
    network(images)["class"]  # uint8 [B, H, W, 3] -> [B, 1024]

FD-DINOv2 (Stein et al., arXiv 2306.04675) takes the class token after the last norm of ViT-L/14.
Its published code (layer6ai-labs/dgm-eval, without `--clean_resize`) resizes whole images to
224x224 with Pillow's antialiased bicubic filter, without cropping: rows, rounded to whole numbers,
then columns. A call here does the same, to the last bit. (Pillow 13 takes columns first in some
images that are taller than wide.)

Position embeddings are learned for images of 518 pixels and resized too. DINOv2's own code adds 0.1
to the new sides before it computes the scale; transformers does not, so class tokens differ by up
to 1% between the two. The published FD-DINOv2 uses DINOv2's own code: `offset=0.1`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.encoders import judges
from sg_jax.encoders.convolutions import precision_of
from sg_jax.encoders.resizing import bicubic_pillow, bicubic_table
from sg_jax.errors import UserError
from sg_jax.models.attention import attend
from sg_jax.models.layers import Keys, abstract

SIDE = 224  # that images are resized to
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
EPSILON = 1e-6  # of norms
HEAD = 64  # width of an attention head in all published networks
WIDTHS = (384, 768, 1024, 1536)  # of the published networks, ViT-S to ViT-g
PUBLISHED_OFFSET = 0.1
KERNEL_INIT = nnx.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a vision transformer.

    Args:
      width: of a token, D.
      depth: number of blocks.
      heads: of attention.
      hidden: width within the MLP.
      gated: whether the MLP is gated (SwiGLU, as in ViT-g).
      patch: side of a patch in pixels.
      table: patches along a side of the table of position embeddings.
      registers: tokens in addition to the class and the patches.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    gated: bool
    patch: int
    table: int
    registers: int = 0


class Linear(nnx.Module):
    """x W + b, with factors rounded to the type of W."""

    def __init__(self, inputs: int, outputs: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(KERNEL_INIT(rngs.params(), (inputs, outputs)).astype(dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, N, inputs] to float32 [B, N, outputs]."""
        kernel = self.kernel[...]
        y = jnp.einsum(
            "bnd,de->bne",
            x.astype(kernel.dtype),
            kernel,
            precision=precision_of(kernel.dtype),
            preferred_element_type=jnp.float32,
        )
        return y + self.bias[...][None, None]


class LayerNorm(nnx.Module):
    """Normalise each token (arXiv 1607.06450)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return float32 of the shape of x [B, N, D]."""
        centred = x - x.mean(-1, keepdims=True)
        rate = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)
        return centred * rate * self.scale[...][None, None] + self.bias[...][None, None]


class Block(nnx.Module):
    """Attention and an MLP, each after its norm, scaled and with a shortcut."""

    def __init__(self, sizes: Sizes, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        width, self.heads, self.gated = sizes.width, sizes.heads, sizes.gated
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.query, self.key, self.value, self.out = (
            Linear(width, width, dtype, rngs=rngs) for _ in range(4)
        )
        self.mlp_in = Linear(width, sizes.hidden * (1 + sizes.gated), dtype, rngs=rngs)
        self.mlp_out = Linear(sizes.hidden, width, dtype, rngs=rngs)
        self.scale1, self.scale2 = nnx.Param(jnp.ones((width,))), nnx.Param(jnp.ones((width,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map tokens [B, N, D] to the same shape, float32."""
        x = x + self.attention(self.norm1(x)) * self.scale1[...][None, None]
        h = self.mlp_in(self.norm2(x))
        if self.gated:
            gate, value = jnp.split(h, 2, axis=-1)
            h = nnx.silu(gate) * value
        else:
            h = gelu(h)
        return x + self.mlp_out(h) * self.scale2[...][None, None]

    def attention(self, x: jax.Array) -> jax.Array:
        """Map tokens [B, N, D] to the same shape."""
        dtype = self.query.kernel[...].dtype
        query, key, value = (part(x).astype(dtype) for part in (self.query, self.key, self.value))
        ways = dict(cpu=one_image_at_a_time, default=attend)
        ways = {name: functools.partial(way, heads=self.heads) for name, way in ways.items()}
        with jax.default_matmul_precision(precision_of(dtype).name.lower()):
            mixed = jax.lax.platform_dependent(query, key, value, **ways)
        return self.out(mixed)


def gelu(x: jax.Array) -> jax.Array:
    """Return x (1 + erf(x / sqrt(2))) / 2; jax's own is slower on CPUs."""
    return 0.5 * x * (1 + jax.lax.erf(x * np.float32(np.sqrt(0.5))))


def one_image_at_a_time(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Return what `attend` does, in a loop over images, whose weights stay in a CPU's cache."""

    def of(parts):
        query, key, value = (x.reshape(len(x), heads, -1).swapaxes(0, 1) for x in parts)
        query = query * np.asarray(query.shape[-1] ** -0.5, query.dtype)
        logits = jnp.einsum("hnk,hmk->hnm", query, key, preferred_element_type=jnp.float32)
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        total = weights.sum(-1, keepdims=True)
        mixed = jnp.einsum("hnm,hmk->hnk", weights.astype(value.dtype), value) / total
        return mixed.swapaxes(0, 1).reshape(parts[0].shape).astype(q.dtype)  # [N, D]

    return jax.lax.map(of, (q, k, v))


class DINOv2(judges.Judge):
    """Images -> tokens.

    Args:
      name: what the weights were loaded from.
      sizes: of the network.
      dtype: what the factors of products are rounded to.
      offset: of resized position embeddings; see above.
      rngs: key for the initial weights.
    """

    def __init__(
        self, name: str, sizes: Sizes, dtype: jnp.dtype, offset: float = 0.0, *, rngs: nnx.Rngs
    ):
        super().__init__(name)
        self.patch, self.offset = sizes.patch, offset
        width = sizes.width
        self.patches = Linear(3 * sizes.patch**2, width, dtype, rngs=rngs)
        self.token = nnx.Param(jnp.zeros((width,)))
        self.class_position = nnx.Param(jnp.zeros((width,)))
        self.positions = nnx.Param(jnp.zeros((sizes.table, sizes.table, width)))
        registers = jnp.zeros((sizes.registers, width))
        self.registers: Any = nnx.Param(registers) if sizes.registers else None
        keys = jax.random.split(rngs.params(), sizes.depth)
        self.blocks = jax.vmap(lambda key: Block(sizes, dtype, rngs=Keys(key)))(keys)
        self.norm = LayerNorm(width)

    def settings(self) -> tuple[Any, ...]:
        """Return what the features depend on besides the weights."""
        return (self.blocks.heads, self.offset)

    def embed(self, pixels: jax.typing.ArrayLike) -> jax.Array:
        """Return the tokens of images after the last norm.

        Args:
          pixels: floats [B, H, W, 3], with ImageNet's mean subtracted and divided by its std; sides
            are multiples of the patch.

        Returns:
          Float32 [B, 1 + R + n, D]: the class, R registers if the network has them, and the n
          patches row by row.

        Raises:
          UserError: they have the wrong type or shape.
        """
        array = judges.as_array("pixels", pixels)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"pixels must be normalised floats, not {array.dtype}: call the network itself on "
                "uint8 images."
            )
        sides = array.shape[1:3]
        if array.ndim != 4 or array.shape[-1] != 3 or not all(sides):
            raise UserError(f"pixels must be [B, H, W, 3], not {array.shape}.")
        if any(side % self.patch for side in sides):
            raise UserError(
                f"pixels have sides {sides[0]} and {sides[1]}, but both must be multiples of "
                f"{self.patch}, the network's patch: resize them."
            )
        return _tokens(self, array)

    def __call__(self, images: jax.typing.ArrayLike) -> dict[str, jax.Array]:
        """Return the features of images.

        Args:
          images: uint8 [B, H, W, 3] or, for grey ones, [B, H, W, 1]. They are resized to 224x224 as
            the published FD-DINOv2 does.

        Returns:
          {"class": float32 [B, D]}, the class token after the last norm.

        Raises:
          UserError: the images have the wrong type or shape.
        """
        return _class(self, judges.pictures(images))


@jax.jit
def _class(network: DINOv2, images: jax.Array) -> dict[str, jax.Array]:
    x = bicubic_pillow(images, SIDE).astype(jnp.float32) / 255
    mean, std = (np.array(values, np.float32)[None, None, None] for values in (MEAN, STD))
    return {"class": _tokens(network, (x - mean) / std)[:, 0]}


@jax.jit
def _tokens(network: DINOv2, pixels: jax.Array) -> jax.Array:
    batch, height, width, _ = pixels.shape
    patch, rows, columns = network.patch, height // network.patch, width // network.patch
    x = pixels.astype(jnp.float32).reshape(batch, rows, patch, columns, patch, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, 3 * patch**2)
    x = network.patches(x) + _positions(network, rows, columns)[None]  # [B, n, D]
    first = (network.token[...] + network.class_position[...])[None]  # [1, D]
    if network.registers is not None:
        first = jnp.concatenate([first, network.registers[...]])  # [1 + R, D]
    x = jnp.concatenate([jnp.broadcast_to(first[None], (batch, *first.shape)), x], axis=1)
    x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, network.blocks)
    return network.norm(x)


def _positions(network: DINOv2, rows: int, columns: int) -> jax.Array:
    """Return the position embeddings of patches [rows * columns, D]."""
    table = network.positions[...]
    if table.shape[:2] != (rows, columns):
        antialias = network.registers is not None  # as DINOv2 and transformers do with registers
        table = bicubic_table(table, rows, columns, 0.0 if antialias else network.offset, antialias)
    return table.reshape(rows * columns, -1)


@functools.lru_cache(maxsize=8)
def of_shapes(name: str, sizes: Sizes, dtype: jnp.dtype, offset: float = 0.0) -> DINOv2:
    """Return a network with shapes in place of weights."""
    return abstract(lambda rngs: DINOv2(name, sizes, dtype, offset, rngs=rngs))
