"""Guidance: a strong prediction of the velocity, weaker ones, and how they combine.

guided = omega * strong + (1 - omega) * weak          (Krause et al., arXiv 2601.01608, Eq. 3, 7, 8)
       = strong + (omega - 1) (strong - weak)

| name   | strong              | weak                                                      |
|--------|---------------------|-----------------------------------------------------------|
| CFG    | v(c), gamma 0       | v(null), gamma 0                                          |
| SG     | v(c; gamma_strong)  | v(c; gamma_weak): both conditional, only sparsity differs |
| CFG+SG | v(c; gamma_strong)  | v(null; gamma_weak)                                       |
| AG     | v(c)                | another network's v(c), such as an early checkpoint's     |
| AG+SG  | v(c; gamma_strong)  | another network's v(c; gamma_weak)                        |
| ICG    | v(c)                | v(another label, at random; the paper may draw c again)   |
| PDG    | v(c)                | v(null), gamma_weak 1: the routed blocks are skipped      |
| TSG    | v(c)                | v(c) with noise on the embedding of its time              |
| SLG    | v(c)                | v(c) without some fixed blocks (`skip`, `skip_scale`)     |
| S2     | v(c)                | v(c) without blocks that each evaluation draws anew       |
| IG     | v(c)                | v(c) of the inner head, in the same pass (`inner_scale`)  |
| APG    | any                 | any; the difference is projected: see `projection`        |
| CFG-Zero* | any             | any, rescaled to fit the strong one; the first steps are 0 |

SLG, S2 and IG are terms of their own, which can be added to any pair above them: each adds its
(omega_k - 1) (strong - weak_k). APG and CFG-Zero* are switches that apply to all of these. SLG was
published on top of CFG, and so was S2 (arXiv 2508.12880): D(null) + lambda (D(c) - D(null)) - omega
(D_skipped - D(c)) is our sum with scale = lambda and skip_scale = 1 + omega. IG was published with
CFG too, in both of CFG's predictions; here it acts only in the strong one. TSG perturbs the time of
all blocks here; in its paper it can also perturb only the first ones. PDG's tokens bypass the
routed blocks; its paper puts a mask token in their place.

Our own options: with `refresh` k, step n uses the difference d of step k floor(n / k), counted from
where the guidance begins to act; with ids "borrowed", h_weak,i = h_strong,i after a route for each
token i that the weak prediction keeps; with `weak_weights`, the weak network has the same
checkpoint's raw weights, or another average of them; with a `momentum` beta > 0, which APG has
below 0, evaluation n uses sum over k <= n of beta^(n - k) (1 - t_k) d_k / (1 - t_n). Samplers such
as Heun's make two evaluations in a step.

Autoguidance (AG): arXiv 2406.02507. ICG and TSG: arXiv 2407.02687. Path-drop (PDG): arXiv
2510.21986. IG: arXiv 2512.24176. APG: arXiv 2410.02416. CFG-Zero*: arXiv 2503.18886.
Some code counts the scale from 0 (its scale is our omega - 1); here omega = 1 turns guidance off.
"""

import dataclasses
import re

import numpy as np

from sg_jax.errors import FLOAT32, INT32, Settings, UserError, is_number, is_whole, setting
from sg_jax.method import describing, schedule
from sg_jax.method.plans import Plan, Stretch
from sg_jax.method.sampler import Sampler
from sg_jax.method.schedule import Schedule
from sg_jax.method.weak import RAW
from sg_jax.method.weak import WEAK_LABELS as WEAK_LABELS

MOST_CHANNELS = 2**12
IDS = ("uniform", "stratified", "nested", "borrowed")
NUMBER = re.compile(r"[0-9]*\.?[0-9]+(e-?[0-9]{1,3})?")


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


def _skip(value) -> str:
    blocks = value if isinstance(value, tuple) else (value,)
    if all(is_whole(b) and b >= 0 for b in blocks) and list(blocks) == sorted(set(blocks)):
        return ""
    return "must be a number of blocks, or a tuple of block numbers from 0 in ascending order."


@dataclasses.dataclass(frozen=True)
class Guidance(Settings):
    """Which predictions a step makes, and how they combine.

    Scales and gammas are numbers, or schedules over the steps (see `schedule`).
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
    interval: tuple = setting(
        (0.0, 1.0), "guidance acts in steps that begin at these times t", rule=_interval
    )
    ids: str = setting(
        "uniform",
        "how kept tokens are drawn at each evaluation: independently, stratified over the token "
        "grid, nested (the smaller set within the larger), or borrowed: nested, and the weak "
        "prediction takes their values after a route from the strong one",
        options=IDS,
    )
    segments: int = setting(8, "stretches of constant rate that a schedule is cut into", low=1)
    channels: int = setting(
        0, "guide only the first channels, as DiT did 3 of 4; 0: all", low=0, high=MOST_CHANNELS
    )
    skip: tuple | int = setting(
        0,
        "blocks that a further prediction leaves out: their numbers (SLG), or how many to draw at "
        "each evaluation (S2)",
        rule=_skip,
    )
    skip_scale: Schedule = setting(1.0, "omega of that prediction; 1: it is not made", rule=_scale)
    inner_scale: Schedule = setting(1.0, "omega of the inner head (IG); 1: not used", rule=_scale)
    time_noise: float = setting(
        0.0, "s of TSG: noise on the weak prediction's time embedding, in its deviations", low=0
    )
    time_power: float = setting(1.0, "alpha of TSG: that noise is s (1 - t)^alpha", low=0)
    refresh: int = setting(
        1, "steps from one computation of the weak prediction's difference to the next", low=1
    )
    parallel: float = setting(
        1.0, "eta of APG: what is left of the difference's part along the image", low=0
    )
    norm: float = setting(0.0, "r of APG: largest norm of an image's difference; 0: any", low=0)
    momentum: float = setting(
        0.0, "beta of APG, below 0 as published; above 0 it sums differences", above=-1, below=1
    )
    rescale: bool = setting(False, "multiply the weak velocity by s* (CFG-Zero*)")
    zero_steps: int = setting(0, "first steps with a velocity of 0 (CFG-Zero*)", low=0)
    weak_weights: str = setting(
        "",
        'weights of the checkpoint that make the weak prediction: "raw", or a decay of '
        'train.ema_decays such as "0.99"; empty: the average, as for the strong one',
        rule=_weights,
    )

    @property
    def other_checkpoint(self) -> bool:
        """Whether the weak prediction comes from another checkpoint (AG)."""
        return bool(self.weak_step or self.weak_workdir)

    @property
    def two_networks(self) -> bool:
        """Whether the weak prediction comes from another network, with other weights (AG)."""
        return self.other_checkpoint or bool(self.weak_weights)

    @property
    def weak_part(self) -> str:
        """The part of a checkpoint that makes the weak prediction, such as "ema_0.99"."""
        parts = {"": "ema", RAW: "model"}
        name = self.weak_weights
        return parts[name] if name in parts else f"ema_{float(name):g}"

    def differs(self, gamma_strong: Schedule, gamma_weak: Schedule) -> bool:
        """Return whether the weak prediction differs from the strong one at these rates."""
        same_input = self.weak_label == "same" and not self.two_networks and not self.time_noise
        return not same_input or gamma_strong != gamma_weak

    @property
    def weak_acts(self) -> bool:
        """Whether a weak prediction is needed: not at omega 1, nor if it equals the strong one."""
        return self.scale != 1.0 and self.differs(self.gamma_strong, self.gamma_weak)

    @property
    def skip_acts(self) -> bool:
        """Whether a prediction without some blocks is needed."""
        return self.skip_scale != 1.0 and self.skip not in (0, ())

    @property
    def inner_acts(self) -> bool:
        """Whether the inner head is needed."""
        return self.inner_scale != 1.0

    @property
    def guided(self) -> bool:
        """Whether any prediction other than the strong one is needed."""
        return self.weak_acts or self.skip_acts or self.inner_acts

    def describe(self) -> str:
        """Return a short text for tables and pictures, such as "ω 1.5, γ 0.5 / 0.9"."""
        return describing.describe(self)


def plan(
    guidance: Guidance, sampler: Sampler, steps: int, seed: int = 0
) -> tuple[Plan, np.ndarray]:
    """Cut a run of steps into stretches of constant rates, so that each has static shapes.

    Scheduled rates are averaged over `guidance.segments` equal stretches. Options that act on
    differences, or in the first steps, have no effect without guidance. The seed decides which
    blocks S2 leaves out.

    Returns:
      The plan, and the rows of `Values`, float32 [rows, steps], which can change without a new
      compile.

    Raises:
      UserError: no step would move, or none would be guided.
    """
    g = guidance
    zeros = g.zero_steps if g.guided else 0
    if zeros >= steps:
        raise UserError(
            f"guidance.zero_steps={g.zero_steps} leaves none of {steps} steps: lower it, or take "
            "more steps."
        )
    starts = np.asarray(sampler.times(steps), np.float64)[:-1]
    low, high = g.interval
    near = 1e-6  # because times are float32 and limits are not
    acts = (starts >= low - near) & (starts <= high + near)
    if g.guided and not acts.any():
        begin = ", ".join(f"{t:.3g}" for t in starts[:4]) + (", ..." if steps > 4 else "")
        raise UserError(
            f"guidance.interval={g.interval} contains none of the times when steps begin, {begin}: "
            f"widen it, or take more than {steps} steps."
        )
    others = (("skip",) if g.skip_acts else ()) + (("inner",) if g.inner_acts else ())
    stretches: list[Stretch] = []
    fresh, since, before = np.zeros(steps), 0, tuple[str, ...]()
    for n, (s, w, on) in enumerate(zip(*rates(g, steps), acts, strict=True)):
        gammas = (s, w) if on and g.scale != 1.0 and g.differs(s, w) else (s,)
        step = Stretch(n, n + 1, gammas, others if on else ())
        step = step if n >= zeros else Stretch(n, n + 1, ())
        if stretches and dataclasses.replace(step, first=stretches[-1].first) == (
            dataclasses.replace(stretches[-1], stop=n + 1)
        ):
            stretches[-1] = dataclasses.replace(stretches[-1], stop=n + 1)
        else:
            stretches.append(step)
        since = since + 1 if step.apart == before else 0
        fresh[n], before = bool(step.apart) and since % g.refresh == 0, step.apart
    scales = [schedule.values(x, steps) for x in (g.scale, g.skip_scale, g.inner_scale)]
    numbers = (g.time_noise, g.time_power, g.parallel, g.norm, g.momentum, seed % 2**24)
    rows = [*scales, fresh, *(np.full(steps, number) for number in numbers)]
    terms = {name for stretch in stretches for name in stretch.terms}
    weak = "weak" in terms
    made = Plan(  # leaves out what has no effect
        tuple(stretches),
        weak_label=g.weak_label if weak else "same",
        two_networks=weak and g.two_networks,
        ids=g.ids,
        channels=g.channels if terms else 0,
        skip=g.skip if "skip" in terms else 0,
        noisy=weak and g.time_noise > 0,
        reuses=g.refresh > 1 and any(stretch.apart for stretch in stretches),
        projects=bool(terms) and (g.parallel != 1 or g.norm > 0 or g.momentum != 0),
        momentum=bool(terms) and g.momentum != 0,
        rescales=bool(terms) and g.rescale,
    )
    return made, np.stack(rows).astype(np.float32)


def rates(guidance: Guidance, steps: int) -> tuple[list[float], list[float]]:
    """Return the strong and the weak rate of each step, averaged as `guidance.segments` says."""
    out = []
    for gamma in (guidance.gamma_strong, guidance.gamma_weak):
        if not isinstance(gamma, tuple):
            out.append([float(gamma)] * steps)  # exact: the last digit may decide about a token
            continue
        groups = np.array_split(schedule.values(gamma, steps), min(guidance.segments, steps))
        out.append([round(float(g.mean()), 6) for g in groups for _ in g])
    return out[0], out[1]
