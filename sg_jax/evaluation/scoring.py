"""Open the judge of an evaluation: train, load or find what it needs."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sg_jax.config.sections import Config
from sg_jax.data import identity
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import UserError
from sg_jax.evaluation import features, networks, real, real_images, references
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.metrics import CLASSIFIER, DRAWING, MAIN, METRICS, Metric, main_of
from sg_jax.evaluation.neighbours import NEIGHBOURS
from sg_jax.evaluation.networks import Network
from sg_jax.evaluation.reading import Reader, spread
from sg_jax.evaluation.real import View
from sg_jax.models.kinds import reads_texts
from sg_jax.parallel import processes
from sg_jax.runs import files, sharing
from sg_jax.runs.progress import log

NAME = "real.npz"  # has the classifier's features of real images


def check_ready(config: Config, source: Source, side: int) -> None:
    """Raise if an evaluation, for example after training, would not find what it needs.

    Args:
      config: all sections.
      source: the training data.
      side: side of the images that will be drawn.

    Raises:
      UserError: a test split that cannot be opened; a `config.features.path` that is another file,
        or cannot be written; weights of a network, or a reference, that are not there.
    """
    kinds, main = kinds_of(config)
    if config.evaluate.reference:
        metrics = measured(config)
        each = {main for metric in metrics if metric.each}
        found = references.read(config.evaluate.reference)
        found.lacks(kinds, each, METRICS["sfid"] in metrics)
    if CLASSIFIER in kinds or not config.evaluate.reference:
        config, source = _real_images(config, source, side)
    for kind in kinds:
        if kind == CLASSIFIER:
            _open_test(config, source)
            _check_features(config)
        else:
            networks.where(kind, config)


def kinds_of(config: Config) -> tuple[list[str], str]:
    """Return the kinds of networks that an evaluation needs, and the main one."""
    names = config.evaluate.metrics
    main = main_of(names, config.evaluate.network)
    needed = {METRICS[name].needs for name in names} - {MAIN}
    needed |= {main} if not names or MAIN in {METRICS[name].needs for name in names} else set()
    return [kind for kind in (CLASSIFIER, *networks.KINDS) if kind in needed], main


def measured(config: Config) -> list[Metric]:
    """Return the metrics of images that an evaluation by this config measures."""
    kinds, main = kinds_of(config)
    wanted = config.evaluate.metrics or METRICS
    return [
        metric
        for name, metric in METRICS.items()
        if name in wanted and (main if metric.needs == MAIN else metric.needs) in kinds
    ]


def _real_images(config: Config, source: Source, side: int) -> tuple[Config, Source]:
    """Return what `real_images.of_images` does, with the classes of latents if they are judged."""
    given, found = real_images.of_images(config, source, side)
    least = 1 + NEIGHBOURS if any(metric.each for metric in measured(config)) else 2
    if not config.evaluate.reference and len(found) < least:
        raise UserError(
            f"Scores need {least} real images or more, and split {found.split!r} of "
            f"{found.name!r} has {len(found)}: use more, or take 'evaluate' out of "
            "config.train.then."
        )
    labels = source.latents and not reads_texts(config.model.kind)
    if labels and METRICS["accuracy"] in measured(config):
        real_images.check_classes(source, found)
    return given, found


def _check_features(config: Config) -> None:
    """Raise if `config.features.path` is another file, or cannot be written."""
    if not config.features.path:
        return
    path = files.path(config.features.path)
    if not path.exists():
        try:
            files.check_writable(files.absolute(path).parent)
        except UserError as error:
            raise UserError(f"config.features.path={config.features.path!r}: {error}") from None
        return
    try:
        features.Scorer.load(path, recipe=_recipe(config))
    except features.Unusable as reason:
        raise UserError(
            f"config.features.path={config.features.path!r}: {reason} It is not replaced: give "
            "another path, delete that file, or give the recipe that it was made with."
        ) from None


def _open_test(config: Config, source: Source) -> Source:
    data = config.data
    return open_source(source.name, data.test_split, key="test_split", **options_of(data))


def _recipe(config: Config) -> Recipe:
    fields = dataclasses.fields(Recipe)
    return Recipe(**{field.name: getattr(config.features, field.name) for field in fields})


def open_judge(
    config: Config,
    source: Source | None,
    workdir: str | os.PathLike,
    side: int = 0,
    together: bool = True,
) -> Judge:
    """Open the networks that `config.evaluate.metrics` needs, and what they find in real images.

    Generated images are compared with `config.evaluate.references` of the training images, evenly
    spread over the data set (0: all), or with those of the file `config.evaluate.reference`. What
    was found in real images is stored in the run, so that they are read only once.

    All processes call this together.

    Args:
      config: the sections `data`, `features` and `evaluate` are used.
      source: the training images, or latents (see `real_images.of_images`); None with a
        reference.
      workdir: folder of the run.
      side: side of the images that are drawn; needed for latents.
      together: whether all processes call this, and then judge together.

    Raises:
      UserError: weights, the reference or the test split are not there, or
        `config.features.path` cannot be used.
    """
    kinds, main = kinds_of(config)
    published = {
        kind: networks.load(kind, config, together) for kind in kinds if kind in networks.KINDS
    }
    path = config.evaluate.reference
    reference = references.read(path) if path else None
    if reference is not None:
        reference.check(published, METRICS["sfid"] in measured(config))
    label = reference.label if reference else ""
    if source is not None and CLASSIFIER not in kinds and not reference:
        label = real_images.unlike_run(config, source, workdir)
    metrics = tuple(config.evaluate.metrics)
    judge = Judge({}, metrics=metrics, main=main, reference=label, from_file=bool(reference))
    if source is not None and (CLASSIFIER in kinds or reference is None):
        config, source = _real_images(config, source, side)
    views: dict[str, View] = {}
    if CLASSIFIER in kinds and processes.is_writer():
        assert source is not None
        view, keep = _classifier(config, source, workdir)
        views[CLASSIFIER], judge = view, dataclasses.replace(judge, keep=keep)
    if reference is not None:
        every: dict[str, Any] = {kind: view.network for kind, view in views.items()} | published
        wanted = [metric for metric in measured(config) if metric.needs != DRAWING]
        # Only the writer has the classifier.
        each = {judge.kind_of(metric) for metric in wanted if metric.each} & every.keys()
        found = reference.found(every, each, METRICS["sfid"] in wanted)
        views = {kind: View(network, found[kind]) for kind, network in every.items()}
    elif published:
        assert source is not None
        views |= _of_data(published, config, source, workdir, together)
    return dataclasses.replace(judge, views=views)


def _of_data(
    published: Mapping[str, Network],
    config: Config,
    source: Source,
    workdir: str | os.PathLike,
    together: bool,
) -> dict[str, View]:
    """Return what published networks find in the run's images, from its files or computed now.

    If several commands need it, one looks at the images and the others wait for it.
    """
    folder = files.path(workdir)
    part, about = folder / "real.part", _about(config, [source])
    paths = {kind: folder / f"real_{kind}.npz" for kind in published}
    kept = {kind: View(network, real.NOTHING) for kind, network in published.items()}

    def look() -> list[str]:
        """Read what is kept, in the writer; return the kinds that are missing, in all processes."""
        for kind in published if processes.is_writer() else ():
            kept[kind] = real.load(paths[kind], about, published[kind]) or kept[kind]
        lacks = [int(kept[kind].real is real.NOTHING) for kind in published]
        told = processes.from_writer(lacks) if together else lacks
        return [kind for kind, lack in zip(published, told, strict=True) if lack]

    writer = processes.is_writer()
    missing = look()
    with contextlib.ExitStack() as stack:
        if missing and (together or writer):
            what = f"looking at the real images of {folder}"
            stack.enter_context(sharing.turn(folder / "real.lock", what, together))
        if left := {kind: published[kind] for kind in (look() if missing else ())}:
            ids = spread(config.evaluate.references or len(source), len(source))
            log(f"real images: {', '.join(left)} looks at {len(ids):,} images of {source.name}")
            tag = json.dumps({**about, **{kind: net.digest for kind, net in left.items()}})
            found = real.all_found_in(left, Reader(source), ids, part if writer else None, tag)
            for kind in found if writer else ():
                kept[kind] = View(left[kind], found[kind])
                real.save(paths[kind], about, kept[kind])
    return kept


def _classifier(
    config: Config, source: Source, workdir: str | os.PathLike
) -> tuple[View, Callable[[View], object]]:
    """Return the view of the classifier, and the function that stores it.

    The network learns from all training images. It is stored in the run's classifier.npz, or in
    `config.features.path`, which runs on the same data can share; what it finds is stored in the
    run's real.npz. As long as both files fit, no image is read. If several commands need them, one
    makes them and the others wait for it. The writer calls this.
    """
    test = _open_test(config, source)
    _check_features(config)
    folder, shared = files.path(workdir), config.features.path
    path = files.path(shared) if shared else folder / "classifier.npz"
    about = _about(config, [source, test])
    recipe = _recipe(config)
    keep = functools.partial(real.save, folder / NAME, about)
    view = _kept(path, folder, about, recipe)
    with contextlib.ExitStack() as stack:
        if view is None:
            what = f"looking at the real images of {folder}"
            stack.enter_context(sharing.turn(folder / "real.lock", what, together=False))
            if shared and not path.exists():  # other runs may make it now
                lock = path.with_name(f"{path.name}.lock")
                stack.enter_context(sharing.turn(lock, f"making {path}", together=False))
            view = _kept(path, folder, about, recipe)
        if view is not None:
            log(f"feature network: read from {path}, features of real images from {NAME}")
            return view, keep
        train_images, test_images = Reader(source), Reader(test, "test_images")
        scorer = features.cached_scorer(
            path,
            train_images,
            test_images,
            name=source.name,
            num_classes=source.num_classes,
            recipe=recipe,
            log=log,
            replace=not shared,  # other runs may use that file
        )
        chosen = spread(config.evaluate.references or len(source), len(source))
        log(f"real images: measuring {len(chosen):,} training and {len(test):,} test images")
        view = View(
            scorer,
            real.found_in(scorer, train_images, chosen),
            real.found_in(scorer, test_images, np.arange(len(test))),
        )
        keep(view)
    return view, keep


def _about(config: Config, sources: Sequence[Source]) -> dict[str, Any]:
    """Return what features of real images depend on, besides the network's weights."""
    source = sources[0]
    about = dict(
        name=source.name,
        splits=[each.split for each in sources],
        images=[len(each) for each in sources],
        # Only for sources that identify an example without decoding it, so that this stays quick.
        data=[identity.of(s) if hasattr(s, "identify") else None for s in sources],
        image_shape=source.image_shape,
        references=min(config.evaluate.references or len(source), len(source)),
    )
    return json.loads(json.dumps(about))  # tuples become lists, as in the file


def _kept(path, folder, about: dict[str, Any], wanted: Recipe) -> View | None:
    """Return the contents of an earlier evaluation's files; None if they do not fit."""
    try:
        scorer = features.Scorer.load(path, recipe=wanted)
    except features.Unusable:
        return None
    view = real.load(folder / NAME, about, scorer)
    # It is someone else's file, because such a network would not have written it.
    if view is not None and view.real.width != wanted.features:
        return None
    return view
