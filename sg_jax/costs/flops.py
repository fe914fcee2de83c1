"""What a step costs, counted from the shapes of the matrix products.

The paper counts multiply-adds of linear layers and leaves out what goes on between tokens
(attention's two products). The full count is 2 per multiply-add with those in. Norms, softmax and
the like count in neither.
"""

from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone

PEAKS = {  # bfloat16 FLOP/s of one device without sparsity, by a part of its name; vendors' figures
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
}


def peak(device_kind: str) -> float | None:
    """Return the peak FLOP/s of a device, or None where it is not known."""
    return next((value for name, value in PEAKS.items() if name in device_kind), None)


def sampling_step(
    model: Backbone,
    guidance: Guidance,
    *,
    full: bool = False,
    shared_head: bool = True,
    steps: int = 40,
    sampler: Sampler | None = None,
    weak_model: Backbone | None = None,
) -> float:
    """Return FLOPs per image of one step, the mean over a run of `steps`.

    Args:
      model: the network (its shapes).
      guidance: the setting; its schedules are rounded as they are when sampling.
      full: 2 per multiply-add and everything counted, instead of the paper's convention.
      shared_head: what equal branches share is counted once, as our program computes it; the paper
        counts each branch alone.
      steps: of the run, for schedules.
      sampler: how often it evaluates per step, and at which times; Euler by default.
      weak_model: of the weak prediction, if it is one of another shape.
    """
    sampler = sampler or Sampler()
    plan, _ = guidance_lib.plan(guidance, sampler, steps)
    models = (model, weak_model or model)
    total = 0.0
    for stretch in plan.stretches:
        together = shared_head and not plan.two_networks
        if together:
            macs = model.macs(stretch.gammas, plan.weak_label == "same", full)
        else:
            pairs = zip(models, stretch.gammas, strict=False)  # outside the interval only one
            macs = sum(network.macs((gamma,), True, full) for network, gamma in pairs)
        total += (stretch.stop - stretch.first) / steps * macs
    return (2 if full else 1) * sampler.evaluations * total


def training_step(model: Backbone, gamma: float, batch_size: int, *, full: bool = False) -> float:
    """Return FLOPs of one training step on a batch: forward, and twice that for the backward."""
    return (2 if full else 1) * 3 * batch_size * model.macs((gamma,), True, full)
