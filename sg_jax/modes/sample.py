"""Draw images from a trained network into a picture and an .npz file; latents only into the latter.

The drawing itself is `programs.sampling.sample`, which the package exposes as `sg_jax.sample`.
"""

import io
import zlib
from typing import Any

import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.data.sources import Source
from sg_jax.evaluation import measure, pictures, table
from sg_jax.modes.base import Job, Mode, register, weak_paths
from sg_jax.parallel import processes
from sg_jax.programs.sampling import sample
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, Spent, log
from sg_jax.weights import checkpoints


def draw(experiment: Experiment, source: Source, workdir: str) -> epath.Path:
    """Draw `config.sample.count` images with `config.sample.guidance`.

    Labels repeat `config.sample.labels`, or go through the classes in turn. Writes samples/NAME.npz
    ("images" uint8 [B, H, W, C], "labels" [B], and "about": how they were drawn) and
    samples/NAME.png; for latents only the former, with the network's "latents" in float32. NAME is
    that of `name_of`, so that other images are not replaced.

    Returns:
      The path of the picture, or of the latents.
    """
    config = experiment.config.sample
    conditioning = experiment.model.conditioning
    cycle = config.labels or conditioning.in_turn(conditioning.num_classes)
    labels = np.resize(cycle, config.count)
    how: dict[str, Any] = dict(mesh=experiment.mesh, like=experiment.model)
    spent = Spent()
    with spent.on("loading weights"):
        model, step = checkpoints.load_with_step(workdir, **how)
        setting = experiment.settings[config.guidance]
        guidance = measure.resolved(experiment, setting, workdir, step)
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
    key = table.Key(
        guidance=guidance,
        sampler=table.words(experiment.sampler),
        steps=config.steps,
        samples=config.count,
        seed=experiment.config.seed,
        checkpoint=step,
    )
    path = files.path(workdir) / "samples" / f"{name_of(config.guidance, key, labels)}.npz"
    if processes.is_writer():
        with spent.on("writing"):
            buffer = io.BytesIO()
            drawn: dict[str, Any] = {"latents" if source.latents else "images": images}
            about = f"{config.guidance}: {guidance.describe()}, {key.sampler}, {key.steps} steps"
            about += f", seed {key.seed}, checkpoint {step}"
            np.savez_compressed(buffer, labels=labels, about=np.array(about), **drawn)
            files.write_atomically(path, buffer.getvalue())
            if not source.latents:
                columns = min(len(cycle), 10, config.count)
                _write_picture(images, columns, path.with_suffix(".png"))
        log(spent.report("drawing, with its compile"))
    processes.barrier("samples written")
    return path if source.latents else path.with_suffix(".png")


def name_of(setting: str, key: table.Key, labels: np.ndarray) -> str:
    """Return the name of a drawing's files, such as "sg_w3_20steps_seed0_1f2e3d4c".

    It says the setting, ω, steps and seed; the last part stands for all else that images depend
    on: rates, sampler, checkpoint, labels.
    """
    scale = key.guidance.scale
    omega = scale[0] if isinstance(scale, tuple) else f"{scale:g}"
    digest = zlib.crc32(repr((setting, key, labels.tolist())).encode())
    short = setting.encode()[:100].decode(errors="ignore")  # file systems allow some 255 bytes
    return f"{short}_w{omega}_{key.steps}steps_seed{key.seed}_{digest:08x}"


def _write_picture(images: np.ndarray, columns: int, path: epath.Path) -> None:
    """Write whole rows of images to `path`."""
    rows = len(images) // columns
    picture = pictures.grid(images[: rows * columns].reshape(rows, columns, *images.shape[1:]))
    pictures.save_png(picture, path)


def run(job: Job) -> list[epath.Path]:
    """Draw the images of a job."""
    assert job.source is not None
    return [draw(job.experiment, job.source, job.workdir)]


MODE = register(
    Mode(
        "sample",
        "draw images into a picture and an .npz file",
        run,
        same="sampled",
        writes=("samples",),
        paths=lambda config, _: weak_paths([config.sample.guidance]),
    )
)
