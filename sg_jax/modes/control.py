"""Find the direction of an attribute between contrastive prompts, and draw with it.

workdir/control/NAME_METHOD.npz   the direction, for `--mode sample --control` and `sg_jax.sample`
workdir/control/NAME_METHOD.png   a row for each of config.control.prompts, a column for each scale
workdir/control/NAME.md           with --measure: how steadily the attribute changes on the shapes
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from sg_jax.config.controlling import Control
from sg_jax.config.experiment import Experiment
from sg_jax.costs.machines import Machine
from sg_jax.data.contrasts import Contrast
from sg_jax.data.directions import Direction
from sg_jax.data.subjects import Marked
from sg_jax.encoders.text import BYTES
from sg_jax.errors import UserError
from sg_jax.evaluation import captioned, controlled, measure, pictures
from sg_jax.method.guidance import Guidance
from sg_jax.modes.base import Job, Mode, Option, encoder_paths, register, weak_paths
from sg_jax.modes.dry_draw import costs_of
from sg_jax.modes.dry_parts import Lines, gflops, lasting
from sg_jax.modes.sample import drawn_step, recorded
from sg_jax.parallel import processes
from sg_jax.programs import directions
from sg_jax.programs.control import check_weak, places_of
from sg_jax.programs.sampling import sample
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints, text_encoders, weak_networks

DATA = "shapes"  # the data set whose images can be measured
EVERY = 20  # learning steps from one line of the log to the next


def run(job: Job) -> list[epath.Path]:
    """Find the directions of a job; return the paths that were written."""
    found, to_draw = asked(job)
    return Controller(recorded(job).drawing, job.workdir, found, to_draw).run(
        job.options["measure"]
    )


def asked(job: Job) -> tuple[list[Contrast], list[Marked]]:
    """Return the contrastive prompts, and the prompts to draw.

    Raises:
      UserError: there are none, or this network or data set cannot do it.
    """
    config = job.experiment.config
    if job.experiment.wording is None:
        raise UserError(
            f"--mode control steers words of prompts, but config.model.kind={config.model.kind!r} "
            "reads class labels: use a network of texts."
        )
    known = config.control.attribute in controlled.ATTRIBUTES and config.data.name == DATA
    if job.options["measure"] and not known:
        raise UserError(
            f"--measure can only measure {' and '.join(controlled.ATTRIBUTES)}, of the data set "
            f"'shapes', but config.data.name={config.data.name!r} and config.control.attribute="
            f"{config.control.attribute!r}."
        )
    found = config.control.contrasts
    return found, config.control.drawn(found)


class Controller:
    """Finds, draws and measures.

    Args:
      experiment: the run's objects.
      workdir: folder of the run.
      found: the contrastive prompts.
      to_draw: the prompts of the picture.
    """

    def __init__(
        self, experiment: Experiment, workdir: str, found: list[Contrast], to_draw: list[Marked]
    ):
        self.experiment, self.workdir = experiment, workdir
        self.found, self.to_draw = found, to_draw
        self.config: Control = experiment.config.control
        self.scales = sorted(self.config.scales)
        self.folder = files.path(workdir) / "control"
        self.encoder = None
        if experiment.config.text.encoder != BYTES:
            self.encoder = text_encoders.of_run(experiment.config, workdir)
        places_of(experiment.model.conditioning, to_draw, self.encoder)  # now, not after learning
        how: dict[str, Any] = dict(mesh=experiment.mesh, like=experiment.model)
        asked = drawn_step(experiment, workdir)
        self.model, step = checkpoints.load_with_step(workdir, asked, **how)
        self.guided: dict[str, tuple[Guidance, Any]] = {}
        for name in dict.fromkeys([experiment.config.sample.guidance, *self.config.guidance]):
            guidance = measure.resolved(experiment, experiment.settings[name], workdir, step)
            weak = weak_networks.load(guidance, workdir, **how, step=step)
            if weak is not None:
                check_weak(self.model.conditioning, weak.conditioning)
            self.guided[name] = guidance, weak

    def run(self, measured: bool) -> list[epath.Path]:
        """Find, draw and perhaps measure each method; return the paths."""
        paths, made = [], {}
        for method in self.config.methods:
            log(f"Find the direction of {self.config.attribute}: {method}.")
            made[method] = direction = self._find(method)
            name = f"{self.config.attribute}_{method}"
            if processes.is_writer():
                paths.append(direction.save(self.folder / f"{name}.npz"))
            picture = self._picture(direction)
            if processes.is_writer():
                paths.append(pictures.save_png(picture, self.folder / f"{name}.png"))
        if measured:
            text = self._measure(made)
            if processes.is_writer():
                log(text)
                path = self.folder / f"{self.config.attribute}.md"
                paths.append(files.write_atomically(path, text.encode()))
        processes.barrier("control written")
        return paths

    def _find(self, method: str) -> Direction:
        name = self.experiment.config.sample.guidance
        guidance, weak = self.guided[name]

        def told(step: int, loss: float) -> None:
            if step % EVERY == 0 or step == self.config.steps:
                log(f"step {step}/{self.config.steps}  loss {loss:.4g}")

        learning = {f.name: getattr(self.config, f.name) for f in _fields()}
        return directions.find_direction(
            self.model,
            self.found,
            method,
            self.config.attribute,
            self.experiment.config.seed,
            self.encoder,
            "unguided" if weak is not None else guidance,
            self.experiment.mesh,
            told,
            **learning,
        )

    def draw(
        self,
        name: str,
        prompts: Sequence[str],
        subjects: Sequence[Any],
        direction: Any,
        scale: float,
    ) -> np.ndarray:
        """Return images [P, H, W, C] of prompts, each with its subject moved by a scale."""
        guidance, weak = self.guided[name]
        control = [(list(subjects), direction, scale)]
        how = dict(self.experiment.sampling, weak_model=weak, text_encoder=self.encoder)
        return sample(self.model, list(prompts), guidance, control=control, **how)

    def _picture(self, direction: Direction) -> Any:
        name = self.experiment.config.sample.guidance
        texts = [m.text for m in self.to_draw]
        columns = [self.draw(name, texts, self.to_draw, direction, s) for s in self.scales]
        labels = [
            f"{captioned.short(m.text, 40)}\n{captioned.short(m.subject)}" for m in self.to_draw
        ]
        return pictures.grid(np.stack(columns, 1), labels, [f"{s:+g}" for s in self.scales])

    def _measure(self, made: dict[str, Direction]) -> str:
        """Return a table of all methods under all settings of `config.control.guidance`."""
        pairs = controlled.pairs(self.config.measured)
        texts, subjects = [p.text for p in pairs], [p.subject[0] for p in pairs]
        rows = []
        for name in self.config.guidance:
            kept: dict[float, np.ndarray] = {}  # without a shift, all directions are the same
            for method, direction in made.items():
                images = [
                    kept[s] if s in kept else self.draw(name, texts, subjects, direction, s)
                    for s in self.scales
                ]
                kept |= {s: image for s, image in zip(self.scales, images, strict=True) if s == 0}
                found = controlled.measure(np.stack(images), pairs, self.config.attribute)
                rows.append((method, name, self.guided[name][0].describe(), found))
                log(f"{method}, {name}: rho {found.rho[0]:.3f}, of the other {found.rho[1]:.3f}")
        return controlled.markdown(rows, self.config.attribute, self.scales)


def _fields() -> tuple:
    return dataclasses.fields(directions.Learning)


def _dry(job: Job, on: Machine) -> Lines:
    config = job.experiment.config
    control = config.control
    found, to_draw = asked(job)
    named = {name: job.experiment.settings[name] for name in control.guidance}
    own = {"own": job.experiment.settings[config.sample.guidance]}
    cost = costs_of(job, own)["own"]
    step = costs_of(job, {"one": Guidance()})["one"] / config.sample.steps
    learned = "learned" in control.methods
    drawn = len(control.methods) * len(control.scales) * len(to_draw)
    work = drawn * cost
    yield "read", f"{len(found)} triples of contrastive prompts, {', '.join(control.methods)}"
    if learned:
        # Three predictions make the target; two have gradients, which cost twice as much again.
        work += control.images * control.draw_steps * step
        work += control.steps * control.batch_size * 9 * step
    images = drawn
    if job.options["measure"]:
        each = len(control.methods) * len(control.scales) * control.measured
        work += each * sum(costs_of(job, named).values())
        images += each * len(named)
    yield "compute", f"{gflops(work)}: directions, and {images:,} images"
    yield lasting(work / on.rate(config.model.dtype), on, f"{images:,} images drawn")
    yield "write", f"control/{control.attribute}_*.npz and .png"


MODE = register(
    Mode(
        "control",
        "find the direction of an attribute in text space, and draw with it at several scales",
        run,
        same="sampled",
        recorded=True,
        pixels=True,
        dry=_dry,
        writes=("control",),
        paths=lambda config, _: [
            "autoencoder.path",
            "control.pairs",
            *encoder_paths(config),
            *weak_paths([config.sample.guidance, *config.control.guidance]),
        ],
        options=(
            Option(
                "measure",
                "on the shapes: measure how steadily the attribute changes",
                default=False,
                flag=True,
            ),
        ),
    )
)
