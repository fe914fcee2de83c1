"""Whether training is still sound: what a step measures, and what counts as diverged.

A run has diverged if a loss, a gradient, a weight or an average is not finite; or if the error of
its predictions, or an array of its weights, has a root mean square over `LIMIT` times that of the
target, data minus noise. The error of an untrained network, which predicts 0, is as large as the
target, and no weights of a working network come near the limit.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sg_jax.errors import UserError
from sg_jax.method.objective import Rates
from sg_jax.parallel import sharding
from sg_jax.runs.progress import log

DIVERGED = ("stop", "skip", "rollback")  # what to do then
LIMIT = 100.0
ROW = 20  # skipped updates in a row that end a run
# Parts of a network in the order of the forward pass; parts with other names follow.
ORDER = (
    "patch_embedding", "time_embedding", "label_embedding", "text_embedding", "blocks",
    "decoder_modulation", "decoder_embedding", "mask_token", "decoder", "inner_modulation",
    "inner_final", "final_modulation", "final",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finding:
    """What went wrong first.

    Attributes:
      step: the step that shows it.
      sound: the last step after which the state is certainly still sound.
      text: what is wrong, without a full stop.
      data: whether the batch is the reason.
    """

    step: int
    sound: int
    text: str
    data: bool = False


class Diverged(UserError):
    """Training has diverged."""

    def __init__(self, finding: Finding):
        super().__init__(finding.text)
        self.finding = finding


def squares(tree: Any) -> jax.Array:
    """Return the sum of squares of each array [L], in the order of the tree's leaves."""
    return jnp.stack([optax.tree.norm(leaf, squared=True) for leaf in jax.tree.leaves(tree)])


def sound(
    loss: jax.Array, grad_norm: jax.Array, updated: jax.Array, model: Any, images: jax.Array
) -> jax.Array:
    """Return whether a step has not diverged, a traced bool; `updated` are its new `squares`."""
    sizes = np.array([leaf.size for leaf in jax.tree.leaves(model)], np.float32)
    limit = LIMIT**2 * (1.0 + jnp.mean(jnp.square(images)))
    small = (updated <= limit * sizes).all()  # false for NaN
    return (loss <= limit) & jnp.isfinite(grad_norm) & small


class Health:
    """Check what the steps of a run have measured.

    Args:
      model: the network, or its shapes.
      names: of its arrays, in the order of its leaves.
      batch_size: images of a step.
    """

    def __init__(self, model: Any, names: Sequence[str], batch_size: int):
        self._names = list(names)
        self._order = sorted(range(len(names)), key=lambda i: _place(names[i]))
        self._sizes = np.array([leaf.size for leaf in jax.tree.leaves(model)], np.float64)
        self._numbers = batch_size * model.image_size**2 * model.channels
        self._target = 1.0  # mean square of data minus noise
        self._row, self._kept = 0, False  # updates skipped in a row so far; whether any was kept

    def means(
        self, step: int, metrics: Sequence[Mapping[str, Any]], last: bool = False
    ) -> dict[str, float]:
        """Return the mean of each number over some steps, without those that were skipped.

        Args:
          step: the last of these steps.
          metrics: what each of them returned, on the host. Each step is given once.
          last: whether no step follows.

        Raises:
          Diverged: one of them has diverged, or `ROW` in a row or all of them were skipped.
        """
        self.check(step, metrics)
        kept: list[Mapping[str, Any]] = []
        reasons: list[Finding] = []
        for number, found in enumerate(metrics, step - len(metrics) + 1):
            if found.get("skipped"):
                reason = self._look(number, found)
                reasons.append(reason or Finding(number, number, f"Step {number} was skipped"))
                self._row += 1
            else:
                kept.append(found)
                self._row, self._kept = 0, True
            if self._row == ROW or (self._row and last and number == step and not self._kept):
                text = f"{self._row} updates in a row were skipped. {reasons[-1].text}"
                raise Diverged(dataclasses.replace(reasons[-1], text=text))
        if reasons:
            log(f"Skipped {len(reasons)} of {len(metrics)} updates. {reasons[0].text}.")
        names = [name for name in ("loss", "grad_norm") if kept and name in kept[0]]
        means = {name: float(np.mean([found[name] for found in kept])) for name in names}
        return means | ({"skipped": len(reasons)} if reasons else {})

    def check(self, step: int, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Raise Diverged if one of some steps has; see `means`."""
        for number, found in enumerate(metrics, step - len(metrics) + 1):
            finding = self._look(number, found)
            if finding is not None and (finding.data or not found.get("skipped")):
                raise Diverged(finding)

    def check_state(self, step: int, state: Any, mesh: Mesh) -> None:
        """Raise Diverged if weights or averages that are to be saved after a step are off.

        All processes of the mesh call this.
        """
        trees = {"weights are": state.model, "moving average is": state.ema}
        trees |= {f"average of decay {decay} is": tree for decay, tree in state.emas.items()}
        measured = np.split(_measured(list(trees.values()), mesh), len(trees))
        for what, found in zip(trees, measured, strict=True):
            if text := self._off(found):
                raise Diverged(Finding(step, step - 1, f"After step {step} the {what} {text}"))

    def _look(self, step: int, metrics: Mapping[str, Any]) -> Finding | None:
        """Return what is wrong with a step, if anything is."""
        loss, norm = float(metrics["loss"]), float(metrics.get("grad_norm", 0.0))
        measured = np.asarray(metrics.get("squares", ()), np.float64)
        images, weights, gradients = np.split(measured, (1, 1 + len(self._names)))
        if images.size:
            target = 1.0 + images[0] / self._numbers
            if not np.isfinite(target):
                return Finding(step, step - 1, f"The batch of step {step} is not finite", data=True)
            self._target = target
            if text := self._off(weights):
                before = step - 1
                which = (
                    f"After step {before} the weights" if before else "The weights to start from"
                )
                return Finding(before, before - 1, f"{which} are {text}")
        if not loss <= LIMIT**2 * self._target:
            text = f"The loss is {loss:.4g} at step {step}{self._note(weights)}"
            return Finding(step, step - 2, text)
        if not math.isfinite(norm):
            text = f"The norm of the gradient is {norm} at step {step}{self._span(gradients)}"
            return Finding(step, step - 1, text)
        if "updated" in metrics and (text := self._off(np.asarray(metrics["updated"], np.float64))):
            return Finding(step, step - 1, f"After step {step} the weights would be {text}")
        return None

    def _off(self, found: np.ndarray) -> str:
        """Name the first array, in the order of the forward pass, that is off; "" if none is."""
        roots = np.sqrt(found / self._sizes)
        bad = [i for i in self._order if not roots[i] <= LIMIT * math.sqrt(self._target)]
        if not bad:
            return ""
        return f"out of bounds, first {self._names[bad[0]]} (root mean square {roots[bad[0]]:.4g})"

    def _note(self, weights: np.ndarray) -> str:
        """Return more about a loss that is off although data and weights are not."""
        if not weights.size:
            return ""
        roots = np.sqrt(weights / self._sizes)
        i = int(roots.argmax())
        return f" (the largest weights are {self._names[i]}, root mean square {roots[i]:.4g})"

    def _span(self, gradients: np.ndarray) -> str:
        """Name the first and last array whose gradient is not finite; it began in the last one."""
        bad = [i for i in self._order if gradients.size and not np.isfinite(gradients[i])]
        if not bad:
            return ""
        more = f" to {self._names[bad[-1]]}" if bad[1:] else ""
        return f", in {self._names[bad[0]]}{more}"


def losses_by_rate(rates: Rates, metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean loss at each rate, such as "loss_gamma_0.5", if steps draw their rates.

    Args:
      rates: those that the steps drew from.
      metrics: what each of them returned, on the host; skipped steps do not count.
    """
    found: dict[str, float] = {}
    for n, (gamma, _) in enumerate(rates):
        losses = [m["loss"] for m in metrics if m.get("drawn") == n and not m.get("skipped")]
        if losses:
            found[f"loss_gamma_{gamma:g}"] = float(np.mean(losses))
    return found


def _place(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names of arrays in the order of the forward pass."""
    parts = name.split("/")
    places = (
        ORDER.index(p) if p in ORDER else int(p) if p.isdigit() else len(ORDER) for p in parts
    )
    return list(zip(places, parts, strict=True))


def _measured(trees: Any, mesh: Mesh) -> np.ndarray:
    """Return `squares` on the host."""
    leaves = jax.tree.leaves(trees)
    if all(d.platform == "cpu" for d in mesh.devices.flat) and not mesh.is_multi_process:
        flat = [np.asarray(leaf).ravel() for leaf in leaves]  # no copy, and nothing to compile
        return np.array([np.vdot(x, x) for x in flat], np.float64)
    return np.asarray(_program(mesh)(trees), np.float64)


@functools.lru_cache
def _program(mesh: Mesh) -> Callable:
    return jax.jit(squares, out_shardings=sharding.replicated(mesh))
