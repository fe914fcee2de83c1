"""Draw images from a trained network into PNG files, a picture of them and an .npz file.

Latents that nothing decodes go only into the .npz file. `sg_jax.sample_batches` does the drawing.
A network of texts draws the prompts of a file (`data.prompt_file`), one image for each, or else
captions of its own data.
"""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from etils import epath

from sg_jax.config import record
from sg_jax.config.experiment import Experiment
from sg_jax.data.asked import Asked
from sg_jax.data.directions import Direction
from sg_jax.data.origin import Maker
from sg_jax.data.sources import Source
from sg_jax.evaluation import captioned, drawings, measure, pictures, table
from sg_jax.modes import dry_draw, prompted
from sg_jax.modes.base import Job, Mode, Option, register, weak_paths
from sg_jax.parallel import processes
from sg_jax.programs.sampling import sample_batches
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, Spent, counted, log
from sg_jax.weights import checkpoints, decoders, weak_networks

CAPTIONED = 64  # the most images in a picture with captions


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a run's record says about its data, which need not be there.

    Attributes:
      name: of the data set.
      image_shape: H, W and C.
      latents: whether its images are latents.
      maker: the autoencoder that made them, if it is on record. Its name says it to the user; it is
        not looked up.
    """

    name: str
    image_shape: tuple[int, int, int]
    latents: bool
    maker: Maker | None = None


def draw(
    experiment: Experiment,
    workdir: str,
    prompts: Asked | None = None,
    control: Sequence[tuple[str, Direction, float]] = (),
) -> epath.Path:
    """Draw `config.sample.count` images with `config.sample.guidance`.

    Labels repeat `config.sample.labels`, or go through the classes in turn. Writes samples/NAME.npz
    ("images" uint8 [B, H, W, C], "labels" [B], and "about": how they were drawn), samples/NAME.png
    and the folder samples/NAME. If nothing decodes the latents, it writes only the first, with the
    network's "latents" in float32. NAME comes from `name_of`, so that other images are not
    replaced. No more than a batch of images is in memory. Images that an interrupted call wrote are
    not drawn again.

    Args:
      experiment: the run's objects.
      workdir: folder of the run.
      prompts: what a network of texts draws instead of labels; written along with the images.
      control: directions on subjects of the prompts; see `programs.sampling.sample`.

    Returns:
      The path of the picture, or of the latents.
    """
    config = experiment.config.sample
    wanted: np.ndarray | Asked = prompts if prompts is not None else _labels(experiment)
    count = len(wanted)
    told = wanted.words if isinstance(wanted, Asked) else wanted
    how: dict[str, Any] = dict(mesh=experiment.mesh, like=experiment.model)
    spent = Spent()
    with spent.on("loading weights"):
        model, step = checkpoints.load_with_step(workdir, drawn_step(experiment, workdir), **how)
        setting = experiment.settings[config.guidance]
        guidance = measure.resolved(experiment, setting, workdir, step)
        weak_model = weak_networks.load(guidance, workdir, **how, step=step)
    key = table.Key(
        guidance=guidance,
        sampler=table.words(experiment.sampler),
        steps=config.steps,
        samples=count,
        seed=experiment.config.seed,
        checkpoint=step,
    )
    about = f"{config.guidance}: {guidance.describe()}, {key.sampler}, {key.steps} steps"
    about += f", seed {key.seed}, checkpoint {step}"
    for subject, direction, scale in control:
        about += f", {direction.attribute} of {subject} {scale:+g}"
    latents = not experiment.pixels
    decoder = ""
    if autoencoder := experiment.autoencoder:
        decoder = autoencoder.fingerprint()
        about += f", decoded by {autoencoder.name} ({decoder})"
    name = name_of(config.guidance, key, wanted, decoder, control) + ("_latents" if latents else "")
    folder = files.path(workdir) / "samples"
    written = folder / f"{name}{'.npz' if latents else '.png'}"
    if processes.is_writer() and not latents:
        files.check_writable(folder / name)
    there = 0 if latents else drawings.already(folder, name, count)
    there = int(processes.from_writer([there])[0])  # other hosts may not see the folder
    log(f"Draw {counted(count, 'image')}: {config.guidance} ({guidance.describe()}).")
    if there:
        log(f"Continue after {there} of them, which are in {folder / name}.")
    # The last images are drawn in a full batch too, since fewer would need another program.
    start = max(0, min(there, count - config.batch_size))
    progress = Progress(there, count, 1, unit="image")
    batches: Iterator[np.ndarray] = iter(())
    if there < count:
        batches = sample_batches(
            model,
            wanted[start:],
            guidance,
            **experiment.sampling,
            first=start,
            weak_model=weak_model,
            progress=lambda done: progress.update(start + done),
            control=control,
        )
    if processes.is_writer():
        shape = experiment.image_shape
        kept = drawings.read(folder, name, there, shape)
        first: list[np.ndarray] = []
        with drawings.writing(folder, name, told, about, shape, latents, there) as add:
            for images in itertools.chain(kept, _without(there - start, batches)):
                with spent.on("writing"):
                    add(images)
                if sum(map(len, first)) < drawings.SHOWN:
                    first.append(images)
        if not latents:
            with spent.on("writing"):
                _save_grid(experiment, np.concatenate(first), told, written)
        log(spent.report("drawing, with its compile"))
    else:
        for _ in batches:
            pass
    processes.barrier("samples written")
    return written


def _without(first: int, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield batches of images, without the `first` images of the first batch."""
    for images in batches:
        yield images[first:]
        first = 0


def drawn_step(experiment: Experiment, workdir: str) -> int | None:
    """Return the step of `config.sample.checkpoint`, or None for the latest that can be read."""
    asked = experiment.config.sample.checkpoint
    return checkpoints.chosen_step(asked, workdir, "config.sample.checkpoint") if asked else None


def _labels(experiment: Experiment) -> np.ndarray:
    """Return the classes to draw, of `config.sample.labels` or of all in turn."""
    config, conditioning = experiment.config.sample, experiment.model.conditioning
    cycle = config.labels or conditioning.in_turn(conditioning.num_classes)
    return np.resize(cycle, config.count)


def _save_grid(experiment: Experiment, images: np.ndarray, told: Any, path: epath.Path) -> None:
    """Write the first images side by side: a column for each class, or with captions below."""
    name = experiment.config.data.name
    if isinstance(told, np.ndarray):
        config, classes = experiment.config.sample, experiment.model.conditioning.num_classes
        columns = min(len(config.labels) or classes, 10, len(told))
        drawings.save_grid(images, columns, path, name)
        return
    shown = images[:CAPTIONED]
    columns = min(len(shown), math.ceil(math.sqrt(CAPTIONED)))
    picture = captioned.grid(shown, told[: len(shown)], columns)
    pictures.save_png(pictures.credited(picture, name), path)


def name_of(
    setting: str,
    key: table.Key,
    labels: np.ndarray | Asked,
    decoder: str = "",
    control: Sequence[tuple[str, Direction, float]] = (),
) -> str:
    """Return the name of a drawing's files, such as "sg_w3_20steps_seed0_1f2e3d4c".

    It gives the setting, ω, steps and seed. The last part stands for whatever else images depend
    on: rates, sampler, checkpoint, labels, the fingerprint of what decodes latents, and control.
    """
    scale = key.guidance.scale
    omega = scale[0] if isinstance(scale, tuple) else f"{scale:g}"
    listed = labels.digest() if isinstance(labels, Asked) else labels.tolist()
    told = (setting, key, listed, *([decoder] if decoder else []))
    told += tuple((subject, way.values.tolist(), scale) for subject, way, scale in control)
    digest = zlib.crc32(repr(told).encode())
    short = setting.encode()[:100].decode(errors="ignore")  # file systems allow about 255 bytes
    return f"{short}_w{omega}_{key.steps}steps_seed{key.seed}_{digest:08x}"


def recorded(job: Job) -> Job:
    """Return a job, with a source from the run's record if it has none."""
    if job.source is not None:
        return job
    model, config = job.experiment.model, job.experiment.config
    shape = (model.image_size, model.image_size, model.channels)
    latents = bool(record.data_of(job.workdir).get("latents"))
    source = Recorded(config.data.name, shape, latents, record.maker_of(job.workdir))
    return dataclasses.replace(job, source=cast(Source, source))


def run(job: Job) -> list[epath.Path]:
    """Draw the images of a job."""
    prompted.check(job)
    control = prompted.control(job.options.get("control", ()))
    job = recorded(job)
    try:
        experiment = job.drawing
    except decoders.Missing as missing:
        log(f"Latents are written, not images. {missing}")
        experiment = dataclasses.replace(job.experiment, pixels=False)
    prompts = None
    if experiment.wording is not None:
        prompts = prompted.asked(job, experiment)
    return [draw(experiment, job.workdir, prompts, control)]


MODE = register(
    Mode(
        "sample",
        "draw images into PNG files, a picture and an .npz file",
        run,
        same="sampled",
        recorded=True,
        dry=dry_draw.sample,
        writes=("samples",),
        paths=lambda config, _: [
            "autoencoder.path",
            *weak_paths([config.sample.guidance]),
        ],
        options=(
            Option("prompts", "for a network of texts: a file, one per line, or .npz of features"),
            Option(
                "control",
                f"attributes of words in the prompts: {prompted.FORM}",
                default=(),
                many=True,
            ),
        ),
    )
)
