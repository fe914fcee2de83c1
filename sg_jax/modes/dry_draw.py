"""What a dry run prints about drawing images and scoring them."""

import dataclasses
from collections.abc import Mapping, Sequence

from sg_jax.config.sections import Config
from sg_jax.costs import autoencoders, budgets, encoders
from sg_jax.costs.machines import Machine
from sg_jax.data import origin as origins
from sg_jax.data import prompt_file
from sg_jax.data.expected import Expected
from sg_jax.encoders.classifier import Classifier
from sg_jax.errors import UserError
from sg_jax.evaluation import networks, real_images, scoring
from sg_jax.evaluation.metrics import CLASSIFIER
from sg_jax.method import checks
from sg_jax.method.guidance import Guidance
from sg_jax.models.layers import abstract
from sg_jax.modes import prompted
from sg_jax.modes.base import Job
from sg_jax.modes.dry_parts import (
    Decoder,
    Lines,
    data_of,
    examples_of,
    gflops,
    lasting,
    number,
    per_image,
)
from sg_jax.programs.memory import bytes_of, text
from sg_jax.weights import weak_networks


def costs_of(job: Job, settings: Mapping[str, Guidance]) -> dict[str, float]:
    """Return the FLOPs of an image under each setting, without decoding.

    Raises:
      UserError: the network cannot make the predictions of a setting.
    """
    experiment = job.experiment
    model, steps = experiment.model, experiment.config.sample.steps
    found = {}
    for name, guidance in settings.items():
        weak = weak_networks.likely_shapes(guidance, model)
        checks.check_setting(model, guidance, weak, name)
        sampler = experiment.sampler
        found[name] = budgets.image(model, guidance, sampler, steps, weak)
    return found


def sample(job: Job, on: Machine) -> Lines:
    """Yield what `--mode sample` reads, computes and writes."""
    config, decoder = job.experiment.config, Decoder(job)
    name, count = config.sample.guidance, config.sample.count
    prompted.check(job)
    if file := job.options.get("prompts"):
        count = len(prompt_file.read(file).texts)
    guidance = job.experiment.settings[name]
    (work,) = costs_of(job, {name: guidance}).values()
    weights = bytes_of(model := job.experiment.model)
    if guidance.two_networks:
        weights += bytes_of(weak_networks.likely_shapes(guidance, model))
    yield "read", f"{text(weights)} of weights"
    yield (
        "compute",
        f"{gflops(work)} per image: {config.sample.steps} steps, {name} ({guidance.describe()})",
    )
    yield from decoder.lines(on)
    seconds = count * work / on.rate(config.model.dtype) + decoder.seconds(count, on)
    yield lasting(seconds, on, f"{number(count / seconds)} images/s")
    size = text(count * decoder.bytes)
    height, width, channels = decoder.shape
    if decoder.latents and not decoder.found:
        yield "write", f"{count:,} latents of {height}x{width}x{channels}: .npz of {size}"
    else:
        yield (
            "write",
            f"{count:,} images of {height}x{width}x{channels}: PNG files of at most {size}, and "
            ".npz of at most as much",
        )


def scores(
    job: Job,
    on: Machine,
    settings: Mapping[str, Guidance],
    samples: int,
    seeds: int,
    kept: int = 0,
    judged_by: Sequence[str] = (),
) -> Lines:
    """Yield what scoring some settings reads, computes and writes.

    Args:
      job: with its experiment.
      on: the chips.
      settings: by name.
      samples: images of each setting, for each seed.
      seeds: the number of seeds.
      kept: images of each setting that are kept for pictures.
      judged_by: the kinds of networks; empty: those of `config.evaluate`.
    """
    config = job.experiment.config
    costs, count = costs_of(job, settings), samples * seeds
    yield (
        "compute",
        f"{per_image(costs.values())} per image: {config.sample.steps} steps, "
        f"{len(costs)} settings ({', '.join(list(costs)[:4])}{', ...' if len(costs) > 4 else ''})",
    )
    yield from judged(job, on, sum(costs.values()) * count, count * len(costs), judged_by)
    if kept:
        size = kept * len(costs) * Decoder(job).bytes
        yield "write", f"scores.csv, guidance.png, report.html; {text(size)} in samples/scored"
    else:
        yield "write", f"{len(costs) * seeds:,} rows of scores.csv, and pictures of them"


def judged(job: Job, on: Machine, work: float, images: int, judged_by: Sequence[str] = ()) -> Lines:
    """Yield what judging drawn images reads and computes, and how long drawing and judging take.

    Args:
      job: with its experiment.
      on: the chips.
      work: FLOPs of drawing all images, without decoding.
      images: their number.
      judged_by: the kinds of networks; empty: those of `config.evaluate`.
    """
    config, decoder = job.experiment.config, Decoder(job)
    real = _real(job, decoder)
    if reference := config.evaluate.reference:
        yield "read", f"the reference {reference} instead of real images"
        real = dataclasses.replace(real, examples=0)
    else:
        yield "read", f"real images: {examples_of(real)}"
    yield from decoder.lines(on)
    kinds = judged_by or scoring.kinds_of(config)[0]
    classes = real.source.num_classes if real.source else config.model.num_classes
    works = {kind: _judging(kind, config, decoder.shape, classes) for kind in kinds}
    judging, epochs = sum(works.values()), config.features.epochs
    trained = works.get(CLASSIFIER, 0.0)
    more = f"{epochs} x {gflops(3 * trained)} per real image"
    more = f". If the classifier is not trained yet: {more}" if trained else ""
    yield (
        "compute",
        f"{gflops(judging)} per image, drawn or real: judging by {', '.join(kinds)}{more}",
    )
    for kind in kinds:
        if kind != CLASSIFIER:
            yield "read", f"weights of {kind}: {_weights(kind, config)}"
    drawn = work / on.rate(config.model.dtype) + decoder.seconds(images, on)
    compared = min(config.evaluate.references or real.examples, real.examples)
    judged = judging * (images + compared) + 3 * epochs * real.examples * trained
    # One device trains and applies the classifier; published networks use all.
    seconds = drawn + judged / (on.device if trained else on).rate("float32")
    share = "" if real.examples or reference else ", without the real images"
    yield lasting(seconds, on, f"{images:,} images drawn and judged{share}")


def _judging(kind: str, config: Config, shape: tuple[int, int, int], classes: int) -> float:
    """Return the FLOPs that a network takes to judge an image."""
    if kind != CLASSIFIER:
        return encoders.features(networks.shapes_of(kind), *shape[:2])
    classes = max(1, classes)  # a network of texts does not know them
    judge = abstract(lambda rngs: Classifier(shape, classes, config.features, rngs=rngs))
    return 2.0 * autoencoders.traced(judge, (1, *shape))


def _weights(kind: str, config: Config) -> str:
    try:
        return str(networks.where(kind, config))
    except UserError as missing:
        return str(missing)


def _real(job: Job, decoder: Decoder) -> Expected:
    """Return the real images that drawn ones are compared with."""
    config: Config = job.experiment.config
    found = data_of(job)
    if not decoder.latents:
        return found
    if keys := real_images.keys_of(config, origins.of(found.source), decoder.shape[0]):
        return data_of(job, **keys)
    return Expected("the images that the latents were made from", config.data.split)
