"""Pictures that are drawn while a run trains: a small grid from the moving average."""

import numpy as np

from sg_jax.config.experiment import Experiment
from sg_jax.data.asked import Asked
from sg_jax.evaluation import captioned, pictures
from sg_jax.method.guidance import Guidance
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import processes
from sg_jax.programs.sampling import NotFinite, sample
from sg_jax.programs.training import TrainState
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.runs.records import Writer

CAPTIONED = 6  # captioned pictures in a row, and in a column


def draw(
    experiment: Experiment, state: TrainState, writer: Writer, workdir: str, step: int
) -> None:
    """Draw a small grid from the moving average: a column per class, or some captions.

    If samples are not finite, there is no picture, and the log says so.

    Args:
      experiment: the run's objects; its autoencoder decodes what is drawn.
      state: the state after the step.
      writer: writes the picture.
      workdir: the folder of the run, in which it is a file too.
      step: the step.
    """
    config = experiment.config
    guidance = experiment.settings[config.sample.guidance]
    if guidance.other_checkpoint:  # the weak network may not be trained yet
        guidance = Guidance(gamma_strong=guidance.gamma_strong)
    batch = config.sample.batch_size  # the same program as --mode sample
    wanted: np.ndarray | Asked
    if experiment.captions is None:
        columns = min(experiment.model.conditioning.num_classes, 10)
        rows = max(1, min(10, batch // columns))
        wanted = np.tile(experiment.model.conditioning.in_turn(columns), rows)
    else:
        columns = min(batch, CAPTIONED)
        rows = max(1, min(CAPTIONED, batch // columns))
        wanted = experiment.asked(columns * rows)
    how = dict(weak_model=weak_of(state, guidance), **experiment.sampling)
    try:
        images = sample(state.ema, wanted, guidance=guidance, **how)
    except NotFinite as error:  # in all processes
        log(f"Step {step}: this grid of images failed and is left out. {error}")
        return
    if isinstance(wanted, Asked):
        picture = captioned.grid(images, wanted.words, columns)
    else:
        picture = pictures.grid(images.reshape(rows, columns, *images.shape[1:]))
    picture = pictures.credited(picture, config.data.name)
    writer.image(step, "samples", np.asarray(picture.convert("RGB")))
    if processes.is_writer():
        pictures.save_png(picture, files.path(workdir) / "samples" / f"step_{step:07d}.png")


def weak_of(state: TrainState, guidance: Guidance) -> Backbone | None:
    """Return the state's weights for the weak prediction, if it uses other weights."""
    if not guidance.weak_weights:
        return None
    others = {f"ema_{decay}": average for decay, average in state.emas.items()}
    return {"model": state.model, **others}[guidance.weak_part]
