"""Which checkpoint makes autoguidance's weak prediction if a setting gives a share of the training.

`weak_step=0.33` stands for the kept checkpoint nearest to a third of the strong network's steps.
"""

from collections.abc import Sequence

REACH = 2.0  # a checkpoint this many times earlier or later still stands for the share


def nearest(share: float, last: int, kept: Sequence[int]) -> int | None:
    """Return the step in `kept` that is nearest to a share of `last` steps; None if none is near.

    Steps from `last` on do not count.
    """
    wanted = max(1.0, share * last)
    near = [step for step in kept if step < last and wanted / REACH <= step <= wanted * REACH]
    return min(near, key=lambda step: abs(step - wanted), default=None)


def advice(share: float, last: int, every: int) -> str:
    """Return the config keys that make a training run of `last` steps keep such a checkpoint.

    Args:
      share: of the training.
      last: its last step.
      every: steps between saves; only multiples of it can be kept.
    """
    period = max(1, round(share * last / every)) * every
    if nearest(share, last, range(period, last, period)) is not None:
        return f"config.checkpoint.keep_period={period}"
    period = max(1, round(share * last))
    return f"config.checkpoint.every={period} and config.checkpoint.keep_period={period}"
