"""How many steps of a guidance setting cost a given number of FLOPs."""

from sg_jax.costs import flops
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone

FEWEST = 2  # steps of a run
NEAR = 4  # steps around a first answer that are looked at, because an interval cuts whole steps


def image(
    model: Backbone,
    guidance: Guidance,
    sampler: Sampler,
    steps: int,
    weak_model: Backbone | None = None,
) -> float:
    """Return FLOPs of drawing an image: everything counts, and what branches share counts once.

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
      The steps, at least `FEWEST`, the fewer of two that are as near; and the FLOPs of an image.
    """

    def cost(steps: int) -> float:
        return image(model, guidance, sampler, steps, weak_model)

    steps = 40
    for _ in range(3):  # what a step costs changes with their number, a little
        steps = max(FEWEST, round(steps * target / max(cost(steps), 1.0)))
    near = {n: cost(n) for n in range(max(FEWEST, steps - NEAR), steps + NEAR + 1)}
    best = min(near, key=lambda n: (abs(near[n] - target), n))
    return best, near[best]
