"""Reference files: what generated images are compared with, as ADM publishes them and as we do.

    arr_0          uint8 [M, H, W, 3], some of the real images: for precision, recall, KID and MIND
    mu, sigma      mean [2048] and covariance of Inception's pooled features, over all real images
    mu_s, sigma_s  the same for its spatial features [2023]
    dinov2/mean, dinov2/covariance, about    only in ours: DINOv2's; what it was made from (JSON)

ADM's evaluator reads both. What a file lacks is computed from its images.
"""

import dataclasses
import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from sg_jax.errors import UserError
from sg_jax.evaluation import image_sets
from sg_jax.evaluation.distances import Statistics
from sg_jax.evaluation.found import FeatureSet, Seen
from sg_jax.evaluation.image_sets import ImageSet
from sg_jax.evaluation.metrics import DINOV2, INCEPTION
from sg_jax.evaluation.reading import spread
from sg_jax.evaluation.real import KEPT, FeatureNetwork
from sg_jax.evaluation.tally import Tallies, Tally
from sg_jax.runs import files
from sg_jax.runs.progress import Progress

ABOUT = "about"
PAIRS = {  # names of a mean and a covariance, by the kind of network and what they are of
    (INCEPTION, "features"): ("mu", "sigma"),
    (INCEPTION, "spatial"): ("mu_s", "sigma_s"),
    (DINOV2, "features"): ("dinov2/mean", "dinov2/covariance"),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A reference file that was read.

    Attributes:
      path: where it is.
      moments: the statistics that it has, as in `PAIRS`.
      images: the real images in it; None if there are none.
      about: what one of our files says about itself.
    """

    path: str
    moments: Mapping[tuple[str, str], Statistics]
    images: ImageSet | None
    about: Mapping[str, Any]

    @functools.cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the file's SHA-256; this reads the whole file."""
        return digest(self.path)

    @property
    def label(self) -> str:
        """Its name and its digest."""
        return f"{files.path(self.path).name} ({self.digest})"

    def found(
        self, networks: Mapping[str, FeatureNetwork], each: Collection[str], spatial: bool
    ) -> dict[str, FeatureSet]:
        """Return what networks find in the real images, reading the images only if they are needed.

        Args:
          networks: by kind.
          each: the kinds for which the features of each image are needed.
          spatial: whether Inception's spatial features are needed.

        Raises:
          UserError: the file has neither what is needed nor images.
        """
        lacks = self.lacks(networks, each, spatial)
        computed: dict[str, FeatureSet] = {}
        if lacks and self.images is not None:
            kept = spread(KEPT, len(self.images))
            computed = look_at(
                self.images, {kind: networks[kind] for kind in lacks}, "reference", kept
            )
        found = {}
        for kind in networks:
            seen = computed.get(kind)
            statistics = self.moments.get((kind, "features"))
            places = self.moments.get((kind, "spatial"))
            if seen is not None:
                statistics, places = statistics or seen.counted, places or seen.spatial
            features = None if seen is None else seen.features
            found[kind] = FeatureSet(
                features, np.zeros(0, np.int32), None, statistics, spatial=places
            )
        return found

    def lacks(self, kinds: Iterable[str], each: Collection[str], spatial: bool) -> set[str]:
        """Return the kinds of networks that have to look at the images; see `found`.

        Raises:
          UserError: there are none.
        """
        wanted = {(kind, "features") for kind in kinds}
        wanted |= {(INCEPTION, "spatial")} if spatial else set()
        lacks = {kind for kind, what in wanted if (kind, what) not in self.moments} | set(each)
        if lacks and self.images is None:
            raise UserError(
                f"{self.path} has no images (arr_0), but {' and '.join(sorted(lacks))} would "
                "need them: precision, recall, KID and MIND need some, and so does a network "
                "whose statistics the file lacks. Leave these metrics out, or give another "
                "reference."
            )
        return lacks

    def check(self, networks: Mapping[str, Any], spatial: bool) -> None:
        """Raise if other networks or other weights made the statistics of the file.

        Args:
          networks: published ones, by kind.
          spatial: whether Inception's spatial features are needed.
        """
        for kind, made_by in self.about.get("networks", {}).items():
            if kind in networks and networks[kind].label != made_by:
                raise UserError(
                    f"{self.path} was made with {made_by}, but images are judged by "
                    f"{networks[kind].label}: give the same weights, or make the reference again."
                )
        for (kind, what), statistics in self.moments.items():
            if kind not in networks or (what == "spatial" and not spatial):
                continue
            wanted, found = networks[kind].widths[what], len(statistics.mean)
            if found != wanted:
                raise UserError(
                    f"{self.path}: {PAIRS[kind, what][0]} has {found:,} numbers, but {kind} finds "
                    f"{wanted:,} features in an image, so another network made these statistics: "
                    "give a reference of this one."
                )


def look_at(
    images: ImageSet,
    networks: Mapping[str, FeatureNetwork],
    what: str,
    kept: np.ndarray | None = None,
) -> dict[str, FeatureSet]:
    """Return what networks find in a set of images.

    Args:
      images: the set.
      networks: by kind.
      what: its name in the progress.
      kept: numbers of the images whose features are kept; all by default.
    """
    chosen = np.arange(len(images)) if kept is None else kept
    tallies = Tallies({kind: Tally(chosen, np.arange(0)) for kind in networks})

    def observe(part: np.ndarray) -> dict[str, Seen]:
        return {kind: Seen(*network.score(part)) for kind, network in networks.items()}

    return gather(images, tallies, observe, f"{what} image")


def gather(
    images: ImageSet,
    tallies: Tallies,
    observe: Callable[[np.ndarray], Mapping[str, Seen]],
    unit: str,
) -> dict[str, FeatureSet]:
    """Return the tallies of all images of a set, including the images that they already have.

    Args:
      images: the set, which has no labels.
      tallies: by kind.
      observe: returns what each network finds in images.
      unit: the unit that progress is shown in.
    """
    progress = Progress(tallies.count, len(images), 1, unit=unit)
    for part in images.batches(tallies.count):
        tallies.add(observe(part), np.zeros(len(part), np.int32))
        progress.sometimes(tallies.count)
    return tallies.results()


def read(path: str | os.PathLike) -> Reference:
    """Read a reference file; its images are read when they are needed.

    Raises:
      UserError: it is missing or damaged, has neither images nor statistics, or these do not fit.
    """
    place = files.absolute(path)
    if place.is_dir():
        raise UserError(
            f"config.evaluate.reference={os.fspath(path)!r} is a folder: give an .npz file. To "
            "compare with the images in a folder, leave it empty and give the folder as "
            "config.data.name, with config.data.image_size."
        )
    names = tuple(name for pair in PAIRS.values() for name in pair)
    parts = image_sets.small_arrays(place, (*names, ABOUT))
    about: dict[str, Any] = {}
    if ABOUT in parts:
        try:
            about = dict(json.loads(str(parts[ABOUT])))
        except (ValueError, TypeError):
            raise UserError(
                f"{place}: {ABOUT} is not that of a reference: copy it again."
            ) from None
    moments = {}
    for (kind, what), (mean, covariance) in PAIRS.items():
        if mean in parts and covariance in parts:
            count = about.get("images")
            moments[kind, what] = Statistics.from_moments(
                parts[mean], parts[covariance], count if isinstance(count, int) else None
            )
    try:
        images = image_sets.open_images(place, "reference")
    except UserError:
        if not moments:
            raise
        images = None
    return Reference(os.fspath(place), moments, images, about)


def digest(path: str | os.PathLike) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    found = hashlib.sha256()
    with files.path(path).open("rb") as file:
        while part := file.read(2**22):
            found.update(part)
    return found.hexdigest()[:16]


def write(
    path: str | os.PathLike,
    found: Mapping[str, FeatureSet],
    images: Any,
    shape: tuple[int, ...],
    about: Mapping[str, Any],
) -> epath.Path:
    """Write a reference that `read` and ADM's evaluator can read, completely or not at all.

    Args:
      path: the .npz file.
      found: what the networks found in all real images, by kind.
      images: an iterator over uint8 [b, H, W, C], as many in all as `shape` says.
      shape: shape of all images that are stored [M, H, W, C].
      about: what it was made from, as JSON values; "images" is the number of all real images.
    """
    place = files.path(path)
    with (
        files.writing(place) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for (kind, what), names in PAIRS.items():
            statistics = None
            if kind in found:
                statistics = found[kind].statistics if what == "features" else found[kind].spatial
            if statistics is not None:
                values = statistics.mean, statistics.scatter / (statistics.count - 1)
                for name, value in zip(names, values, strict=True):
                    with archive.open(f"{name}.npy", "w") as array:
                        np.lib.format.write_array(array, value, allow_pickle=False)
        with archive.open(f"{ABOUT}.npy", "w") as array:
            np.lib.format.write_array(array, np.asarray(json.dumps(about)), allow_pickle=False)
        image_sets.write(archive, images, shape)
    return place
