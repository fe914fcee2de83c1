"""Draw images from a trained network into a picture and an .npz file; latents only into the latter.

The drawing itself is `programs.sampling.sample`, which the package exposes as `sg_jax.sample`.
"""

import io
from typing import Any

import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.data.sources import Source
from sg_jax.evaluation import pictures
from sg_jax.modes.base import Job, Mode, register
from sg_jax.parallel import processes
from sg_jax.programs.sampling import sample
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, Spent, log
from sg_jax.weights import checkpoints


def draw(experiment: Experiment, source: Source, workdir: str) -> epath.Path:
    """Draw `config.sample.count` images with `config.sample.guidance`.

    Labels repeat `config.sample.labels`, or go through the classes in turn. Writes samples/NAME.npz
    ("images" uint8 [B, H, W, C], "labels" [B]) and samples/NAME.png; for latents only the former,
    with the network's "latents" in float32.

    Returns:
      The path of the picture, or of the latents.
    """
    config, settings = experiment.config.sample, experiment.settings
    guidance = settings[config.guidance]
    conditioning = experiment.model.conditioning
    cycle = config.labels or conditioning.in_turn(conditioning.num_classes)
    labels = np.resize(cycle, config.count)
    how: dict[str, Any] = dict(mesh=experiment.mesh, like=experiment.model)
    spent = Spent()
    with spent.on("loading weights"):
        model = checkpoints.load(workdir, **how)
        weak_model = checkpoints.load_weak(guidance, workdir, **how)
    log(f"Draw {config.count} images: {config.guidance} ({guidance.describe()}).")
    progress = Progress(0, config.count, 1, unit="image")
    images = sample(
        model,
        labels,
        guidance,
        **experiment.sampling,
        weak_model=weak_model,
        progress=progress.update,
        pixels=not source.latents,
    )
    path = files.path(workdir) / "samples" / f"{config.guidance}.npz"
    if processes.is_writer():
        with spent.on("writing"):
            buffer = io.BytesIO()
            drawn: dict[str, Any] = {"latents" if source.latents else "images": images}
            np.savez_compressed(buffer, labels=labels, **drawn)
            files.write_atomically(path, buffer.getvalue())
            if not source.latents:
                columns = min(len(cycle), 10, config.count)
                _write_picture(images, columns, path.with_suffix(".png"))
        log(spent.report("drawing, with its compile"))
    processes.barrier("samples written")
    return path if source.latents else path.with_suffix(".png")


def _write_picture(images: np.ndarray, columns: int, path: epath.Path) -> None:
    """Write whole rows of images to `path`."""
    rows = len(images) // columns
    picture = pictures.grid(images[: rows * columns].reshape(rows, columns, *images.shape[1:]))
    pictures.save_png(picture, path)


def run(job: Job) -> list[epath.Path]:
    """Draw the images of a job."""
    assert job.source is not None
    return [draw(job.experiment, job.source, job.workdir)]


MODE = register(Mode("sample", "draw images into a picture and an .npz file", run, same="sampled"))
