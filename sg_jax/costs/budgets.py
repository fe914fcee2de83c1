"""How many steps of a guidance setting cost a given number of FLOPs."""

import contextlib
from collections.abc import Iterable

from sg_jax.costs import flops
from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone

FEWEST, START = 2, 40  # steps of a run: the fewest, and a first guess
NEAR = 4  # steps to try around a first answer, because an interval cuts off whole steps


def image(
    model: Backbone,
    guidance: Guidance,
    sampler: Sampler,
    steps: int,
    weak_model: Backbone | None = None,
) -> float:
    """Return the FLOPs of drawing an image: all of them, but work that branches share only once.

    Args:
      model: the network (its shapes).
      guidance: the setting.
      sampler: the integrator.
      steps: its number of steps.
      weak_model: the network of the weak prediction, if its shapes differ.
    """
    return steps * flops.sampling_step(
        model, guidance, full=True, steps=steps, sampler=sampler, weak_model=weak_model
    )


def steps_for(
    target: float,
    model: Backbone,
    guidance: Guidance,
    sampler: Sampler,
    weak_model: Backbone | None = None,
) -> tuple[int, float]:
    """Return the number of steps whose cost is nearest to a target, and that cost.

    Args:
      target: FLOPs of an image.
      model, guidance, sampler, weak_model: see `image`.

    Returns:
      The steps, at least `FEWEST`, the fewer of two equally near; and the FLOPs of an image.

    Raises:
      UserError: the setting needs more steps than about this cost allows.
    """

    def cost(steps: int) -> float:
        return image(model, guidance, sampler, steps, weak_model)

    def possible(numbers: Iterable[int]) -> dict[int, float]:
        found = {}
        for n in numbers:
            with contextlib.suppress(UserError):  # so few steps that none would be guided
                found[n] = cost(n)
        return found

    steps, known = START, possible([START])
    while not known and image(model, Guidance(), sampler, steps, weak_model) < target:
        steps *= 2  # so few steps miss the interval
        known = possible([steps])
    per_step = (known.get(steps) or cost(steps)) / steps
    for _ in range(3):  # the cost of a step changes a little with their number
        steps = max(FEWEST, round(target / max(per_step, 1.0)))
        per_step = possible([steps]).get(steps, per_step * steps) / steps
    near = possible(range(max(FEWEST, steps - NEAR), steps + NEAR + 1))
    if not near:
        cost(steps)  # raises the reason
    best = min(near, key=lambda n: (abs(near[n] - target), n))
    return best, near[best]
