"""The weak prediction's condition, by name, derived from the strong one's; and its weights."""

import dataclasses
from collections.abc import Callable

import jax

from sg_jax.method.network import Condition, Network

RAW = "raw"  # of `weak_weights`: the weights that training changes, not an average of them


@dataclasses.dataclass(frozen=True)
class WeakCondition:
    """How to get the weak prediction's condition from the strong one's: a row of `WEAK_LABELS`.

    To add one, add a row to `WEAK_LABELS`; its name is then a value of `weak_label`.
    """

    derive: Callable[[Network, Condition, jax.Array], Condition] | None  # keys [B]; None: the same
    words: str = ""  # in the description of a setting
    method: str = ""  # the method's name
    least: int = 1  # how many conditions the network must have


WEAK_LABELS = {
    "same": WeakCondition(None),
    "null": WeakCondition(lambda model, c, keys: model.conditioning.null(c), "null", "CFG"),
    "random": WeakCondition(
        lambda model, c, keys: model.conditioning.another(c, keys), "other label", "ICG", least=2
    ),
}
