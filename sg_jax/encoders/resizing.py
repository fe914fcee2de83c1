"""Images of another size, as the published evaluations make them: TF1's bilinear, Pillow's bicubic.

Neither is what `jax.image.resize` computes. Both are linear along each axis, so each is a product
with two matrices, one for rows and one for columns, that follow from the sizes alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

PILLOW_BITS = 22  # of the fraction of Pillow's weights
DIGIT = 8  # bits of a part of a weight; bfloat16 holds whole numbers of 8 bits
TORCH_CUBIC = -0.75  # parameter a of torch's bicubic without antialiasing; Pillow's is -0.5
PILLOW_CUBIC = -0.5


def bilinear_tf1(images: jax.Array, side: int) -> jax.Array:
    """Resize images as TensorFlow 1 did: source = target * scale, without antialiasing.

    Pixel centres have no offset of half a pixel, and a smaller image uses only neighbouring pixels.

    Args:
      images: numbers [B, H, W, C].
      side: height and width of the result.

    Returns:
      Float32 [B, side, side, C].
    """
    height, width = images.shape[1:3]
    x = images.astype(jnp.float32)
    return _product(x, tf1_weights(height, side), tf1_weights(width, side), "highest")


@functools.lru_cache(maxsize=64)
def tf1_weights(inputs: int, outputs: int) -> np.ndarray:
    """Return the float32 matrix [outputs, inputs] of TF1's bilinear resize along an axis."""
    place = np.arange(outputs, dtype=np.float32) * np.float32(inputs / outputs)
    low = place.astype(np.int64)
    share = place - low.astype(np.float32)
    matrix = np.zeros((outputs, inputs), np.float32)
    rows = np.arange(outputs)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, inputs - 1)), share)
    return matrix


def bicubic_pillow(images: jax.Array, side: int) -> jax.Array:
    """Resize uint8 images as Pillow does, with its antialiased bicubic filter, to the last bit.

    Pillow resizes rows, rounds to whole numbers, and resizes columns. Its weights are whole numbers
    of 22 bits. Here they are split into digits of 8 bits, so that every product and sum is exact
    in float32, even where the factors are rounded to bfloat16, as on TPUs.

    Args:
      images: uint8 [B, H, W, C], with sides of at most 14,000.
      side: height and width of the result.

    Returns:
      Uint8 [B, side, side, C].
    """
    height, width = images.shape[1:3]
    x = jnp.moveaxis(images, -1, 1)  # [B, C, H, W]
    if width != side:
        x = _rounded("bchw,vw->bchv", x, width, side)
    if height != side:
        x = _rounded("bchw,uh->bcuw", x, height, side)
    return jnp.moveaxis(x, 1, -1)


def _rounded(axes: str, x: jax.Array, inputs: int, outputs: int) -> jax.Array:
    """Return one of Pillow's passes: sums of whole weights times pixels, rounded, as uint8."""
    wide, total = x.astype(jnp.float32), jnp.int32(1 << (PILLOW_BITS - 1))
    for shift, digits in _digits(inputs, outputs):
        part = jnp.einsum(axes, wide, digits)  # whole numbers below 2^24
        total = total + (part.astype(jnp.int32) << shift)
    return jnp.clip(total >> PILLOW_BITS, 0, 255).astype(jnp.uint8)


@functools.lru_cache(maxsize=64)
def _digits(inputs: int, outputs: int) -> list[tuple[int, np.ndarray]]:
    """Return Pillow's whole weights as float32 digits, each with the power of 2 it stands for."""
    fixed = cubic_weights(inputs, outputs) * (1 << PILLOW_BITS)
    whole = np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)
    low, middle = whole & 255, (whole >> DIGIT) & 255
    parts = {0: low, DIGIT: middle, 2 * DIGIT: whole >> 2 * DIGIT}
    return [(shift, digits.astype(np.float32)) for shift, digits in parts.items()]


@functools.lru_cache(maxsize=64)
def cubic_weights(inputs: int, outputs: int) -> np.ndarray:
    """Return the float64 matrix [outputs, inputs] of the antialiased bicubic filter.

    It is that of Pillow and of torch's `interpolate(mode="bicubic", antialias=True)`: a smaller
    image is made with a filter that is wider by the same factor.
    """
    scale = inputs / outputs
    wider = max(scale, 1.0)
    matrix = np.zeros((outputs, inputs))
    for row in range(outputs):
        centre = (row + 0.5) * scale
        first = max(int(centre - 2 * wider + 0.5), 0)
        after = min(int(centre + 2 * wider + 0.5), inputs)
        places = np.arange(first, after) - centre + 0.5
        weights = _cubic(places / wider, PILLOW_CUBIC)
        matrix[row, first:after] = weights / weights.sum()
    return matrix


def bicubic_table(
    table: jax.Array, height: int, width: int, offset: float = 0.0, antialias: bool = False
) -> jax.Array:
    """Resize a table of position embeddings as torch's bicubic `interpolate` does.

    Args:
      table: float32 [M, M, D].
      height, width: of the result.
      offset: added to both before the scale is computed, as DINOv2's own code does with 0.1.
      antialias: whether to use the antialiased filter, which has no offset.

    Returns:
      Float32 [height, width, D].
    """
    rows, columns = (
        cubic_weights(table.shape[0], n) if antialias else torch_weights(len(table), n, offset)
        for n in (height, width)
    )
    return _product(table[None], rows, columns, "highest")[0]


@functools.lru_cache(maxsize=64)
def torch_weights(inputs: int, outputs: int, offset: float = 0.0) -> np.ndarray:
    """Return the float64 matrix [outputs, inputs] of torch's bicubic without antialiasing."""
    place = (np.arange(outputs) + 0.5) * (inputs / (outputs + offset)) - 0.5
    first = np.floor(place).astype(int)
    matrix, rows = np.zeros((outputs, inputs)), np.arange(outputs)
    for step in (-1, 0, 1, 2):
        near = np.clip(first + step, 0, inputs - 1)
        np.add.at(matrix, (rows, near), _cubic(first + step - place, TORCH_CUBIC))
    return matrix


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic kernel at distances x (IEEE Trans. ASSP 29, 1981)."""
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _product(x: jax.Array, rows: np.ndarray, columns: np.ndarray, precision: str) -> jax.Array:
    """Return x [B, H, W, C] with its columns and rows multiplied: [B, H', W', C]."""
    x = jnp.moveaxis(x, -1, 1)  # [B, C, H, W]
    x = jnp.einsum("bchw,vw->bchv", x, columns.astype(np.float32), precision=precision)
    x = jnp.einsum("bchv,uh->bcuv", x, rows.astype(np.float32), precision=precision)
    return jnp.moveaxis(x, 1, -1)
