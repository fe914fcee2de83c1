"""Draw prompts under each guidance setting, and score what the images show.

Each setting tries the same scales with the seeds `config.compose.seeds`. The best scale is drawn
again with other seeds, and only these drawings are reported. compose.csv keeps each drawing's
scores, and samples/composed/ the first images of some prompts.
"""

import contextlib
import dataclasses
import functools
import io
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sg_jax.config.experiment import Experiment
from sg_jax.costs import budgets
from sg_jax.data import asked
from sg_jax.encoders.text import TextEncoder
from sg_jax.evaluation import compose_rows, composed, measure, scored, table
from sg_jax.evaluation.clip_score import Clip
from sg_jax.evaluation.compose_rows import CLIP, REPORT, SEARCH, Row, Scores
from sg_jax.evaluation.prompted import PICTURES, Kept
from sg_jax.evaluation.prompts import Prompt
from sg_jax.evaluation.table import Key
from sg_jax.method.guidance import Guidance
from sg_jax.parallel import processes
from sg_jax.programs.sampling import NotFinite, sample_batches
from sg_jax.runs import arrays, files, sharing
from sg_jax.runs.progress import Ahead, Progress, counted, log
from sg_jax.weights import checkpoints, weak_networks

Job = tuple[str, Key]  # a method and a drawing
DETECTOR = "shapes 2"  # what scores and is shown; with a new version, all is drawn again


def candidates(
    experiment: Experiment, workdir: str | os.PathLike, step: int
) -> dict[str, list[Guidance]]:
    """Return the settings to try for each named one: the setting itself, or with each scale.

    Raises:
      UserError: the network cannot draw one of them.
    """
    config = experiment.config.compose
    found = {}
    for name in config.guidance:
        own = experiment.settings[name]
        tried = [own]
        if own.weak_acts and config.scales:
            tried = [dataclasses.replace(own, scale=float(scale)) for scale in config.scales]
        resolved = functools.partial(measure.resolved, experiment, workdir=workdir, step=step)
        found[name] = [resolved(guidance, tell=False) for guidance in tried]
    return found


def shown_prompts(prompts: Sequence[Prompt]) -> list[int]:
    """Return the prompts whose images are shown: one of each task, seen and held out.

    The first group shows its first prompt and later groups show later ones, so that they differ.
    """
    groups = list(composed.groups(prompts).values())
    return [ids[len(ids) * n // len(groups)] for n, ids in enumerate(groups)]


class Composer:
    """Draws and scores the prompts of a run.

    Args:
      experiment: the run's objects.
      workdir: folder of the run.
      prompts: what is asked for.
      step: step of the checkpoint.
      scores: whether the shapes detector scores the images.
      clip: measures the CLIP score; None: it is not measured.
      encoder: the frozen text encoder, for a network that reads its features.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: str | os.PathLike,
        prompts: Sequence[Prompt],
        step: int,
        scores: bool,
        clip: Clip | None = None,
        encoder: TextEncoder | None = None,
    ):
        self._experiment, self._workdir, self._step = experiment, workdir, step
        self._prompts, self._scores, self._clip = prompts, scores, clip
        self._settings = experiment.config.compose
        self._texts = [p.text for p in prompts for _ in range(self._settings.samples)]
        self._asked = asked.of_texts(self._texts, encoder)
        self._counts = {
            (task, unseen): self._settings.samples * len(ids)
            for (task, unseen), ids in composed.groups(prompts).items()
        } | {(CLIP, False): len(self._texts)}
        self._broken: set[Key] = set()  # drawings whose samples are not finite
        self._how: dict[str, Any] = dict(mesh=experiment.mesh, like=experiment.model)
        self._model = functools.cache(lambda: checkpoints.load(workdir, step, **self._how))

    def run(self, found: Mapping[str, Sequence[Guidance]]) -> list[Row]:
        """Draw all settings, then the best ones again with other seeds; [] except in the writer.

        Raises:
          NotFinite: no setting of the report has finite samples. Otherwise, those without any have
            no scores, and are not chosen.
        """
        settings, broken = self._settings, self._broken
        search = [(name, g) for name, each in found.items() for g in each if len(each) > 1]
        rows = self._draw(SEARCH, search, settings.seeds, len(found)) if search else []
        chosen: list[tuple[str, Guidance]] = []
        for name, each in found.items():
            means = [0.0]
            if len(each) > 1 and processes.is_writer():
                means = [_mean(rows, name, guidance) for guidance in each]
            # The first one, if no mean is finite.
            best = int(processes.from_writer([int(np.argmax(means))])[0])
            chosen.append((name, each[best]))
        report = self._draw(REPORT, chosen, settings.report_seeds, 0)
        if broken.issuperset(self._key(g, s) for _, g in chosen for s in settings.report_seeds):
            raise NotFinite(
                "The samples of all settings contain NaN or infinity: see the log. If they do "
                "without guidance too, the weights are broken."
            )
        if not processes.is_writer():
            return []
        rows = [
            dataclasses.replace(row, chosen=(row.method, row.key.guidance) in chosen)
            for row in [*rows, *report]
        ]
        if measured := [row for row in rows if row.scores]:
            compose_rows.write(self._workdir, measured)
        return rows

    def images(self, row: Row) -> np.ndarray | None:
        """Return the images of `shown_prompts` in a drawing, uint8 [prompts, H, W, C]."""
        try:
            return arrays.from_npy(arrays.read_bytes(self._place(row.key, "npy")))
        except (OSError, ValueError):
            return None

    def _draw(
        self,
        stage: str,
        settings: Sequence[tuple[str, Guidance]],
        seeds: Sequence[int],
        later: int,
    ) -> list[Row]:
        """Draw settings with seeds, unless compose.csv has them; `later` settings will follow.

        Other commands that draw the same share the drawings; see `runs.sharing`.
        """
        jobs = [(name, self._key(guidance, seed)) for name, guidance in settings for seed in seeds]
        known = compose_rows.read(self._workdir) if processes.is_writer() else {}
        missing = [int(self._misses(stage, job, known)) for job in jobs]
        left = [j for j, m in zip(jobs, processes.from_writer(missing), strict=True) if m]
        log(f"{stage.capitalize()}: {counted(len(jobs), 'drawing')}, {len(left):,} left.")
        costs = {key.digest: self._cost(key) for _, key in left}
        more = later * len(self._settings.report_seeds)
        mean = sum(costs.values()) / max(len(costs), 1)
        ahead = Ahead(len(left) + more, sum(costs.values()) + more * mean, "drawing")

        def finished(job: Job) -> bool:
            known.update(compose_rows.read(self._workdir))
            return not self._misses(stage, job, known)

        shared = sharing.share(left, lambda job: self._place(job[1], "lock"), finished)
        with contextlib.closing(shared):
            for (name, key), theirs in shared:
                if not theirs:
                    try:
                        scores = self._score(name, key, keep=stage == REPORT)
                    except NotFinite as error:  # in all processes
                        log(f"Not counted: {error}")
                        self._broken.add(key)
                        scores = {}
                    if processes.is_writer() and scores:
                        row = Row(stage, name, key, scores, self._counts)
                        compose_rows.write(self._workdir, [row])
                    known[key.digest] = scores
                ahead.update(costs[key.digest], **_of_all(known.get(key.digest, {})))
        return [
            Row(stage, name, key, known.get(key.digest, {}), self._counts) for name, key in jobs
        ]

    def _misses(self, stage: str, job: Job, known: Mapping[str, Scores]) -> bool:
        """Return whether a drawing lacks scores, or files that are to be kept."""
        name, key = job
        wanted = {*composed.groups(self._prompts)} if self._scores else set()
        wanted |= {(CLIP, False)} if self._clip else set()
        if not wanted <= known.get(key.digest, {}).keys():
            return True
        return stage == REPORT and self._lacks_files(name, key)

    def _key(self, guidance: Guidance, seed: int) -> Key:
        experiment = self._experiment
        decoder = experiment.autoencoder
        clip = [f"CLIP {self._settings.clip}"] if self._settings.clip else []
        asked = "\n".join([DETECTOR, *clip, *(p.metadata for p in self._prompts)])
        return Key(
            guidance=guidance,
            sampler=table.words(experiment.sampler),
            steps=experiment.config.sample.steps,
            samples=self._settings.samples,
            features=f"{zlib.crc32(asked.encode()):08x}",
            seed=seed,
            checkpoint=self._step,
            decoder=decoder.fingerprint() if decoder else "",
            ema=experiment.config.train.ema_decay,
            versions=scored.versions(),
        )

    def _cost(self, key: Key) -> float:
        experiment = self._experiment
        return budgets.image(experiment.model, key.guidance, experiment.sampler, key.steps)

    def _score(self, name: str, key: Key, keep: bool) -> Scores:
        """Draw all prompts under a setting with a seed, and return the scores."""
        samples, shown = self._settings.samples, shown_prompts(self._prompts)
        drawn = counted(len(self._texts), "image")
        log(f"Draw {drawn}: {name} ({key.guidance.describe()}), seed {key.seed}.")
        batches = sample_batches(
            self._model(),
            self._asked,
            key.guidance,
            weak_model=weak_networks.load(
                key.guidance, self._workdir, **self._how, step=self._step
            ),
            **{**self._experiment.sampling, "seed": key.seed, "steps": key.steps},
        )
        kept = self._files(name, key) if keep and processes.is_writer() else None
        progress = Progress(0, len(self._texts), 1, unit="image")
        right: list[np.ndarray] = []
        likeness: list[np.ndarray] = []
        first: dict[int, np.ndarray] = {}
        done = 0
        for images in batches:
            ids = range(done, done + len(images))
            if processes.is_writer():
                prompts = [self._prompts[i // samples] for i in ids]
                if self._scores:
                    right.append(composed.correct(images, prompts))
                if self._clip:
                    likeness.append(self._clip.scores(images, [p.text for p in prompts]))
                if kept is not None:
                    kept.add(images, done)
                first |= {i // samples: images[i - done] for i in ids if i % samples == 0}
            done += len(images)
            progress.sometimes(done)
        if not processes.is_writer():
            return {}
        buffer = io.BytesIO()
        np.save(buffer, np.stack([first[i] for i in shown]))
        files.write_atomically(self._place(key, "npy"), buffer.getvalue())
        if kept is not None:
            log(f"All images are kept: {kept.finish()}.")
        scores: Scores = {}
        if right:
            scores |= composed.shares(np.concatenate(right).reshape(-1, samples), self._prompts)
        if likeness:
            scores[CLIP, False] = float(np.concatenate(likeness).mean())
        return scores

    def _place(self, key: Key, kind: str) -> Any:
        """Return the file of a drawing's shown images, "npy", or its "lock"."""
        return files.path(self._workdir) / "samples" / "composed" / f"{key.digest}.{kind}"

    def _folder(self, name: str, key: Key) -> Any:
        layout = self._settings.keep
        return files.path(self._workdir) / "samples" / f"{layout}_{name}_{key.digest}"

    def _files(self, name: str, key: Key) -> Kept | None:
        keep = self._settings.keep
        if not keep:
            return None
        return Kept(self._folder(name, key), keep, self._prompts, self._settings.samples)

    def _lacks_files(self, name: str, key: Key) -> bool:
        """Return whether files that are to be kept are missing."""
        if not self._settings.keep:
            return False
        pictures = files.named(self._folder(name, key), PICTURES[self._settings.keep])
        return len(pictures) < len(self._texts)


def _of_all(scores: Scores) -> dict[str, float]:
    """Return the mean over the tasks, for the line of progress."""
    value = compose_rows.overall(scores)
    return {"overall": value} if np.isfinite(value) else {}


def _mean(rows: Sequence[Row], name: str, guidance: Guidance) -> float:
    each = [r for r in rows if (r.method, r.key.guidance) == (name, guidance)]
    value = float(np.mean([compose_rows.overall(row.scores) for row in each]))
    return value if np.isfinite(value) else -np.inf
