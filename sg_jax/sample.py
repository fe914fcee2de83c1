"""Draw images from a trained network into a picture and an .npz file.

The drawing itself is `generate.sample`; the package exposes it as `sg_jax.sample`.
"""

import io

import numpy as np
from etils import epath

from sg_jax import checkpoint, distributed, files
from sg_jax.evaluation import pictures
from sg_jax.experiment import Experiment
from sg_jax.generate import sample
from sg_jax.writers import Progress, log


def run(experiment: Experiment, workdir: str) -> epath.Path:
    """Draw `config.sample.count` images with `config.sample.guidance`; return the picture's path.

    Labels are `config.sample.labels` over and over, or every class in turn. Writes
    samples/NAME.png and samples/NAME.npz ("images" uint8 [B, H, W, C], "labels" [B]).
    """
    config, settings = experiment.config.sample, experiment.settings
    guidance = settings[config.guidance]
    cycle = config.labels or range(experiment.model.num_classes)
    labels = np.resize(cycle, config.count)
    how = dict(mesh=experiment.mesh, like=experiment.model)
    model = checkpoint.load(workdir, **how)
    weak_model = checkpoint.load_weak(guidance, workdir, **how)
    log(f"Draw {config.count} images: {config.guidance} ({guidance.describe()}).")
    progress = Progress(0, config.count, 1, unit="image")
    images = sample(
        model,
        labels,
        guidance,
        **experiment.sampling,
        weak_model=weak_model,
        progress=progress.update,
    )
    path = files.path(workdir) / "samples" / f"{config.guidance}.png"
    if distributed.is_writer():
        _write(images, labels, min(len(cycle), 10, config.count), path)
    distributed.barrier("samples written")
    return path


def _write(images: np.ndarray, labels: np.ndarray, columns: int, path: epath.Path) -> None:
    """Write whole rows of a picture to `path`, and all images with their labels beside it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, labels=labels)
    files.write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    rows = len(images) // columns
    picture = pictures.grid(images[: rows * columns].reshape(rows, columns, *images.shape[1:]))
    pictures.save_png(picture, path)
