"""Guidance: two predictions of one velocity, and how they combine.

guided = omega * strong + (1 - omega) * weak          (Krause et al., arXiv 2601.01608, Eq. 3, 7, 8)

| name   | strong              | weak                                                      |
|--------|---------------------|-----------------------------------------------------------|
| CFG    | v(c), gamma 0       | v(null), gamma 0                                          |
| SG     | v(c; gamma_strong)  | v(c; gamma_weak): both conditional, only sparsity differs |
| CFG+SG | v(c; gamma_strong)  | v(null; gamma_weak)                                       |
| AG     | v(c)                | another network's v(c), such as an early checkpoint's     |
| AG+SG  | v(c; gamma_strong)  | another network's v(c; gamma_weak)                        |
| ICG    | v(c)                | v(another label, at random)                               |
| PDG    | v(c)                | v(null), gamma_weak 1: the routed blocks are skipped      |

Autoguidance (AG): arXiv 2406.02507. ICG: arXiv 2407.02687. Path-drop (PDG): arXiv 2510.21986.
Some code counts the scale from 0 (its scale is our omega - 1); here omega = 1 turns guidance off.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sg_jax.errors import FLOAT32, INT32, Settings, is_number, is_whole, setting
from sg_jax.method import prediction, schedule, tokens
from sg_jax.method.network import Branch, Condition, KeepIds, Network
from sg_jax.method.routing import draw_ids
from sg_jax.method.sampler import Sampler, Velocity
from sg_jax.method.schedule import Schedule


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
MOST_CHANNELS = 2**12
IDS = ("uniform", "stratified", "nested")
RAW = "raw"  # the weights that training changes, not an average of them
NUMBER = re.compile(r"[0-9]*\.?[0-9]+(e-?[0-9]{1,3})?")
FIRST = 10  # fields that `repr` always shows, because the names of drawn images depend on it


def _scale(value) -> str:
    return schedule.broken(value, 0.0, FLOAT32)


def _rate(value) -> str:
    return schedule.broken(value, 0.0, 1.0)


def _step(value) -> str:
    if is_number(value) and (0 < value < 1 or (is_whole(value) and 0 <= value <= INT32)):
        return ""
    return "must be the step of a checkpoint, an int of at least 0, or a share between 0 and 1."


def _weights(value) -> str:
    decay = value if isinstance(value, str) else "-"
    if decay in ("", RAW) or (NUMBER.fullmatch(decay) and 0 <= float(decay) < 1):
        return ""
    return f"must be {RAW!r}, or a decay of config.train.ema_decays as text, such as '0.99'."


def _interval(pair) -> str:
    numbers = isinstance(pair, tuple) and all(map(is_number, pair))
    if numbers and len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1:
        return ""
    return "must be two times 0 <= low <= high <= 1."


@dataclasses.dataclass(frozen=True)
class Guidance(Settings):
    """Which two predictions a step makes.

    Scale and gammas are numbers, or schedules over the steps (see `schedule`).
    """

    SECTION = "guidance"

    scale: Schedule = setting(1.0, "omega; 1: only the strong prediction", rule=_scale)
    gamma_strong: Schedule = setting(0.0, "sparsity rate of the strong prediction", rule=_rate)
    gamma_weak: Schedule = setting(0.0, "of the weak one; 1 skips the routed blocks", rule=_rate)
    weak_label: str = setting("same", "condition of the weak prediction", options=WEAK_LABELS)
    weak_step: int | float = setting(
        0,
        "checkpoint that makes it (AG), by its step or as a share of the training such as 0.33; 0: "
        "the same network",
        rule=_step,
    )
    weak_workdir: str = setting("", "the run of that checkpoint; empty: the same run")
    interval: tuple = setting((0.0, 1.0), "times t at which guidance acts", rule=_interval)
    ids: str = setting(
        "uniform",
        "how kept tokens are drawn at each evaluation: independently, stratified over the token "
        "grid, or nested (the smaller set within the larger)",
        options=IDS,
    )
    segments: int = setting(8, "stretches of constant rate that a schedule is cut into", low=1)
    channels: int = setting(
        0, "guide only the first channels, as DiT did 3 of 4; 0: all", low=0, high=MOST_CHANNELS
    )
    weak_weights: str = setting(
        "",
        'weights of the checkpoint that make the weak prediction: "raw", or a decay of '
        'train.ema_decays such as "0.99"; empty: the average, as for the strong one',
        rule=_weights,
    )

    def __repr__(self) -> str:
        """Leave out what came later and is not set, so that texts of before stay the same."""
        fields = dataclasses.fields(self)
        shown = [f for n, f in enumerate(fields) if n < FIRST or getattr(self, f.name) != f.default]
        return f"Guidance({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    @property
    def other_checkpoint(self) -> bool:
        """Whether the weak prediction is that of another checkpoint (AG)."""
        return bool(self.weak_step or self.weak_workdir)

    @property
    def two_networks(self) -> bool:
        """Whether the weak prediction is another network's: of other weights (AG)."""
        return self.other_checkpoint or bool(self.weak_weights)

    @property
    def weak_part(self) -> str:
        """The part of a checkpoint that makes the weak prediction, such as "ema_0.99"."""
        parts = {"": "ema", RAW: "model"}
        name = self.weak_weights
        return parts[name] if name in parts else f"ema_{float(name):g}"

    def differs(self, gamma_strong: Schedule, gamma_weak: Schedule) -> bool:
        """Return whether the two predictions differ at these rates."""
        same_input = self.weak_label == "same" and not self.two_networks
        return not same_input or gamma_strong != gamma_weak

    @property
    def guided(self) -> bool:
        """Whether a weak prediction is needed: not at omega 1, and not if both are equal."""
        return self.scale != 1.0 and self.differs(self.gamma_strong, self.gamma_weak)

    def describe(self) -> str:
        """Return a short text for tables and pictures, such as "ω 1.5, γ 0.5 / 0.9"."""
        strong, weak = schedule.text(self.gamma_strong), schedule.text(self.gamma_weak)
        if not self.guided:
            return f"no guidance, γ {strong}"
        words = [f"ω {schedule.text(self.scale)}, γ {strong} / {weak}"]
        words += [w] if (w := WEAK_LABELS[self.weak_label].words) else []
        if self.weak_step:
            at = self.weak_step
            words.append(f"{100 * at:g}% trained" if isinstance(at, float) else f"step {at}")
        words += [self.weak_workdir] if self.weak_workdir else []
        if self.weak_weights:
            is_raw = self.weak_weights == RAW
            words.append("raw weights" if is_raw else f"average {self.weak_weights}")
        words += [self.ids] if self.ids != "uniform" else []
        if self.interval != (0.0, 1.0):
            words.append(f"t {self.interval[0]:g}–{self.interval[1]:g}")
        words += [f"the first {self.channels} channels"] if self.channels else []
        return " ".join(words)


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Steps first..stop-1 at constant rates: strong and weak, or only strong."""

    first: int
    stop: int
    gammas: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled program depends on: the stretches of a run, and how predictions differ."""

    stretches: tuple[Stretch, ...]
    weak_label: str
    two_networks: bool
    ids: str
    channels: int = 0


def plan(guidance: Guidance, sampler: Sampler, steps: int) -> tuple[Plan, np.ndarray]:
    """Cut a run of steps into stretches of constant rates, so that each has static shapes.

    Scheduled rates are averaged over `guidance.segments` equal stretches.

    Returns:
      The plan, and omega at each step, float32 [steps], which can change without a new compile.
    """
    scales = schedule.values(guidance.scale, steps).astype(np.float32)
    starts = np.asarray(sampler.times(steps), np.float64)[:-1]
    low, high = guidance.interval
    near = 1e-6  # because times are float32 and limits are not
    acts = (starts >= low - near) & (starts <= high + near) & (guidance.scale != 1.0)
    stretches: list[Stretch] = []
    for n, (s, w, on) in enumerate(zip(*rates(guidance, steps), acts, strict=True)):
        gammas = (s, w) if on and guidance.differs(s, w) else (s,)
        if stretches and stretches[-1].gammas == gammas:
            stretches[-1] = dataclasses.replace(stretches[-1], stop=n + 1)
        else:
            stretches.append(Stretch(n, n + 1, gammas))
    if all(len(s.gammas) == 1 for s in stretches):  # then nothing else matters
        return Plan(tuple(stretches), "same", False, guidance.ids), scales
    weak = guidance.weak_label, guidance.two_networks
    return Plan(tuple(stretches), *weak, guidance.ids, guidance.channels), scales


def rates(guidance: Guidance, steps: int) -> tuple[list[float], list[float]]:
    """Return the strong and the weak rate of each step, rounded to `guidance.segments`."""
    out = []
    for gamma in (guidance.gamma_strong, guidance.gamma_weak):
        if not isinstance(gamma, tuple):
            out.append([float(gamma)] * steps)  # exact: the last digit may decide about a token
            continue
        groups = np.array_split(schedule.values(gamma, steps), min(guidance.segments, steps))
        out.append([round(float(g.mean()), 6) for g in groups for _ in g])
    return out[0], out[1]


def combine(
    strong: jax.Array, weak: jax.Array, scale: jax.Array | float, channels: int = 0
) -> jax.Array:
    """Return omega * strong + (1 - omega) * weak                                      (Eq. 7).

    With `channels`, the last axis has only its first ones guided; the others are the strong ones.
    """
    guided = scale * strong + (1 - scale) * weak
    if not channels:
        return guided
    return jnp.where(jnp.arange(strong.shape[-1]) < channels, guided, strong)


def guided_velocity(
    model: Network,
    weak_model: Network | None,
    stretch: Stretch,
    plan: Plan,
    condition: Condition,
    keys: jax.Array,
    scales: jax.Array,
    evaluations: int = 1,
) -> Velocity:
    """Return velocity(x [B, H, W, C], t [], n []) for one stretch of a run.

    Both predictions are made together, so that one compiled step makes both and shares what it can.
    Token ids are new at every evaluation n, and depend only on the image's own key.

    Args:
      model: the network of the strong prediction, and of the weak one unless `weak_model` makes it.
      weak_model: another network for the weak prediction, or None.
      stretch, plan: static; see `plan`.
      condition: the condition of each image.
      keys: one per image [B].
      scales: omega at each step [steps], traced, so that other values need no new compile.
      evaluations: how many a step makes.
    """
    derive = WEAK_LABELS[plan.weak_label].derive

    def velocity(x, t, n):
        now = _fold(keys, n)
        ids = draw_pair(model, now, stretch.gammas, plan.ids)
        t = jnp.broadcast_to(t, keys.shape)
        if len(stretch.gammas) == 1:
            return prediction.velocity(model, x, t, condition, ids[0])
        other = derive(model, condition, _fold(now, 2)) if derive else condition
        if plan.two_networks:
            assert weak_model is not None
            strong = prediction.velocity(model, x, t, condition, ids[0])
            weak = prediction.velocity(weak_model, x, t, other, ids[1])
        else:
            both = [Branch(condition, ids[0]), Branch(other, ids[1])]
            strong, weak = prediction.velocities(model, x, t, both)
        return combine(strong, weak, scales[n // evaluations], plan.channels)

    return velocity


def draw_pair(model: Network, keys: jax.Array, gammas: Sequence[float], kind: str) -> list[KeepIds]:
    """Draw the kept ids of each prediction from the images' keys [B]; `kind` is one of `IDS`."""
    layout = "uniform" if kind == "nested" else kind
    ids = [draw_ids(model, _fold(keys, i), gamma, layout) for i, gamma in enumerate(gammas)]
    if kind != "nested" or len(ids) == 1:
        return ids
    large, small = sorted((0, 1), key=lambda i: gammas[i])
    most, fewest = ids[large], ids[small]
    if most is not None and fewest is not None:
        ids[small] = [
            tokens.subset_ids(_fold(_fold(keys, small), r), whole, part.shape[1])
            for r, (whole, part) in enumerate(zip(most, fewest, strict=True))
        ]
    return ids


_fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
