"""The sections of what scores images: how they are judged, and which settings are compared."""

import dataclasses

from sg_jax.config import tuples
from sg_jax.config.training import MOST_IMAGES
from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import SettingError, Settings, setting
from sg_jax.method.guidance import WEAK_LABELS

LAYOUTS = ("", "geneval", "hpsv3")  # of images for other scorers; see `evaluation.prompted`


@dataclasses.dataclass(frozen=True)
class Features(Recipe):
    """The network whose hidden layer measures images: how to train it, and where to keep it."""

    SECTION = "config.features"

    path: str = setting("", ".npz file that runs share; empty: the run's own classifier.npz")


@dataclasses.dataclass(frozen=True)
class Evaluate(Settings):
    """What --mode evaluate scores."""

    SECTION = "config.evaluate"

    guidance: tuple = setting(("unguided", "cfg", "sg"), "guidance settings", rule=tuples.names)
    samples: int = setting(1000, "images per setting and seed", low=10, high=MOST_IMAGES)
    seeds: tuple = setting((), "of noise and token ids; empty: config.seed", rule=tuples.seeds)
    step: int = setting(0, "which checkpoint; 0: the latest, -1: the best", low=-1)
    images: str = setting(
        "", "data set that decoded latents are compared with; empty: the one they were made from"
    )
    references: int = setting(0, "real images to compare with; 0: all", rule=tuples.references)
    reference: str = setting(
        "", ".npz file of the real images, such as ADM's; empty: those of the data"
    )
    metrics: tuple = setting(
        (), "which ones; empty: all of the data's own classifier", rule=tuples.metrics
    )
    network: str = setting(
        "",
        "whose features precision, recall, kid and mind use; empty: what other metrics use",
        options=("", "classifier", "inception", "dinov2"),
    )
    inception: str = setting("", "file of Inception's weights; empty: the usual place")
    dinov2: str = setting("", "file of DINOv2's weights; empty: the usual place")
    dinov2_dtype: str = setting(
        "float32", "type that DINOv2 computes in", options=("float32", "bfloat16")
    )
    labels: str = setting(
        "balanced", "classes in turn, or drawn uniformly", options=("balanced", "uniform")
    )
    keep: str = setting(
        "", "keep all images: as PNG files, or as ADM's .npz too", options=("", "png", "npz")
    )
    published: str = setting("", "published figures to show alongside", options=("", "table3"))
    columns: int = setting(10, "classes shown in the picture", low=1, high=1000)


@dataclasses.dataclass(frozen=True)
class Sweep(Settings):
    """The grid that --mode sweep scores; a cell is one guidance setting."""

    SECTION = "config.sweep"

    gamma_strong: tuple = setting((0.0, 0.25, 0.5, 0.75), "rates", rule=tuples.numbers_in(0, 1))
    gamma_weak: tuple = setting((0.0, 0.25, 0.5, 0.75, 0.9), "rates", rule=tuples.numbers_in(0, 1))
    scale: tuple = setting((1.25, 1.5, 1.75, 2.0), "omegas", rule=tuples.numbers_in(0))
    weak_label: str = setting("same", "condition of the weak prediction", options=WEAK_LABELS)
    samples: int = setting(1000, "images per cell", low=10, high=MOST_IMAGES)


@dataclasses.dataclass(frozen=True)
class Tune(Settings):
    """What --mode tune searches, and how it scores what it finds."""

    SECTION = "config.tune"

    methods: tuple = setting(
        (),
        "methods of guidance, see method/candidates.py, or 'all'; empty: the usual ones that the "
        "network can run",
        rule=tuples.methods,
    )
    settings: int = setting(12, "settings of each method to try at each budget", low=1)
    candidates: tuple = setting(
        (),
        "((method, (setting, ...)), ...): the guidance settings to try instead of the table's, of "
        "this or a new method; '...' at the end: and then the table's",
        rule=tuples.candidates,
    )
    budgets: tuple = setting(
        (1.0, 1.35, 2.0),
        "costs of an image, as multiples of config.sample.steps steps without guidance",
        rule=tuples.numbers_in(0.01, 1000),
    )
    metric: str = setting(
        "",
        "metric to choose settings by; empty: fid, frechet, fd_dinov2, mind or kid, the first that "
        "is measured",
        options=("", *tuples.METRICS),
    )
    samples: int = setting(300, "images per setting and seed", low=10, high=MOST_IMAGES)
    seeds: tuple = setting(
        (0, 10, 11), "seeds to choose settings with; one is too few", rule=tuples.some_seeds
    )
    report_samples: int = setting(
        1000, "images per chosen setting and seed", low=10, high=MOST_IMAGES
    )
    report_seeds: tuple = setting(
        (1, 2, 3, 4, 5), "seeds to score the chosen settings with", rule=tuples.some_seeds
    )

    winners: str = setting("", "a tuned run: its best settings are scored here, without a search")

    def unread(self) -> dict[str, str]:
        reason = f"the settings come from winners={self.winners!r}"
        return {"settings": reason, "candidates": reason} if self.winners else {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if both := sorted(set(self.seeds) & set(self.report_seeds)):
            rule = (
                f"must not share a seed with config.tune.seeds={self.seeds}: with {both[0]}, a "
                "setting would be scored on the images it was chosen by."
            )
            raise SettingError(self.SECTION, "report_seeds", self.report_seeds, rule)


@dataclasses.dataclass(frozen=True)
class Diversity(Settings):
    """What --mode diversity compares with unguided images."""

    SECTION = "config.diversity"

    guidance: tuple = setting(("cfg", "sg"), "guidance settings", rule=tuples.names)
    samples: int = setting(1000, "images per setting", low=10, high=MOST_IMAGES)


@dataclasses.dataclass(frozen=True)
class Compose(Settings):
    """The prompts that --mode compose draws, and how it scores their images."""

    SECTION = "config.compose"

    guidance: tuple = setting(
        ("unguided", "cfg", "sg", "cfg_sg"), "guidance settings", rule=tuples.names
    )
    scales: tuple = setting(
        (), "omegas that each guided setting tries; empty: only its own", rule=tuples.scales
    )
    prompts: str = setting(
        "",
        "file of prompts, one a line, or GenEval's evaluation_metadata.jsonl; empty: the shapes'",
    )
    most: int = setting(
        16, "prompts of each task on the shapes, and as many held-out ones; 0: all", low=0
    )
    samples: int = setting(4, "images per prompt and seed", low=1, high=1000)
    seeds: tuple = setting((0,), "to choose scales on", rule=tuples.some_seeds)
    report_seeds: tuple = setting(
        (1, 2, 3), "to score the chosen scales on", rule=tuples.some_seeds
    )
    keep: str = setting(
        "", "keep all images of the report in another scorer's layout", options=LAYOUTS
    )
    clip: str = setting("", "hub id or folder of a CLIP network, for its score; empty: none")

    def __post_init__(self) -> None:
        super().__post_init__()
        if both := sorted(set(self.seeds) & set(self.report_seeds)):
            rule = (
                f"must not share a seed with config.compose.seeds={self.seeds}: with {both[0]}, a "
                "scale would be scored on the images it was chosen by."
            )
            raise SettingError(self.SECTION, "report_seeds", self.report_seeds, rule)
