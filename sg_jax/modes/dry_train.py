"""What a dry run prints about training and exporting."""

from sg_jax.config import rules
from sg_jax.config.experiment import Experiment
from sg_jax.costs import flops
from sg_jax.costs.machines import Machine
from sg_jax.modes import dry_draw, watching
from sg_jax.modes.base import Job
from sg_jax.modes.dry_parts import Decoder, Lines, data_of, gflops, lasting, number
from sg_jax.programs.memory import bytes_of, text
from sg_jax.programs.training import abstract_state
from sg_jax.weights import checkpoints, saver

WORDS = {"model": "weights", "ema": "moving average", "opt_state": "optimizer"}
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes


def train(job: Job, on: Machine) -> Lines:
    """Yield what training reads, computes and writes."""
    experiment = job.experiment
    experiment.check_batch()
    watching.check_metric(experiment.config)
    config, model = experiment.config.train, experiment.model
    found, batch = data_of(job), config.batch_size
    begun = begun_by(job)
    if begun:
        yield (
            "read",
            f"the checkpoint of step {begun:,} of {config.steps:,}, from which it continues",
        )
    if begun >= config.steps:
        return
    drawn = (config.steps - begun) * batch
    if found.examples:
        passes = f"{drawn / found.examples:,.4g} passes over {found.examples:,}"
        passes += "" if found.here else ", as published: it is not here"
    else:
        passes = "it is not here, so the number of passes is unknown"
    yield "read", f"{drawn:,} examples, {batch} a step, of {found.name}, {found.split}: {passes}"
    total = count = 0.0
    about = "about " if experiment.objective.rates else ""
    for gamma, steps in stretches(experiment, begun).items():
        work = flops.training_step(model, gamma, batch, full=True, teacher=experiment.taught)
        total, count = total + steps * work, count + steps
        each = f"{gflops(work)} a step, {gflops(work / batch)} per image"
        yield "compute", f"{each}: {about}{steps:,.0f} steps at γ {gamma:g}"
    if experiment.taught is not None:
        words = experiment.taught.describe()
        yield "note", f"with the teacher's predictions ({words}), by the network of this config"
    seconds = total / on.rate(experiment.config.model.dtype)
    yield lasting(seconds, on, f"{number(count / seconds)} steps/s")
    yield from looks(job, on, begun)
    yield "write", kept_checkpoints(experiment)
    if experiment.config.track.name:
        yield "write", f"the same numbers and pictures to {experiment.config.track.name}"


def begun_by(job: Job) -> int:
    """Return the step of the checkpoint that the training of a job continues from; 0 for none."""
    return max(checkpoints.steps_of(job.workdir), default=0) if job.workdir else 0


def looks(job: Job, on: Machine, begun: int = 0) -> Lines:
    """Yield what is computed besides the steps after `begun`, and how long that takes."""
    experiment = job.experiment
    config, model, dtype = experiment.config.train, experiment.model, experiment.config.model.dtype
    if config.heldout_every:
        split = data_of(job, split=experiment.config.data.test_split)
        images = min(config.heldout_images, split.examples or config.heldout_images)
        times = config.steps // config.heldout_every - begun // config.heldout_every
        work = 0.0
        for rate, _ in experiment.heldout_rates:
            both = flops.training_step(model, rate, images, full=True, teacher=experiment.taught)
            work += both - flops.training_step(model, rate, images, full=True) * 2 / 3  # forward
        yield (
            "compute",
            f"{gflops(work)} each time: the loss of {images:,} held-out images, {times:,} times",
        )
        yield lasting(times * work / on.rate(dtype), on, "held-out loss")
    if config.evaluate_every:
        name, samples = config.evaluate_guidance, config.evaluate_samples
        every = config.evaluate_every
        decoder, times = Decoder(job), config.steps // every - begun // every
        (work,) = dry_draw.costs_of(job, {name: experiment.settings[name]}).values()
        yield (
            "compute",
            f"{gflops(work)} per image: {samples:,} images are drawn ({name}) and judged, "
            f"{times:,} times",
        )
        yield from decoder.lines(on)
        seconds = samples * work / on.rate(dtype) + decoder.seconds(samples, on)
        yield lasting(times * seconds, on, "these evaluations, without judging")


def stretches(experiment: Experiment, begun: int = 0) -> dict[float, float]:
    """Return the steps after `begun` at each sparsity rate: the mean number if it is drawn."""
    config = experiment.config.train
    begins = [0, *(int(first) for first, _ in config.gammas)]
    found: dict[float, float] = {}
    for first, end in zip(begins, [*begins[1:], config.steps], strict=True):
        first, end = max(first, begun), min(end, config.steps)
        for gamma, share in experiment.rates_at(first + 1) if first < end else ():
            found[gamma] = found.get(gamma, 0) + share * (end - first)
    return found


def kept_checkpoints(experiment: Experiment) -> str:
    """Return in words the sizes of the checkpoints that training writes."""
    config = experiment.config
    state = abstract_state(
        experiment.make_model, experiment.tx, experiment.mesh, config.train.ema_decays
    )
    sizes = {name: bytes_of(tree) for name, tree in saver.parts_of(state).items()}
    listed = ", ".join(f"{WORDS.get(name, name)} {text(n)}" for name, n in sizes.items())
    latest, last, *multiples = rules.kept(config)
    forever = multiples[0] if multiples else range(0)
    others = {step for steps in (latest, last) for step in steps if step not in forever}
    kept, size = len(forever) + len(others), sum(sizes.values())
    kept += bool(config.checkpoint.keep_best)  # unless it is one of these
    return (
        f"{kept} checkpoints that are kept, {text(kept * size)}, and one more while it is saved: "
        f"{text(size)} each ({listed}), {text(size - sizes['opt_state'])} without the optimizer, "
        "before compression"
    )


def export(job: Job, on: Machine) -> Lines:
    """Yield what exporting reads and writes."""
    given, model = job.options, job.experiment.model
    size = bytes_of(model)
    width = WIDTHS.get(given["dtype"], 4)
    yield "read", f"{given['weights']} of a checkpoint, {text(size)} in float32"
    yield "write", f"{text(size * width // 4)} in {given['dtype']}, to {given['to']}"
    if given["push"]:
        yield "write", f"the same to {given['push']} on the hub"
