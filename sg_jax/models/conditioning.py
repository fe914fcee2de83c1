"""The condition of an image to make, such as its class, embedded into a vector.

A backbone has one conditioning. It embeds conditions, and gives training and guidance the null
condition or a different, random one (`method.network.Conditioning`), so that they need not know
what a condition is. Texts are in `text`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.errors import UserError, shown
from sg_jax.models import layers


class Classes(nnx.Module):
    """Class labels 0 .. num_classes - 1 [B], int32; the label num_classes means "no class".

    Args:
      num_classes: how many classes there are.
      width: D.
      rngs: initial weights.
      null_row: whether "no class" is a row of the table, as in DiT; otherwise it is zeros, as in
        networks that read labels as one-hot vectors.
    """

    def __init__(self, num_classes: int, width: int, rngs: nnx.Rngs, null_row: bool = True):
        self.num_classes, self.null_row = num_classes, null_row
        self.table = nnx.Param(layers.NORMAL(rngs.params(), (num_classes + null_row, width)))

    def __call__(self, condition: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Return the embedding [B, D] of labels [B]."""
        table = self.table[...].astype(dtype)
        if self.null_row:
            return table[condition]
        return table.at[condition].get(mode="fill", fill_value=0)

    @property
    def kind(self) -> str:
        return f"{self.num_classes} classes"

    @property
    def count(self) -> int:
        return self.num_classes

    @property
    def drawable(self) -> bool:
        return True

    def null(self, condition: jax.Array) -> jax.Array:
        return jnp.full_like(condition, self.num_classes)

    def another(self, condition: jax.Array, keys: jax.Array) -> jax.Array:
        least = jnp.where(condition < self.num_classes, 1, 0)  # "no class" may become any
        most = max(self.num_classes, 2)
        step = jax.vmap(lambda k, low: jax.random.randint(k, (), low, most))(keys, least)
        return (condition + step) % self.num_classes

    def in_turn(self, count: int) -> np.ndarray:
        """Return `count` labels that go through the classes in turn, int32."""
        return np.resize(np.arange(self.num_classes, dtype=np.int32), count)

    def check(self, labels: Sequence[int] | np.ndarray, name: str = "labels") -> np.ndarray:
        """Return labels as int32 [B], or raise a UserError that names the first wrong one."""
        try:
            found = np.atleast_1d(np.asarray(labels))
        except (ValueError, TypeError, OverflowError):  # ragged, or unfit for any array
            found = np.empty((0, 0))
        if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
            raise UserError(
                f"{name}={shown(labels)} must be ints, one per image, such as [0, 1, 2]."
            )
        wrong = np.flatnonzero((found < 0) | (found >= self.num_classes))
        if wrong.size:
            raise UserError(
                f"{name}[{wrong[0]}]={found[wrong[0]]} must lie in [0, {self.num_classes - 1}]: "
                f"the model has {self.num_classes} classes."
            )
        return found.astype(np.int32)
