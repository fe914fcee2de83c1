"""The settings in config.train and config.checkpoint."""

import dataclasses

from sg_jax.config import tuples
from sg_jax.errors import CONTINUED, Settings, setting
from sg_jax.programs.health import DIVERGED

MOST_IMAGES = 10_000_000  # the most that a command draws
HELDOUT = "heldout_loss"  # its name among the numbers of a run, and in config.checkpoint.keep_best
EVAL = "eval/"  # before a metric's name there


@dataclasses.dataclass(frozen=True)
class Train(Settings):
    """Training."""

    SECTION = "config.train"

    steps: int = setting(1000, "number of training steps", low=1)
    batch_size: int = setting(256, "images of a step, over all devices", low=1, fixed=CONTINUED)
    accumulate: int = setting(1, "parts to split a batch into, to save memory", low=1)
    ema_decay: float = setting(
        0.9999, "of the moving average of the weights", low=0, below=1, fixed=CONTINUED
    )
    ema_decays: tuple = setting(
        (), "further averages to keep, each by its decay", rule=tuples.decays, fixed=CONTINUED
    )
    gammas: tuple = setting(
        (),
        "((step, gamma), ...): rates that replace objective.gamma after these steps",
        rule=tuples.gammas,
        fixed=CONTINUED,
    )
    log_every: int = setting(100, "steps between records", low=1)
    sample_every: int = setting(0, "steps between sample grids; 0: none", low=0)
    heldout_every: int = setting(
        0, "steps between losses of data.test_split, by the moving average; 0: none", low=0
    )
    heldout_images: int = setting(
        1000, "images of that loss, evenly spread over the split", low=1, high=MOST_IMAGES
    )
    evaluate_every: int = setting(
        0, "steps between small evaluations of the moving average; 0: none", low=0
    )
    evaluate_samples: int = setting(500, "images that each of them draws", low=10, high=MOST_IMAGES)
    evaluate_guidance: str = setting("unguided", "the guidance setting that they draw with")
    then: tuple = setting((), "modes that follow: 'sample', 'evaluate'", rule=tuples.then)
    init_from: str = setting(
        "", "a run, or a file of weights, that training starts from", fixed=CONTINUED
    )
    on_divergence: str = setting(
        "stop",
        "stop; skip the update; or go back to a checkpoint and read other data",
        options=DIVERGED,
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint(Settings):
    """Which checkpoints to save and keep."""

    SECTION = "config.checkpoint"

    every: int = setting(1000, "steps between saves", low=1)
    keep: int = setting(2, "how many of the latest are kept", low=1)
    keep_period: int = setting(0, "keep multiples of it for good; 0: none", low=0)
    keep_best: str = setting(
        "",
        "keep the best one too, by a metric of train.evaluate_every, such as 'frechet', or by "
        "'heldout_loss'; empty: none",
    )
